"""Levels: optimal ones equal an exhaustive search, every set ascends, and each defect of the released codes is absent."""

from itertools import combinations

import pytest
import torch

from hwsim.errors import ConfigError
from hwsim.formats import Integer
from hwsim.formats.codebook import Codebook
from hwsim.training import LSBQ, Asymmetric, FormatLevels, LevelQuantizer, Ternary, Uniform
from hwsim.training.nearest import cells, nearest

ALL = [LSBQ(1), LSBQ(2), LSBQ(4), LSBQ(2, optimal=True), Uniform(1), Uniform(3), Uniform(3, "max", zero=True), Ternary(),
       Ternary(optimal=True), Asymmetric(3), FormatLevels(Integer(4)), FormatLevels(Integer(3), "power_of_two"),
       FormatLevels(Codebook((-1.0, -0.3, 0.0, 0.5)), "mse")]  # fmt: skip


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


EDGES = [
    torch.tensor([w], dtype=d)
    for d in (torch.float64, torch.float32)
    for w in ([0.7], [-0.7], [0.3, -1.1], [2.0, 2.0], [0.0, 0.0], [1.0, -1.0, 1.0, -1.0], [0.5, 0.5, 0.5, 2.0, -2.0, 2.0])
]
SAMPLES = [rows(1, 8, seed=seed) for seed in range(5)] + [rows(1, 8, seed=seed).float() for seed in (5, 6)] + EDGES  # fmt: skip


def tolerance(w: torch.Tensor) -> float:
    return 1e-14 if w.dtype is torch.float64 else 1e-5


def error(w: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    return (nearest(w, levels) - w).square().sum(-1)


@pytest.mark.parametrize("quantizer", ALL, ids=str)
class TestEveryQuantizer:
    def test_makes_levels_that_ascend_for_each_row_alone(self, quantizer: LevelQuantizer) -> None:
        w = rows(3, 100) * torch.tensor([[1.0], [10.0], [0.1]], dtype=torch.float64)
        levels = quantizer.levels(w)
        assert bool((levels.diff(dim=-1) >= 0).all())
        torch.testing.assert_close(quantizer.levels(w[1:2]), levels[1:2], rtol=1e-14, atol=0)

    def test_survives_rows_of_zeros(self, quantizer: LevelQuantizer) -> None:
        assert bool(quantizer.levels(torch.zeros(2, 8)).isfinite().all())


@pytest.mark.parametrize("w", SAMPLES, ids=lambda w: f"{w.dtype} {[round(x, 1) for x in w[0].tolist()]}")
class TestOptimalLevels:
    def test_of_one_bit_are_the_mean_which_no_other_scale_beats(self, w: torch.Tensor) -> None:
        scales = torch.linspace(0, 3, 301, dtype=w.dtype)
        least = min(float(error(w, torch.stack([-v, v])[None])) for v in scales)
        assert float(error(w, LSBQ(1, optimal=True).levels(w))) <= least + tolerance(w)

    def test_of_two_bits_equal_the_exhaustive_search_over_all_assignments(self, w: torch.Tensor) -> None:
        """Each weight one of +-v_1 +- v_2: its sign is free, so that its magnitude goes to one of two means, 2^8 ways in all."""
        magnitudes, errors = w.abs().flatten(), []
        for number in range(2 ** len(magnitudes)):
            inner = torch.tensor([bool(number >> i & 1) for i in range(len(magnitudes))])
            parts = [part for part in (magnitudes[inner], magnitudes[~inner]) if len(part)]
            errors.append(float(sum((part - part.mean()).square().sum() for part in parts)))
        found = float(error(w, LSBQ(2, optimal=True).levels(w)))
        assert found == pytest.approx(min(errors), abs=tolerance(w))
        assert found <= float(error(w, LSBQ(2).levels(w))) + tolerance(w)

    def test_of_ternary_equal_the_exhaustive_search_over_subsets(self, w: torch.Tensor) -> None:
        n = w.shape[1]
        means = [w.abs()[0, list(s)].mean() for k in range(1, n + 1) for s in combinations(range(n), k)]
        least = min(float(error(w, torch.stack([-v, 0 * v, v])[None])) for v in means)
        assert float(error(w, Ternary(optimal=True).levels(w))) == pytest.approx(least, abs=tolerance(w))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("row", [(0.3, 2.0, 1.1), (-0.5, 1.5, 0.2), (-3.0, -1.0, -2.2)], ids=["positive", "mixed", "negative"])
def test_asymmetric_levels_hold_zero_and_are_whole_steps_from_it_that_reach_both_ends(bits: int, row: tuple[float, ...]) -> None:
    w = torch.tensor([row], dtype=torch.float64)
    levels = Asymmetric(bits).levels(w)[0]
    low, high = min(*row, 0.0), max(*row, 0.0)
    step = (high - low) / (2**bits - 1)
    zero = round(-low / step)
    assert levels.tolist() == pytest.approx([step * (k - zero) for k in range(2**bits)], abs=1e-14)
    assert 0.0 in levels.tolist()
    assert abs(float(levels[0]) - low) <= step / 2 + 1e-14
    assert abs(float(levels[-1]) - high) <= step / 2 + 1e-14


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("quantizer", [LSBQ(2, optimal=True), Ternary(optimal=True)], ids=str)
@pytest.mark.parametrize("count", [100_000, 300])
def test_optimal_levels_of_every_precision_are_those_of_double_precision(
    quantizer: LevelQuantizer, dtype: torch.dtype, count: int
) -> None:
    w = (3 * rows(2, count)).to(dtype)
    assert torch.equal(quantizer.levels(w), quantizer.levels(w.double()).to(dtype))


class TestFormats:
    @pytest.mark.parametrize("scale", ["absmax", "power_of_two", "mse"])
    def test_levels_are_the_values_times_a_scale(self, scale: str) -> None:
        fmt = FormatLevels(Integer(3), scale)  # type: ignore[arg-type]
        w = rows(2, 50).float()
        assert torch.equal(fmt.levels(w), torch.arange(-4.0, 4) * fmt.scales(w))

    def test_a_power_of_two_is_the_smallest_that_clips_nothing(self) -> None:
        fmt = FormatLevels(Integer(3), "power_of_two")
        assert fmt.scales(torch.tensor([[4.0], [4.1], [2.0], [0.0]])).flatten().tolist() == [1.0, 2.0, 0.5, 1.0]

    def test_the_least_squares_scale_is_no_worse_than_absmax(self) -> None:
        w = rows(4, 300)
        assert bool((error(w, FormatLevels(Integer(3), "mse").levels(w)) <= error(w, FormatLevels(Integer(3)).levels(w))).all())


class TestMaps:
    @pytest.mark.parametrize("quantizer", ALL, ids=str)
    def test_have_the_same_bits_on_the_kernels_as_on_torch(self, quantizer: LevelQuantizer) -> None:
        w = rows(2, 3000).float()
        w[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        levels = quantizer.levels(w[1:].expand(2, -1))
        few = [w[:, i : i + 500].contiguous() for i in range(0, 3000, 500)]
        for whole, parts in (
            (nearest(w, levels), [nearest(p, levels) for p in few]),
            (cells(w, levels, 0.3), [cells(p, levels, 0.3) for p in few]),
        ):
            assert torch.equal(whole.nan_to_num(7.0), torch.cat(parts, 1).nan_to_num(7.0))

    @pytest.mark.parametrize("count", [2, 5, 8, 9])
    def test_have_the_same_bits_where_one_row_of_few_levels_is_unrolled(self, count: int) -> None:
        w, levels = 2 * rows(1, 6000).float(), rows(1, count, seed=1).float().sort(-1).values
        w[0, :5] = torch.tensor([torch.nan, torch.inf, -torch.inf, float(levels[0, 0]), float(levels[0, -1])])
        few = [w[:, i : i + 1000].contiguous() for i in range(0, 6000, 1000)]
        for whole, parts in (
            (nearest(w, levels), [nearest(p, levels) for p in few]),
            (cells(w, levels, 0.3), [cells(p, levels, 0.3) for p in few]),
        ):
            assert torch.equal(whole.nan_to_num(7.0), torch.cat(parts, 1).nan_to_num(7.0))

    def test_a_tie_goes_to_the_lower_level(self) -> None:
        assert nearest(torch.tensor([[-0.5, 0.5, 1.5]]), torch.tensor([[-1.0, 0.0, 1.0, 2.0]])).tolist() == [[-1.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LSBQ(0), r"LSBQ bits: got 0; allowed: a whole number from 1 to 8"),
        (lambda: LSBQ(3, optimal=True), r"LSBQ bits: got 3 with optimal=True; allowed: 1 or 2"),
        (lambda: Uniform(1, "max", zero=True), r"Uniform with zero bits: got 1; allowed: a whole number from 2 to 8"),
        (lambda: Uniform(2, "meen"), r"did you mean 'mean'"),  # type: ignore[arg-type]
        (lambda: Ternary(0), r"Ternary multiplier: got 0; allowed: a number above 0"),
        (lambda: FormatLevels(Integer(12)), r"FormatLevels of int12 bits: got 12; allowed: a whole number from 1 to 8"),
    ],
)
def test_wrong_parameters_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=message):
        make()
