"""Schedules fall from free to quantized, and each map from latent weights to weights is the one that it is named after."""

from itertools import pairwise
from math import exp, inf, nan

import pytest
import torch

from hwsim.errors import ConfigError
from hwsim.fields import format_record
from hwsim.training import (
    LSBQ,
    PAR,
    Aprox,
    Asymmetric,
    BinaryRelax,
    LevelQuantizer,
    Linear,
    Parq,
    Progress,
    ProxQuant,
    Sigmoid,
    Soft,
    Uniform,
    distance,
    prox,
    squared_l2_slopes,
)
from hwsim.training.nearest import cells, nearest


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
