"""A PAR is piecewise affine with kinks at its levels, and its prox map is the brute-force minimiser."""

import random
from dataclasses import replace
from itertools import pairwise
from math import inf, nan

import pytest
import torch

from hwsim.errors import ConfigError
from hwsim.formats import Integer
from hwsim.training import (
    PAR,
    breakpoints,
    distance,
    l1_slopes,
    prox,
    squared_l2_slopes,
    stairs,
)
from hwsim.training.breakpoints import _index, columns_of, evaluate

F64 = torch.float64
TIES = ("toward_zero", "away", "lower", "upper", "even")
GRID = tuple(float(k) for k in range(5))


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


def random_par(rng: random.Random, family: str, dyadic: bool, negative: bool = False) -> PAR:
    """Dyadic ones have thresholds that are exact, so that ties are hit."""

    def number(low: float, high: float) -> float:
        return rng.randint(int(low * 8), int(high * 8)) / 8 if dyadic else rng.uniform(low, high)

    levels = [0.0]
    for _ in range(rng.randint(0, 5)):
        levels.append(levels[-1] + max(number(0.1, 1.5), 0.125))
    slopes = [number(-2 if family == "non_convex" else 0, 2) for _ in levels]
    slopes = sorted(slopes) if family == "convex" else slopes
    slopes[-1] = inf if len(levels) > 1 and rng.random() < 0.4 else abs(slopes[-1])
    other = random_par(rng, family, dyadic, negative=True) if not negative and rng.random() < 0.3 else None
    return PAR(tuple(levels), tuple(slopes), rng.choice(TIES), other)


def integral(par: PAR, w: float) -> float:
    """psi as the integral of its slopes from zero, on the side of w."""
    side = par if w >= 0 or par.negative is None else par.negative
    edges = [*side.levels, inf]
    lengths = [max(min(abs(w), high) - low, 0.0) for low, high in pairwise(edges)]
    return sum(slope * length for slope, length in zip(side.slopes, lengths, strict=True) if length)


def minimisers(par: PAR, strength: float, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each affine piece's own minimiser and all knots, (candidates, u), and how far each lies above the least objective."""
    edges = (-inf, *par.knots, inf)
    pieces = [(s, a, b) for s, (a, b) in zip(par.piece_slopes, pairwise(edges), strict=True) if abs(s) < inf]
    found = torch.stack([(u - strength * s).clamp(a, b) for s, a, b in pieces] + [torch.full_like(u, q) for q in par.knots])
    energies = torch.stack([energy(par, strength, u, w) for w in found])
    return found, energies - energies.amin(0)


def energy(par: PAR, strength: float, u: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return strength * par.value(w) + (w - u).square() / 2


class TestProx:
    @pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.large)])
    @pytest.mark.parametrize("dyadic", [False, True])
    @pytest.mark.parametrize("family", ["convex", "quasi_convex", "non_convex"])
    def test_is_the_brute_force_minimiser_of_random_regularizers_ties_included(
        self, family: str, dyadic: bool, count: int
    ) -> None:
        rng = random.Random(f"{family} {count}")
        for _ in range(count):
            par, strength = random_par(rng, family, dyadic), max(rng.randint(0, 24) / 8, 0.125)
            u = torch.cat([torch.linspace(-6, 6, 97, dtype=F64), doubles(*breakpoints(par, strength).thresholds)])
            w, (found, above) = prox(u, par, strength), minimisers(par, strength, u)
            assert float((energy(par, strength, u, w) - energy(par, strength, u, found).amin(0)).max()) <= 1e-12, (par, strength)
            assert float(torch.where(above <= 1e-12, (found - w).abs(), inf).amin(0).max()) <= 1e-12, (par, strength)

    @pytest.mark.parametrize("family", ["convex", "quasi_convex", "non_convex"])
    def test_is_nowhere_above_the_least_of_a_fine_grid(self, family: str) -> None:
        rng, grid = random.Random(family), torch.linspace(-7, 7, 2801, dtype=F64)
        for _ in range(30):
            par, strength = random_par(rng, family, False), rng.uniform(0.1, 3)
            heights = doubles(*(integral(par, w) for w in grid.tolist()))
            for u in (rng.uniform(-6, 6) for _ in range(20)):
                w = float(prox(doubles(u), par, strength))
                reached = strength * integral(par, w) + (w - u) ** 2 / 2
                assert reached <= float((strength * heights + (grid - u).square() / 2).min()) + 1e-12, (par, strength, u)

    @pytest.mark.parametrize("size", [100, 5000])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_writes_where_it_is_told_and_in_place_in_every_precision(self, dtype: torch.dtype, size: int) -> None:
        par, u = PAR((0, 0.5, 1.5), (0.25, 1, inf)), torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype)
        expected = prox(u, par, 0.5)
        half = dtype.itemsize == 2
        assert torch.equal(expected, prox(u.float(), par, 0.5).to(dtype)) if half else expected.dtype is dtype
        out = torch.empty_like(u)
        assert prox(u, par, 0.5, out=out) is out
        assert torch.equal(out, expected)
        given = u.clone()
        assert prox(given, par, 0.5, out=given) is given
        assert torch.equal(given, expected)
        rows, strengths = u.reshape(4, -1).clone(), torch.full((4,), 0.5)
        prox(rows, par, strengths, out=rows)
        assert torch.equal(rows.flatten(), expected)

    @pytest.mark.parametrize("ties", TIES)
    def test_takes_the_declared_one_of_the_minimisers_of_random_regularizers_that_tie_exactly(self, ties: str) -> None:
        rng, seen, u = random.Random(ties), 0, torch.linspace(-6, 6, 769, dtype=F64)
        for _ in range(160):
            par, strength = replace(random_par(rng, "non_convex", True), ties=ties), rng.randint(1, 24) / 8
            found, above = minimisers(par, strength, u)
            low, high = (torch.where(above == 0, found, far) for far in (inf, -inf))
            tied = low.amin(0) < high.amax(0)
            w, (near, far) = prox(u, par, strength), (low.abs().amin(0), high.nan_to_num(0.0, neginf=0.0).abs().amax(0))
            expected = {
                "lower": (w, low.amin(0)),
                "upper": (w, high.amax(0)),
                "toward_zero": (w.abs(), near),
                "away": (w.abs(), far),
            }
            taken, declared = expected.get(ties, (w, w))
            assert torch.equal(taken[tied], declared[tied]), (par, strength)
            assert bool(((above == 0) & (found == w)).any(0)[tied].all()), (par, strength)
            if ties == "even":
                odd = [bool(_index(v, par) % 2) and _index(a, par) % 2 != _index(b, par) % 2
                       for v, a, b in zip(*(t[tied].tolist() for t in (w, low.amin(0), high.amax(0))), strict=True)]  # fmt: skip
                assert not any(odd), (par, strength)
            seen += int(tied.sum())
        assert seen > 100

    def test_is_monotone_and_for_convex_regularizers_not_expansive(self) -> None:
        rng, u = random.Random(1), torch.linspace(-6, 6, 4001, dtype=F64)
        for family in ("convex", "quasi_convex", "non_convex"):
            for _ in range(50):
                steps = prox(u, random_par(rng, family, False), 0.7).diff()
                assert float(steps.min()) >= -1e-14
                assert family != "convex" or float((steps - u.diff()).max()) <= 1e-14

    def test_of_convex_regularizers_is_the_sum_of_clipped_ramps(self) -> None:
        par, strength, u = PAR((0, 0.3, 1, 2.5), (0.1, 0.4, 0.9, 2)), 0.8, torch.linspace(-7, 7, 999, dtype=F64)
        ramps = sum(
            (u.abs() - strength * a - q).clamp(0, r - q) for a, (q, r) in zip(par.slopes, pairwise(par.levels), strict=False)
        )
        ramps = ramps + (u.abs() - strength * 2 - 2.5).clamp(min=0)
        torch.testing.assert_close(prox(u, par, strength), u.sign() * ramps, rtol=0, atol=1e-14)

    @pytest.mark.parametrize(
        ("tau", "expected"),
        [(0.5, lambda v: torch.where(v <= v.floor() + 0.5, v.floor(), torch.where(v <= v.floor() + 0.75, v - 0.5, v))),
         (1.5, lambda v: (v - 0.25).floor().clamp(min=0))],
    )  # fmt: skip
    def test_of_stairs_is_the_known_closed_form(self, tau: float, expected) -> None:  # type: ignore[no-untyped-def]
        v = torch.linspace(0.011, 3.9, 301, dtype=F64)
        torch.testing.assert_close(prox(v, stairs(GRID), tau), expected(v), rtol=0, atol=1e-12)

    def test_of_the_distance_moves_towards_the_nearest_level(self) -> None:
        u, q = torch.linspace(-3.2, 3.3, 301, dtype=F64), torch.linspace(-3.2, 3.3, 301, dtype=F64).round()
        expected = q + (u - q).sign() * ((u - q).abs() - 0.3).clamp(min=0)
        torch.testing.assert_close(prox(u, distance(GRID), 0.3), expected, rtol=0, atol=1e-14)

    @pytest.mark.parametrize(
        ("ties", "expected"),
        [("toward_zero", [-1.0, 0.0, 0.0, 1.0]), ("away", [-2.0, -1.0, 1.0, 2.0]), ("lower", [-2.0, -1.0, 0.0, 1.0]),
         ("upper", [-1.0, 0.0, 1.0, 2.0]), ("even", [-2.0, 0.0, 0.0, 2.0])],
    )  # fmt: skip
    def test_takes_the_declared_side_of_a_tie(self, ties: str, expected: list[float]) -> None:
        assert prox(doubles(-1.5, -0.5, 0.5, 1.5), distance(GRID, ties), 1.0).tolist() == expected  # type: ignore[arg-type]
        assert prox(torch.tensor([-1.5, -0.5, 0.5, 1.5]), distance(GRID, ties), 1.0).tolist() == expected  # type: ignore[arg-type]

    def test_keeps_nan_clips_infinities_at_an_infinite_slope_and_takes_the_sign_off_zero(self) -> None:
        clipped, free = PAR((0, 1), (0.5, inf)), PAR((0, 1), (0.5, 1.0))
        w = prox(doubles(nan, inf, -inf, -0.0), clipped, 1.0)
        assert w[0].isnan()
        assert w[1:].tolist() == [1.0, -1.0, 0.0]
        assert not torch.signbit(w[3])
        assert prox(doubles(inf, -inf), free, 1.0).tolist() == [inf, -inf]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("strength", [0.0, 0.3, 0.5, 0.8])
    @pytest.mark.parametrize(
        "par",
        [PAR(tuple(range(20)), (*(0.5 * k + 0.5 for k in range(19)), inf)),
         PAR(tuple(range(20)), tuple(0.5 * k + 0.5 for k in range(20))),
         PAR((0, 0.5, 1, 1.5, 2, 2.5), (1, 1.5, 2, 2.5, 3, 3.7)),
         PAR((0, 0.3, 1, 1.4), (0.1, 0.2, 0.25, inf)), PAR((0, 1), (1, 1), negative=PAR((0, 2), (0, inf))), distance(GRID),
         stairs(GRID), PAR(tuple(0.1 * k for k in range(20)), l1_slopes(range(20))),
         PAR.on_format(Integer(6, symmetric=True), 0.037, squared_l2_slopes),
         PAR(tuple(0.07 * k for k in range(40)), tuple(0.3 * k + 0.075 for k in range(40))),
         PAR(tuple(0.07 * k for k in range(40)), tuple(0.3 * k + 0.1 for k in range(40)))],
    )  # fmt: skip
    def test_has_the_same_bits_on_the_kernels_as_on_torch(self, par: PAR, strength: float, dtype: torch.dtype) -> None:
        u = 3 * torch.randn(5000, generator=torch.Generator().manual_seed(0), dtype=dtype)
        u = torch.cat([u, torch.tensor([nan, inf, -inf, -0.0, 0.0], dtype=dtype)])
        expected = evaluate(u[None], *columns_of([breakpoints(par, strength)], u))[0]
        assert torch.equal(prox(u, par, strength).nan_to_num(7.0), expected.nan_to_num(7.0))

    @pytest.mark.parametrize("par", [PAR((0, 1, 2), (0.5, 1, inf)), distance(GRID)])
    def test_takes_one_strength_a_problem(self, par: PAR) -> None:
        u, strengths = torch.randn(3, 50, dtype=F64), doubles(0.1, 0.5, 2)
        rows = [prox(row, par, float(t)) for row, t in zip(u, strengths, strict=True)]
        torch.testing.assert_close(prox(u, par, strengths), torch.stack(rows), rtol=0, atol=1e-15)

    @pytest.mark.parametrize("strength", [-1.0, nan, inf])
    def test_refuses_a_strength_that_is_none(self, strength: float) -> None:
        with pytest.raises(ConfigError, match=r"prox strength: got .*; allowed: a finite number >= 0"):
            prox(doubles(1.0), PAR((0, 1), (1, 2)), strength)

    def test_refuses_strengths_of_another_shape(self) -> None:
        with pytest.raises(ConfigError, match=r"got shape \(3,\); allowed: one number, or shape \(2,\)"):
            prox(torch.zeros(2, 4), PAR((0, 1), (1, 2)), torch.ones(3))


class TestRecord:
    @pytest.mark.parametrize(
        ("levels", "slopes", "message"),
        [
            ((0, 2, 1), (1, 1, 1), r"levels\[1\], levels\[2\]: got 2.0, 1.0 in this order; allowed: finite levels that ascend"),
            ((0, 1, 1), (1, 1, 1), r"levels\[1\], levels\[2\]: got 1.0, 1.0 twice"),
            ((0, inf), (1, 1), r"levels\[0\], levels\[1\]: got 0.0, inf"),
            ((1, 2), (1, 1), r"levels: got \(1.0,\); allowed: magnitudes that begin with 0"),
            ((), (), r"levels: got none"),
            ((0, 1), (1,), r"slopes: got 1 slopes for 2 levels; allowed: one a level"),
            ((0, 1), (nan, 1), r"slopes\[0\]: got nan; allowed: finite slopes before the last"),
            ((0, 1), (inf, 1), r"slopes\[0\]: got inf"),
            ((0, 1), (1, nan), r"slopes\[1\]: got nan; allowed: a last slope >= 0, or infinity"),
            ((0, 1), (1, -1), r"slopes\[1\]: got -1.0; allowed: a last slope >= 0"),
        ],
    )
    def test_refuses_levels_and_slopes_that_make_no_regularizer(self, levels: tuple, slopes: tuple, message: str) -> None:  # type: ignore[type-arg]
        with pytest.raises(ConfigError, match=message):
            PAR(levels, slopes)

    def test_refuses_an_unknown_tie_rule_and_names_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'toward_zero'"):
            PAR((0, 1), (1, 2), "towards_zero")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("slopes", "family"),
        [
            ((0, 1, inf), "convex"),
            ((1, 1, 1), "convex"),
            ((1, 0, 1), "quasi_convex"),
            ((1, -1, 1), "non_convex"),
            ((-1, 1, 1), "non_convex"),
        ],
    )
    def test_names_its_family(self, slopes: tuple[float, ...], family: str) -> None:
        assert PAR((0, 1, 2), slopes).family == family

    def test_value_and_subgradient(self) -> None:
        par = PAR((0, 1, 2), (0.5, 2, inf))
        w = doubles(-3, -2, -1.5, 0, 0.5, 1, 2, nan)
        value, (low, high) = par.value(w), par.subgradient(w)
        assert value[:-1].tolist() == [inf, 2.5, 1.5, 0, 0.25, 0.5, 2.5]
        assert value[-1].isnan()
        assert low[1:-1].tolist() == [-inf, -2, -0.5, 0.5, 0.5, 2]
        assert high[1:-1].tolist() == [-2, -2, 0.5, 0.5, 2, inf]
        assert low[0].isnan()
        assert high[-1].isnan()

    @pytest.mark.parametrize("family", ["convex", "quasi_convex", "non_convex"])
    def test_value_and_subgradient_are_the_integral_of_the_slopes_of_each_side_and_its_one_sided_quotients(
        self, family: str
    ) -> None:
        rng = random.Random(f"sides {family}")
        for _ in range(60):
            par = replace(random_par(rng, family, True, negative=True), negative=random_par(rng, family, True, negative=True))
            edge = (
                -par.mirrored.levels[-1] if par.mirrored.slopes[-1] == inf else -9,
                par.levels[-1] if par.slopes[-1] == inf else 9,
            )
            points = [w for w in (*par.knots, *(rng.randint(-64, 64) / 8 for _ in range(30))) if edge[0] < w < edge[1]]
            # On dyadic numbers, kinks 1/8 apart at least, all of these quotients are exact.
            h = 1 / 64
            left = [(integral(par, w) - integral(par, w - h)) / h for w in points]
            right = [(integral(par, w + h) - integral(par, w)) / h for w in points]
            w = doubles(*points)
            low, high = par.subgradient(w)
            assert par.value(w).tolist() == [integral(par, w) for w in points], par
            assert low.tolist() == [min(pair) for pair in zip(left, right, strict=True)], par
            assert high.tolist() == [max(pair) for pair in zip(left, right, strict=True)], par
