"""PARs on the values of formats, and those that stand in for classical penalties within their error bounds."""

from contextlib import nullcontext
from itertools import pairwise
from math import inf, nan

import pytest
import torch

from hwsim.errors import ConfigError
from hwsim.fields import format_record
from hwsim.formats import Format, Integer
from hwsim.formats.codebook import Codebook
from hwsim.training import (
    LSBQ,
    PAR,
    GuaranteeWarning,
    distance,
    l1_slopes,
    learned_codebook,
    mcp,
    mcp_like,
    prox,
    squared_l2_slopes,
    stairs,
)

F64 = torch.float64
GRID = tuple(float(k) for k in range(5))


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


class TestOnFormats:
    @pytest.mark.parametrize(
        "fmt", [Integer(4), Integer(4, symmetric=True), Integer(3, signed=False), "fp4_e2m1", Codebook((-1.0, 0.0, 1.0)),
                Codebook((-3.0, -1.0, 1.0, 3.0)), Codebook((-1.0, -0.4, 0.0, 0.2, 0.7)), "nf4", "ternary",
                learned_codebook(LSBQ(2).levels(torch.randn(1, 64, generator=torch.Generator().manual_seed(0))))],
    )  # fmt: skip
    def test_a_strong_prox_lands_on_the_values_of_the_format_times_the_scale(self, fmt: Format | str) -> None:
        fmt = format_record(fmt)
        with nullcontext() if 0 in fmt.values() else pytest.warns(GuaranteeWarning):
            par = PAR.on_format(fmt, 0.37, squared_l2_slopes)
        values = set((fmt.values().double() * 0.37).tolist())
        w = prox(torch.linspace(-400, 400, 1001, dtype=F64), par, 100.0)
        on_a_piece = (w > par.knots[0]) & (w < par.knots[-1]) & torch.tensor([v not in values for v in w.tolist()])
        assert on_a_piece.double().mean() < 0.05
        assert {par.knots[0], par.knots[-1]} <= values | {0.0}
        assert set(par.targets) <= values

    def test_a_format_without_zero_takes_no_slope_there(self) -> None:
        binary = Codebook((-1.0, 1.0))
        with pytest.warns(GuaranteeWarning, match=r"theorem qr >= 1 - n/d .* needs a non-zero slope on every open piece") as seen:
            assert 0.0 not in PAR.on_format(binary, 1.0, l1_slopes).targets
        assert seen[0].filename == __file__
        assert PAR.on_format(binary, 1.0, (0.0, inf)).slopes == (0.0, inf)  # said by the caller: no warning
        with pytest.raises(ConfigError, match=r"got slope 1.0 at 0, which is no value of the format; allowed: 0.0 there"):
            PAR.on_format(binary, 1.0, (1.0, inf))

    @pytest.mark.parametrize("scale", [0.0, -1.0, nan, inf])
    @pytest.mark.parametrize(
        "make",
        [lambda s: PAR.on_format(Integer(4), s, l1_slopes), lambda s: PAR((0, 1), (1, 2)).scaled(s)],
        ids=["format", "par"],
    )
    def test_refuses_a_scale_that_is_not_finite_and_above_zero(self, make, scale: float) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(ConfigError, match=rf"PAR scale: got {scale}; allowed: a finite number above 0"):
            make(scale)


class TestConstructions:
    @pytest.mark.parametrize(
        "make", [lambda levels: mcp_like(levels, 3.0), stairs, distance], ids=["mcp_like", "stairs", "distance"]
    )
    @pytest.mark.parametrize(
        ("levels", "message"),
        [((), "PAR levels: got none; allowed: magnitudes that begin with 0"), ((1.0, 2.0), r"PAR levels: got \(1.0,\); allowed"),
         ((0.0, 2.0, 1.0), r"PAR levels\[1\], levels\[2\]: got 2.0, 1.0 in this order; allowed")],
    )  # fmt: skip
    def test_refuse_levels_that_are_none_of_a_regularizer(self, make, levels: tuple[float, ...], message: str) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(ConfigError, match=message):
            make(levels)

    def test_squared_l2_like_lies_above_half_the_square_by_an_eighth_of_the_squared_gap(self) -> None:
        levels, w = (0, 0.5, 0.7, 2), torch.linspace(-2, 2, 2001, dtype=F64)
        excess = PAR(levels, squared_l2_slopes(levels)).value(w) - w.square() / 2
        assert float(excess.min()) >= -1e-15
        assert float(excess.max()) <= 1.3**2 / 8 + 1e-15

    def test_l1_like_lies_between_the_norm_and_one_and_a_spread_times_it(self) -> None:
        w = torch.linspace(-6, 6, 1001, dtype=F64)
        value = PAR(GRID, l1_slopes(GRID, 0.25)).value(w)
        assert bool(((value >= w.abs() - 1e-15) & (value <= 1.25 * w.abs() + 1e-15)).all())

    def test_mcp_like_equals_mcp_plus_the_floor_at_the_levels_and_draws_to_each(self) -> None:
        par = mcp_like(GRID, 3.0, 0.05)
        torch.testing.assert_close(
            par.value(doubles(*GRID)), mcp(doubles(*GRID), 3.0) + 0.05 * doubles(*GRID), rtol=0, atol=1e-15
        )
        assert par.family == "quasi_convex"
        assert not par.has_zero_slope
        assert set(GRID[:3]) <= set(par.targets)

    @pytest.mark.parametrize("levels", [GRID, (0.0, 0.3, 0.4, 1.7, 2.9, 3.5)])
    def test_mcp_like_lies_above_mcp_by_no_more_than_its_bound_in_every_cell(self, levels: tuple[float, ...]) -> None:
        par, floor = mcp_like(levels, 3.0, 0.05), 0.05
        for low, high in pairwise(levels):
            w = torch.linspace(low, high, 101, dtype=F64)
            excess = par.value(w) - mcp(w, 3.0) - floor * w
            rise = float(mcp(doubles(high), 3.0) - mcp(doubles(low), 3.0))
            assert float(excess.min()) >= -1e-14
            assert float(excess.max()) <= rise * (1 - rise / (high - low)) + 1e-14
