"""PARQ wraps any optimizer: its limits are known methods, its schedules are normalised, and its state resumes bit for bit."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import exp, inf, nan

import pytest
import torch
import yaml
from torch import nn
from torch.nn.functional import cross_entropy

import hwsim
from hwsim.errors import ConfigError
from hwsim.fields import format_mapping, format_record
from hwsim.formats import Integer
from hwsim.training import (
    LSBQ,
    PAR,
    PARQ,
    Aprox,
    Asymmetric,
    BinaryRelax,
    FormatLevels,
    Glm,
    Hard,
    LevelQuantizer,
    Linear,
    Parq,
    Progress,
    ProxMap,
    ProxQuant,
    Sigmoid,
    Soft,
    Uniform,
    aprox,
    distance,
    learned_codebook,
    prox,
    split_parameters,
    squared_l2_slopes,
)
from hwsim.training.nearest import cells, nearest

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
Y = torch.randint(4, (64,), generator=torch.Generator().manual_seed(2))
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "adam_foreach": lambda p: torch.optim.Adam(p, lr=1e-2, foreach=True),
}


@dataclass(frozen=True)
class Constant(Linear):
    """A slope that does not move."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))


def wrapped(model: nn.Module, base: str = "sgd", prox_map: ProxMap | None = None, **options: object) -> PARQ:
    weights, others = split_parameters(model)
    quantizer = options.pop("quantizer", LSBQ(2))
    return PARQ(OPTIMIZERS[base]([{"params": weights}, {"params": others}]), [quantizer, None], prox_map, **options)  # type: ignore[list-item, arg-type]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(X), Y).backward()
        optimizer.step()


class TestSchedules:
    @pytest.mark.parametrize("center", [0.0, 0.3, 0.5, 0.7, 1.0])
    @pytest.mark.parametrize("steepness", [0.1, 1, 10, 50, 100])
    def test_fall_from_one_to_zero_for_every_centre(self, steepness: float, center: float) -> None:
        schedule = Sigmoid(10, 30, steepness, center)
        values = [schedule(t) for t in range(45)]
        assert values[:11] == [1.0] * 11
        assert values[30:] == [0.0] * 15
        assert all(0 <= b <= a <= 1 for a, b in pairwise(values))
        assert schedule._sigma(0.0) != schedule._sigma(1.0)

    @pytest.mark.parametrize(("steepness", "expected"), [(10, (0.930, 0.5, 0.070)), (20, (0.993, 0.5, 0.0067))])
    def test_have_the_released_values_at_the_quarters(self, steepness: float, expected: tuple[float, ...]) -> None:
        assert [Sigmoid(0, 4, steepness)(t) for t in (1, 2, 3)] == pytest.approx(expected, abs=5e-4)

    @pytest.mark.parametrize(
        ("make", "message"),
        [(lambda: Linear(5, 5), "got start 5 and end 5; allowed: 0 <= start < end"),
         (lambda: Sigmoid(0, 1, steepness=0), "steepness: got 0; allowed: above 0"),
         (lambda: Sigmoid(0, 1, center=2), "center: got 2; allowed: 0 to 1")],
    )  # fmt: skip
    def test_refuse_wrong_numbers(self, make, message: str) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(ConfigError, match=message):
            make()


class TestMaps:
    @pytest.mark.parametrize(("levels", "rhos"), [
        ((-3.0, -0.4, 0.4, 3.0), (1.0, 1.5, 4.0, 40.0)),
        ((-2.5, -1.0, -0.2, 0.0, 0.2, 1.0, 2.5), (1.0, 1.5, 4.0, 40.0)),
        ((-1.0, 0.0, 1.0), (2.0, 2.0**10, 2.0**20)),            # large rho: numbers on which rho u and the shifts are exact
        ((-3.0, -0.5, 0.5, 3.0), (2.0, 2.0**10, 2.0**20)),
    ])  # fmt: skip
    def test_parq_is_the_prox_map_of_a_convex_par_at_the_scaled_input(
        self, levels: tuple[float, ...], rhos: tuple[float, ...]
    ) -> None:
        u = torch.linspace(-5, 5, 1281, dtype=torch.float64)
        knots = (0.0, *(q for q in levels if q > 0))
        for rho in rhos:
            slopes = [(1 - 1 / rho) * (a + b) / 2 for a, b in pairwise(knots)]
            slopes[0] = slopes[0] if 0.0 in levels else 0.0
            expected = prox(rho * u, PAR(knots, (*slopes, inf)), rho)
            given = cells(u[None], torch.tensor([levels], dtype=torch.float64), 1 / rho)[0]
            torch.testing.assert_close(given, expected, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("seed", range(20))
    def test_parq_is_that_prox_map_on_random_levels(self, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        positive = torch.rand(1 + seed % 5, generator=draw, dtype=torch.float64).cumsum(0) + 0.05
        zero = torch.zeros(seed % 2, dtype=torch.float64)
        levels = torch.cat([-positive.flip(0), zero, positive])
        rho = float(1 + 10 * torch.rand(1, generator=draw))
        u = 4 * torch.randn(1000, generator=draw, dtype=torch.float64)
        knots = (0.0, *positive.tolist())
        slopes = [(1 - 1 / rho) * (a + b) / 2 for a, b in pairwise(knots)]
        slopes[0] = slopes[0] if len(zero) else 0.0
        expected = prox(rho * u, PAR(knots, (*slopes, inf)), rho)
        torch.testing.assert_close(cells(u[None], levels[None], 1 / rho)[0], expected, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("step", [0, 1, 2, 3])
    @pytest.mark.parametrize("temperature", [1000.0, 20.0])
    def test_soft_is_a_sigmoid_in_each_cell_that_steepens(self, temperature: float, step: int) -> None:
        levels, values = [-1.0, 0.0, 0.5, 2.0], [-3.0, -1.0, -0.9, -0.5, -0.1, 0.2, 0.25, 0.4, 0.6, 1.3, 1.9, 2.0, 7.0]
        out = torch.empty(1, len(values), dtype=torch.float64)
        soft = Soft(Linear(0, 4), temperature)
        soft(torch.tensor([values], dtype=torch.float64), torch.tensor([levels], dtype=torch.float64), Progress(step, 0.0), out)
        steepness = 1 + (temperature - 1) * step / 4

        def expected(u: float) -> float:
            if not levels[0] < u < levels[-1]:
                return min(max(u, levels[0]), levels[-1])
            low, high = next((a, b) for a, b in pairwise(levels) if a < u <= b)
            sigmoids = [1 / (1 + exp(-steepness * f)) for f in ((u - (low + high) / 2) / (high - low), 0.5)]
            return (low + high) / 2 + (high - low) * (sigmoids[0] - 0.5) / (2 * sigmoids[1] - 1)

        assert out[0].tolist() == pytest.approx([expected(u) for u in values], abs=1e-12)

    @pytest.mark.parametrize("step", [3, 4, 5, 8, 13])
    def test_proxquant_is_the_prox_map_of_the_distance_with_a_strength_that_grows_from_its_start(self, step: int) -> None:
        u, rate = 3 * torch.randn(1, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 0.06
        levels, out = torch.tensor([[-2.0, -0.75, 0.0, 0.75, 2.0]], dtype=torch.float64), torch.empty_like(u)
        ProxQuant(rate, Linear(3, 20))(u, levels, Progress(step, 0.0), out)
        expected = prox(u, distance((0.0, 0.75, 2.0)), rate * (step - 3))
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)

    def test_parq_clips_only_at_its_start_and_is_hard_at_its_end(self) -> None:
        u, levels, out = torch.linspace(-3, 3, 301)[None], torch.tensor([[-2.0, 0.5, 2.0]]), torch.empty(1, 301)
        parq = Parq(Sigmoid(5, 10))
        parq(u, levels, Progress(4, 0.0), out)
        assert torch.equal(out, u)
        parq(u, levels, Progress(5, 0.0), out)
        torch.testing.assert_close(out, u.clamp(-2, 2))
        parq(u, levels, Progress(10, 0.0), out)
        assert torch.equal(out, nearest(u, levels))

    def test_parq_keeps_a_midpoint_until_its_end(self) -> None:
        u, levels = torch.tensor([[0.5]]), torch.tensor([[0.0, 1.0]])
        assert cells(u, levels, torch.finfo(torch.float32).tiny).item() == 0.5
        assert nearest(u, levels).item() == 0.0

    def test_binary_relax_minimises_the_squared_distance_and_soft_ends_on_levels(self) -> None:
        u, levels, out = torch.tensor([[0.3, 0.8]]), torch.tensor([[0.0, 1.0]]), torch.empty(1, 2)
        BinaryRelax(Linear(0, 4))(u, levels, Progress(3, 0.0), out)
        torch.testing.assert_close(out, torch.tensor([[0.075, 0.95]]))
        Soft(Sigmoid(0, 4))(u, levels, Progress(4, 0.0), out)
        assert out.tolist() == [[0.0, 1.0]]

    @pytest.mark.parametrize("scale", [1.0, 2.0, 0.3])
    @pytest.mark.parametrize("fmt", ["ternary", "int4", "nf4", "fp4_e2m1"])
    def test_aprox_brings_the_par_onto_the_levels_of_the_row(self, fmt: str, scale: float) -> None:
        record = format_record(fmt)
        u, out = scale * torch.linspace(-10, 10, 201, dtype=torch.float64)[None], torch.empty(1, 201, dtype=torch.float64)
        par = PAR.on_format(record, 1.0, squared_l2_slopes)
        levels = record.values().double()[None] * scale
        Aprox(par, 0.5)(u, levels, Progress(0, 0.6), out)
        torch.testing.assert_close(out[0], prox(u[0], par.scaled(scale), 0.3), rtol=0, atol=1e-13)
        Aprox(par, 1e9)(u, levels, Progress(0, 1.0), out)
        nearest_levels = torch.isclose(out[0, :, None], levels[0], rtol=1e-14, atol=0).any(-1)
        assert bool(nearest_levels.all())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize(
        ("par", "quantizer"),
        [(PAR((0, 1), (1, inf)), LSBQ(2)), (PAR((0, 1), (1, 2)), Uniform(3)), (PAR((0,), (1,)), LSBQ(2)),
         (PAR((0, 1), (1, inf)), Asymmetric(3)), (distance((0.0, 1.0)), Uniform(2))],
        ids=["lsbq", "uniform", "soft_threshold", "asymmetric", "distance"],
    )  # fmt: skip
    def test_aprox_leaves_rows_of_zeros_zero_and_the_others_as_they_are_alone(
        self, par: PAR, quantizer: LevelQuantizer, dtype: torch.dtype
    ) -> None:
        u = torch.stack([torch.zeros(5, dtype=dtype), torch.linspace(-2, 2, 5, dtype=dtype)])
        levels, out, alone = quantizer.levels(u), torch.empty_like(u), torch.empty_like(u[1:])
        Aprox(par, 0.5)(u, levels, Progress(0, 8.0), out)
        Aprox(par, 0.5)(u[1:], levels[1:], Progress(0, 8.0), alone)
        assert out[0].tolist() == [0.0] * 5
        assert torch.equal(out[1:], alone)

    def test_aprox_without_levels_but_zero_is_soft_thresholding(self) -> None:
        u, out = torch.tensor([[-3.0, -0.2, 0.2, 1.0]]), torch.empty(1, 4)
        Aprox(PAR((0,), (1,)), 0.5)(u, torch.tensor([[-1.0, 1.0]]), Progress(0, 1.0), out)
        assert out.tolist() == [[-2.5, 0.0, 0.0, 0.5]]

    @pytest.mark.parametrize("strength", [-1.0, nan, inf])
    def test_aprox_refuses_a_strength_that_is_none(self, strength: float) -> None:
        with pytest.raises(ConfigError, match=r"Aprox strength: got .*; allowed: a finite number >= 0"):
            Aprox(PAR((0, 1), (1, inf)), strength)


class TestWrapper:
    @pytest.mark.parametrize("base", OPTIMIZERS)
    def test_with_the_hard_map_is_the_straight_through_estimator_bit_for_bit(self, base: str) -> None:
        model, straight = network(), network()
        train(model, optimizer := wrapped(model, base, Hard(), quantizer=LSBQ(1), period=1), 12)
        latent = OPTIMIZERS[base]([{"params": split_parameters(straight)[0]}, {"params": split_parameters(straight)[1]}])
        layers = (straight[0], straight[2])
        for step in range(12):
            latent.zero_grad()
            drawn = [w if step == 0 else sign_of(w.detach()).requires_grad_() for w in (layer.weight for layer in layers)]
            hidden = torch.relu(nn.functional.linear(X, drawn[0], layers[0].bias))
            cross_entropy(nn.functional.linear(hidden, drawn[1], layers[1].bias), Y).backward()
            for layer, w in zip(layers, drawn, strict=True):
                layer.weight.grad = w.grad
            latent.step()
        for layer, (w, u) in zip(layers, optimizer.latents(), strict=True):
            assert torch.equal(u, layer.weight)
            assert torch.equal(w, sign_of(layer.weight))

    @pytest.mark.parametrize("base", OPTIMIZERS)
    @pytest.mark.parametrize("quantizer", [LSBQ(2), Uniform(3)], ids=str)
    def test_with_the_hard_map_and_levels_of_a_period_it_is_that_estimator_too(
        self, quantizer: LevelQuantizer, base: str
    ) -> None:
        model, straight, period = network(), network(), 3
        train(model, optimizer := wrapped(model, base, Hard(), quantizer=quantizer, period=period), 8)
        latent = OPTIMIZERS[base]([{"params": split_parameters(straight)[0]}, {"params": split_parameters(straight)[1]}])
        layers, levels = (straight[0], straight[2]), []
        drawn = [layer.weight.detach().clone() for layer in layers]
        for step in range(8):
            latent.zero_grad()
            leaves = [w.clone().requires_grad_() for w in drawn]
            hidden = torch.relu(nn.functional.linear(X, leaves[0], layers[0].bias))
            cross_entropy(nn.functional.linear(hidden, leaves[1], layers[1].bias), Y).backward()
            for layer, w in zip(layers, leaves, strict=True):
                layer.weight.grad = w.grad
            latent.step()
            if step % period == 0:
                levels = [quantizer.levels(layer.weight.detach().reshape(1, -1))[0] for layer in layers]
            drawn = [nearest_by_comparison(layer.weight.detach(), q) for layer, q in zip(layers, levels, strict=True)]
        for layer, expected, (w, u) in zip(layers, drawn, optimizer.latents(), strict=True):
            assert torch.equal(u, layer.weight)
            assert torch.equal(w, expected)

    def test_with_proxquant_each_step_starts_from_the_weights_and_not_from_the_latent_ones(self) -> None:
        model, plain, schedule, rate = network(), network(), Linear(2, 7), 4e-3
        optimizer = PARQ(torch.optim.SGD(model.parameters(), lr=0.1), LSBQ(2), ProxQuant(rate, schedule), period=1)
        for step in range(9):
            train(model, optimizer, 1)
            plain.zero_grad()
            cross_entropy(plain(X), Y).backward()
            for p in plain.parameters():
                u = p.data - 0.1 * p.grad
                level = nearest_by_comparison(u, LSBQ(2).levels(u.reshape(1, -1))[0])
                moved = level + (u - level).sign() * ((u - level).abs() - rate * max(step - 2, 0)).clamp(min=0)
                p.data = level if step >= 7 else moved
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-6)
        assert all(torch.equal(u, w) for w, u in optimizer.latents())

    def test_with_the_aprox_map_it_is_aprox(self) -> None:
        """On one observation, so that the batch drawn is always the same; w starts from 0 there and here."""
        d, strength, par = 8, 1.0, PAR((0, 0.5, 1), (0.2, 0.7, inf))
        design = torch.randn(1, 1, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        glm = Glm(design, torch.tensor([[2.0]], dtype=torch.float64))
        w = nn.Parameter(torch.zeros(1, d, dtype=torch.float64))
        optimizer = PARQ(torch.optim.SGD([w], lr=0.05), Fixed((-1.0, -0.5, 0.0, 0.5, 1.0)), Aprox(par, strength))
        for t in range(1, 21):
            optimizer.zero_grad()
            glm.loss(w).backward()
            optimizer.step()
            expected = aprox(glm, par, strength, lambda _: 0.05, t).last
            torch.testing.assert_close(w.detach(), expected, rtol=0, atol=1e-12)
        assert 0 < int((w == 0).sum()) < d

    def test_draws_each_group_to_its_own_bits_with_its_own_granularity(self) -> None:
        model = network()
        groups = [{"params": [model[0].weight]}, {"params": [model[2].weight]}, {"params": [model[0].bias, model[2].bias]}]
        options = {"granularity": ["tensor", {"channel": 0}, "tensor"], "period": 2}
        optimizer = PARQ(torch.optim.SGD(groups, lr=0.1), [LSBQ(1), LSBQ(3), None], Parq(Sigmoid(0, 6)), **options)
        train(model, optimizer, 8)
        assert optimizer.levels_of(model[0].weight)[0].shape == (1, 2)
        assert optimizer.levels_of(model[2].weight)[0].shape == (4, 8)
        assert model[0].weight.unique().numel() == 2
        for row, levels in zip(model[2].weight, optimizer.levels_of(model[2].weight)[0], strict=True):
            assert bool(torch.isin(row, levels).all())
        assert model[2].weight.unique().numel() > 8
        with pytest.raises(ConfigError, match=r"levels: got a parameter of shape \(24,\) that has none"):
            optimizer.levels_of(model[0].bias)

    def test_parq_tends_to_the_straight_through_estimator_as_its_slope_falls(self) -> None:
        hard = network()
        train(hard, wrapped(hard), 8)
        distances = []
        for slope in (0.5, 0.05, 1e-6):
            soft = network()
            train(soft, wrapped(soft, prox_map=Parq(Constant(0, 1, slope))), 8)
            distances.append((hard[0].weight - soft[0].weight).abs().mean().item())
        assert distances[0] > distances[1] > distances[2] == 0

    @pytest.mark.parametrize("granularity", ["tensor", {"channel": 0}, {"channel": 1}, {"group": 8}], ids=str)
    @pytest.mark.parametrize("quantizer", [LSBQ(2), Uniform(3), FormatLevels(Integer(4))], ids=str)
    def test_ends_with_every_weight_on_the_levels_of_its_row(self, quantizer: object, granularity: object) -> None:
        model = network()
        train(model, optimizer := wrapped(model, prox_map=Parq(Sigmoid(0, 6)), quantizer=quantizer, granularity=granularity), 8)
        assert optimizer.slope == 0
        for weight, _ in optimizer.latents():
            levels, _ = optimizer.levels_of(weight)
            assert bool(torch.isin(weight, levels).all())

    @pytest.mark.parametrize("base", OPTIMIZERS)
    @pytest.mark.parametrize(
        "prox_map",
        [Hard(), Parq(Sigmoid(2, 14)), BinaryRelax(Linear(2, 14)), ProxQuant(1e-3, Linear(2, 14)), Soft(Sigmoid(2, 14)),
         Aprox(PAR((0, 1, 3), (0.5, 1, inf)), 0.3)],
        ids=lambda m: type(m).__name__,
    )  # fmt: skip
    def test_resumes_bit_for_bit(self, prox_map: ProxMap, base: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
        share = {"channel": 0} if isinstance(prox_map, Soft | Aprox) else "tensor"
        options = {"warmup": 2, "period": 4, "anneal_weight_decay": 0.5, "granularity": share}
        whole, first, second = network(), network(), network()
        train(whole, wrapped(whole, base, prox_map, **options), 16)
        train(first, optimizer := wrapped(first, base, prox_map, **options), 9)
        torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
        saved = torch.load(tmp_path / "state.pt", weights_only=True)
        second.load_state_dict(saved["model"])
        resumed = wrapped(second, base, prox_map, **options)
        resumed.load_state_dict(saved["optimizer"])
        train(second, resumed, 7)
        for a, b in zip(whole.parameters(), second.parameters(), strict=True):
            assert torch.equal(a, b)

    def test_is_the_base_optimizer_during_the_warmup(self) -> None:
        plain, model = network(), network()
        train(plain, OPTIMIZERS["sgd"](plain.parameters()), 5)
        train(model, wrapped(model, warmup=5), 5)
        assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))

    def test_updates_the_levels_once_a_period(self) -> None:
        model, seen = network(), []
        optimizer = wrapped(model, period=3)
        for _ in range(7):
            train(model, optimizer, 1)
            seen.append(optimizer.levels_of(model[0].weight)[0].clone())
        assert [torch.equal(a, b) for a, b in pairwise(seen)] == [True, True, False, True, True, False]

    def test_anneals_the_weight_decay_with_the_slope(self) -> None:
        model = network()
        optimizer = wrapped(model, prox_map=Parq(Linear(0, 4)), anneal_weight_decay=0.5)
        decays = []
        for _ in range(5):
            train(model, optimizer, 1)
            decays.append(optimizer.param_groups[0]["weight_decay"] / 1e-3)
        assert decays == pytest.approx([1.0, 0.875, 0.75, 0.625, 0.5])
        assert optimizer.param_groups[1]["weight_decay"] == 1e-3

    def test_serves_schedulers_clipping_and_closures_as_any_optimizer(self) -> None:
        model = network()
        optimizer = wrapped(model)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        assert {p for g in optimizer.param_groups for p in g["params"]} == set(model.parameters())

        def closure() -> float:
            optimizer.zero_grad()
            loss = cross_entropy(model(X), Y)
            loss.backward()
            nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
            return loss.item()

        assert optimizer.step(closure) > 0
        scheduler.step()
        assert optimizer.base.param_groups[0]["lr"] == 0.05

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda b: PARQ("sgd", LSBQ(2)), "base: got str; allowed: a torch optimizer"),
            (
                lambda b: PARQ(torch.optim.LBFGS(b.param_groups[0]["params"]), LSBQ(2)),
                "base: got LBFGS, whose step needs a closure; allowed: an optimizer that steps on gradients already there",
            ),
            (lambda b: PARQ(b, LSBQ(2), period=0), "got warmup 0, period 0.*allowed: warmup >= 0, period >= 1"),
            (lambda b: PARQ(b, [LSBQ(2), LSBQ(1)]), "quantizer: got 2 for 1 parameter groups; allowed: one, or one a group"),
            (lambda b: PARQ(b, [None]), "got None for every group; allowed: a quantizer for at least one"),
            (lambda b: PARQ(b, LSBQ(2), granularity="row"), "granularity: got 'row'; allowed: 'tensor'"),
            (
                lambda b: PARQ(torch.optim.SGD([{"params": []}, *b.param_groups], lr=1), LSBQ(2)),
                "group 0: got no parameters that take",
            ),
        ],
    )
    def test_refuses_what_it_cannot_wrap(self, make, message: str) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(ConfigError, match=message):
            make(torch.optim.SGD(network().parameters(), lr=0.1))

    def test_refuses_groups_that_do_not_divide(self) -> None:
        model = network()
        with pytest.raises(ConfigError, match=r"got group 5 for shape \(24, 16\); allowed: a divisor of the last axis"):
            train(model, wrapped(model, granularity={"group": 5}), 1)

    def test_refuses_a_foreign_state(self) -> None:
        optimizer = wrapped(network())
        with pytest.raises(ConfigError, match="got one without its part, or of other groups"):
            optimizer.load_state_dict(optimizer.base.state_dict())

    @pytest.mark.parametrize(
        ("layers", "granularity", "message"),
        [((16, 20), "tensor", r"PARQ state of group 0: got weights of shapes \[\(20, 16\)\]; allowed: \[\(24, 16\)\]"),
         ((16, 24), {"channel": 0}, r"PARQ state of group 0: got levels of \[24\] rows; allowed: \[1\], as the granularity has")],
    )  # fmt: skip
    def test_refuses_the_state_of_other_weights_or_rows_and_stays_as_it_was(
        self, layers: tuple[int, int], granularity: object, message: str
    ) -> None:
        def optimizer_of(model: nn.Module, share: object) -> PARQ:
            return PARQ(torch.optim.SGD(model.parameters(), lr=0.1), LSBQ(2), granularity=share)

        other, model = nn.Linear(*layers, bias=False), nn.Linear(16, 24, bias=False)
        for p in (other.weight, model.weight):
            p.grad = torch.ones_like(p)
        theirs, ours = optimizer_of(other, granularity), optimizer_of(model, "tensor")
        theirs.step()
        before = ours.state_dict()["parq"]["groups"][0]["latents"][0].clone()
        with pytest.raises(ConfigError, match=message):
            ours.load_state_dict(theirs.state_dict())
        assert ours.steps_done == 0
        assert torch.equal(ours.state_dict()["parq"]["groups"][0]["latents"][0], before)


@dataclass(frozen=True)
class Fixed:
    """The same levels for every row."""

    values: tuple[float, ...]

    def levels(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.new_tensor(self.values).expand(len(rows), -1)


def nearest_by_comparison(w: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """The level above whose lower midpoint a weight lies, and not above the upper one."""
    result = levels[0].expand_as(w).clone()
    for low, high in pairwise(levels):
        result = torch.where(w > (low + high) / 2, high, result)
    return result


def sign_of(w: torch.Tensor) -> torch.Tensor:
    scale = w.abs().mean()
    return torch.where(w > 0, scale, -scale)


def test_weights_are_the_matrices_of_layers_and_not_embeddings_norms_or_biases() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.attention = nn.Embedding(5, 8), nn.MultiheadAttention(8, 2)
            self.norm, self.memory, self.head = nn.LayerNorm(8), nn.LSTM(8, 3), nn.Linear(8, 5, bias=False)
            self.head.weight = self.embedding.weight

    model = Net()
    names = {id(p): name for name, p in model.named_parameters()}
    weights, others = split_parameters(model)
    assert {names[id(w)] for w in weights} == {
        "embedding.weight", "attention.in_proj_weight", "attention.out_proj.weight", "memory.weight_ih_l0", "memory.weight_hh_l0",
    }  # fmt: skip
    assert len(weights) + len(others) == len(names)
    assert "attention.in_proj_weight" not in {names[id(w)] for w in split_parameters(model, ["attention"])[0]}


def test_the_levels_that_a_run_learned_are_a_codebook_in_yaml() -> None:
    model = network()
    train(model, optimizer := wrapped(model, prox_map=Parq(Sigmoid(0, 6)), quantizer=LSBQ(3)), 8)
    weight = model[0].weight
    levels, _ = optimizer.levels_of(weight)
    learned = learned_codebook(levels)
    written = yaml.safe_dump(format_mapping(learned))
    fmt = hwsim.format(yaml.safe_load(written))
    assert fmt == learned
    assert fmt.bits == 3
    assert torch.equal(hwsim.quantize(weight.detach(), fmt), weight)
    with pytest.raises(ConfigError, match=r"levels: got shape \(24, 8\); allowed: one row"):
        learned_codebook(torch.zeros(24, 8))
