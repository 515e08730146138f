"""LSQ, PACT, DoReFa and AdaRound do what their papers say, forward and backward."""

import pytest
import torch
from torch.nn.functional import linear

from hwsim.errors import ConfigError
from hwsim.training import LSQ, PACT, AdaRound, dorefa_activation, dorefa_gradient, dorefa_weight, fit_rounding

DRAW = torch.Generator()


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=DRAW.manual_seed(0), dtype=torch.float64)


class TestLSQ:
    def test_rounds_on_its_step_and_takes_the_papers_gradients(self) -> None:
        v = torch.tensor([-9.0, -0.6, 0.2, 0.5, 3.1, 9.0], dtype=torch.float64, requires_grad=True)
        lsq = LSQ(v, 3)
        with torch.no_grad():
            lsq.step.fill_(0.5)
        y = lsq(v)
        assert y.tolist() == [-2.0, -0.5, 0.0, 0.5, 1.5, 1.5]
        y.sum().backward()
        inside = (torch.tensor([-1.0 + 1.2, 0.0 - 0.4, 0.0])).sum()
        assert v.grad is not None
        assert v.grad.tolist() == [0, 1, 1, 1, 0, 0]
        assert float(lsq.step.grad) == pytest.approx((float(inside) - 4 + 3 + 3) / (6 * 3) ** 0.5)  # type: ignore[arg-type]

    def test_starts_at_twice_the_mean_over_the_root_of_the_top(self) -> None:
        v = normal(50)
        assert LSQ(v, 4).step.item() == pytest.approx(float(2 * v.abs().mean() / 7**0.5))

    @pytest.mark.parametrize(("bits", "signed", "count"), [(1, True, 3), (2, True, 4), (3, True, 8), (2, False, 4)])
    def test_levels_are_all_values_that_it_rounds_to(self, bits: int, signed: bool, count: int) -> None:
        lsq, v = LSQ(normal(200), bits, signed), 10 * normal(200)
        assert lsq.levels().tolist() == sorted({*(x + 0.0 for x in lsq(v).tolist()), *(x + 0.0 for x in lsq(v / 10).tolist())})
        assert len(lsq.levels()) == count

    def test_of_one_bit_without_zero_is_the_sign_times_its_step_with_the_same_gradients(self) -> None:
        v = torch.tensor([-9.0, -0.6, -1e-45, 0.0, 0.2, 3.1], dtype=torch.float64, requires_grad=True)
        lsq = LSQ(v, 1, zero=False)
        assert lsq.step.item() == v.detach().abs().mean().item()
        with torch.no_grad():
            lsq.step.fill_(0.5)
        y = lsq(v)
        assert y.tolist() == [-0.5, -0.5, -0.5, 0.5, 0.5, 0.5]
        y.sum().backward()
        assert v.grad is not None
        assert v.grad.tolist() == [0, 0, 1, 1, 1, 0]
        # Outside -1 or 1; inside the sign less v / s.
        assert float(lsq.step.grad) == pytest.approx((-1 - 1 - 1 + 1 + (1 - 0.4) + 1) / 6**0.5)  # type: ignore[arg-type]
        assert lsq.levels().tolist() == [-0.5, 0.5]
        assert bool(lsq(torch.tensor([torch.nan])).isnan())

    def test_of_one_bit_without_zero_starts_at_the_step_of_least_squared_error(self) -> None:
        v = normal(200)
        lsq = LSQ(v, 1, zero=False)
        best = lsq.step.item()
        errors = [float((v.abs() - factor * best).square().sum()) for factor in (0.99, 1.0, 1.01)]
        assert errors[1] == min(errors)
        assert float((lsq(v).detach() - v).square().sum()) == pytest.approx(errors[1])

    @pytest.mark.parametrize(("bits", "signed"), [(2, True), (1, False)])
    def test_refuses_other_values_without_zero(self, bits: int, signed: bool) -> None:
        with pytest.raises(ConfigError, match=r"LSQ without zero: got \d (un)?signed bits; allowed: 1 signed bit"):
            LSQ(normal(3), bits, signed, zero=False)

    def test_refuses_too_many_bits(self) -> None:
        with pytest.raises(ConfigError, match="LSQ bits: got 9; allowed: a whole number from 1 to 8"):
            LSQ(normal(3), 9)


def test_pact_clips_at_alpha_whose_gradient_counts_what_is_clipped() -> None:
    pact, x = PACT(2, 3.0), torch.tensor([-1.0, 0.4, 1.6, 3.0, 7.0], requires_grad=True)
    y = pact(x)
    assert y.tolist() == [0.0, 0.0, 2.0, 3.0, 3.0]
    y.sum().backward()
    assert float(pact.alpha.grad) == 2.0  # type: ignore[arg-type]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 0, 0]


class TestDoReFa:
    @pytest.mark.parametrize("bits", [2, 3, 4])
    def test_weights_lie_on_the_uniform_grid_from_minus_one_to_one(self, bits: int) -> None:
        steps = (dorefa_weight(normal(200), bits) + 1) / 2 * (2**bits - 1)
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-12)
        assert steps.max().round() == 2**bits - 1

    @pytest.mark.parametrize("bits", [1, 2, 3, 4])
    def test_weights_that_are_all_zero_are_what_a_zero_is_among_others(self, bits: int) -> None:
        among = dorefa_weight(torch.tensor([0.0, 1e-30, -1e-30]), bits)[0] if bits > 1 else torch.tensor(0.0)
        assert dorefa_weight(torch.zeros(3), bits).tolist() == [among.item()] * 3

    def test_one_bit_is_the_mean_with_the_sign(self) -> None:
        w = torch.tensor([0.5, -1.5, 0.0])
        torch.testing.assert_close(dorefa_weight(w, 1), torch.tensor([2 / 3, -2 / 3, 2 / 3]))

    def test_activations_are_clipped_to_the_unit_interval(self) -> None:
        assert dorefa_activation(torch.tensor([-1.0, 0.4, 2.0]), 1).tolist() == [0.0, 0.0, 1.0]

    def test_gradients_are_quantized_without_bias(self) -> None:
        x, target = (
            torch.zeros(2000, 3, dtype=torch.float64, requires_grad=True),
            torch.tensor([1.0, 0.3, -0.45], dtype=torch.float64),
        )
        (dorefa_gradient(x, 2, DRAW.manual_seed(0)) * target).sum().backward()
        assert x.grad is not None
        assert x.grad.unique().numel() <= 4
        torch.testing.assert_close(x.grad.mean(0)[1:], target[1:], rtol=0, atol=0.03)


class TestAdaRound:
    def test_starts_at_the_weight_itself(self) -> None:
        w = normal(6, 4)
        torch.testing.assert_close(AdaRound(w, torch.tensor(0.3, dtype=torch.float64), -50, 50)().detach(), w, rtol=0, atol=1e-12)

    def test_beats_rounding_to_nearest_on_correlated_inputs(self) -> None:
        w, scale = normal(8, 16), torch.tensor(0.7, dtype=torch.float64)
        inputs = normal(256, 4) @ normal(4, 16) + 0.1 * normal(256, 16)
        outputs = inputs @ w.T
        learned = fit_rounding(AdaRound(w, scale, -7, 7), linear, inputs, outputs, iterations=150, lr=0.05)
        nearest = (w / scale).round().clamp(-7, 7) * scale
        steps = learned / scale
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-12)
        assert (inputs @ learned.T - outputs).square().mean() < (inputs @ nearest.T - outputs).square().mean()

    def test_refuses_a_scale_that_is_not_positive(self) -> None:
        with pytest.raises(ConfigError, match="AdaRound scale: got a value that is not above 0"):
            AdaRound(normal(2, 2), torch.tensor(0.0), -1, 1)
