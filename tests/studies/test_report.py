"""What a report says of numbers that are known."""

import io
import math
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from hwsim.studies.report.budgets import budgets
from hwsim.studies.report.drawing import Drawing
from hwsim.studies.report.enough import enough, enough_headline
from hwsim.studies.report.plots import budget_bars, facets
from hwsim.studies.report.statistics import Spread, Unit, paired
from hwsim.studies.report.summary import Series
from hwsim.studies.report.texts import _table


def series(datapath: str, part: str, values: Mapping[int, float | None]) -> Series:
    """One epoch for each seed; None is a run that diverged."""

    def row(value: float | None) -> dict[str, Any]:
        return {"status": "done" if value is not None else "diverged", "epoch": 0, "accuracy": value, "test_loss": value}

    return Series(datapath, {}, part, {seed: (row(value),) for seed, value in values.items()})


@pytest.mark.parametrize(
    ("values", "mean", "deviation"),
    [([1.0, 2.0, 3.0], 2.0, 1.0), ([4.0], 4.0, math.nan), ([], math.nan, math.nan), ([1.0, 1.0], 1.0, 0.0)],
)
def test_a_spread_is_mean_and_sample_deviation(values: list[float], mean: float, deviation: float) -> None:
    found = Spread.of(values)
    assert (found.mean, found.deviation) == pytest.approx((mean, deviation), nan_ok=True)
    assert found.count == len(values)


@pytest.mark.parametrize(
    ("metric", "values", "value", "change"),
    [
        ("accuracy", [0.90, 0.92], "91.0 ± 1.4 %", "+91.0 ± 1.4 points"),
        ("accuracy", [-0.005], "-0.5 %", "-0.5 points"),
        ("accuracy", [], "-", "-"),
        ("test_loss", [0.0121, 0.0123], "0.01220 ± 0.00014", "+0.01220 ± 0.00014"),
        ("test_loss", [123.0, 125.0], "124.0 ± 1.4", "+124.0 ± 1.4"),
        ("test_loss", [12345.0], "12345", "+12345"),
        ("test_loss", [0.0, 0.0], "0.0 ± 0.0", "+0.0 ± 0.0"),
    ],
)
def test_numbers_are_written_with_their_unit_and_the_digits_that_matter(
    metric: str, values: list[float], value: str, change: str
) -> None:
    spread = Spread.of(values)
    unit = Unit.of(metric, [spread])
    assert (unit.value(spread), unit.change(spread)) == (value, change)


def test_differences_are_taken_seed_by_seed_where_both_have_one() -> None:
    assert paired({0: 5.0, 1: 7.0, 2: 9.0}, {1: 3.0, 2: 4.0, 3: 1.0}) == {1: 4.0, 2: 5.0}


PARTS: dict[str, dict[int, float | None]] = {
    "none": {0: 10.0, 1: 20.0},
    "all": {0: 16.0, 1: 28.0},
    "only input": {0: 11.0, 1: 22.0},
    "all but input": {0: 14.0, 1: 23.0},
    "only weight": {0: 13.0, 1: 22.0},
    "all but weight": {0: 12.0, 1: 23.0},
}


def test_a_budget_splits_the_change_of_all_into_roles_and_what_is_left() -> None:
    (budget,) = budgets([series("dp", part, values) for part, values in PARTS.items()], ["test_loss"])
    assert (budget.none.mean, budget.total.mean) == (15.0, 7.0)
    found = {row.role: (row.alone.mean, row.all_but.mean, row.interaction.mean) for row in budget.rows}
    assert found == {"input": (1.5, 3.5, 2.0), "weight": (2.5, 2.5, 2.0)}
    assert budget.left.mean == 7.0 - 1.5 - 2.5
    assert budget.rows[0].alone.deviation == pytest.approx(math.sqrt(0.5))


def test_the_shares_of_up_to_three_roles_are_shapleys() -> None:
    (budget,) = budgets([series("dp", part, values) for part, values in PARTS.items()], ["test_loss"])
    shares = {row.role: row.share.mean for row in budget.rows if row.share}
    assert shares == {"input": (1.5 + 7.0 - 2.5) / 2, "weight": (2.5 + 7.0 - 1.5) / 2}
    three = {"none": 0.0, "all": 12.0, "only a": 1.0, "only b": 2.0, "only c": 3.0}
    three |= {"all but a": 6.0, "all but b": 7.0, "all but c": 4.0}
    (budget,) = budgets([series("dp", part, {0: value}) for part, value in three.items()], ["test_loss"])
    shares = {row.role: row.share.mean for row in budget.rows if row.share}
    assert shares["a"] == pytest.approx(1 / 3 + (4 - 2) / 6 + (7 - 3) / 6 + (12 - 6) / 3)
    assert sum(shares.values()) == pytest.approx(12.0)


def test_a_diverged_run_leaves_its_seed_out_of_the_budget() -> None:
    parts = {**PARTS, "only input": {0: None, 1: 22.0}}
    (budget,) = budgets([series("dp", part, values) for part, values in parts.items()], ["test_loss"])
    rows = {row.role: row for row in budget.rows}
    assert (rows["input"].alone.mean, rows["input"].alone.count) == (2.0, 1)
    assert rows["weight"].alone.count == 2
    assert budget.left.mean == 8.0 - 2.0 - 2.0
    assert series("dp", "", {0: None, 1: 1.0}).diverged == 1


@pytest.mark.parametrize(
    ("weight", "finding"),
    [
        ({0: 13.0, 1: 22.5}, ", most by its role weight (+2.750 ± 0.354 alone)."),
        ({0: 7.0, 1: 17.0}, "; no role alone does so by more than the seeds differ."),
        ({0: 10.0, 1: 27.0}, "; no role alone does so by more than the seeds differ."),
    ],
)
def test_the_headline_names_a_role_only_where_it_stands_out_of_the_seeds(weight: dict[int, float], finding: str) -> None:
    parts = {**PARTS, "only weight": weight, "only input": {0: 11.0, 1: 20.0}}
    (budget,) = budgets([series("dp", part, values) for part, values in parts.items()], ["test_loss"])
    assert budget.headline == "dp changes test_loss by +7.000 ± 1.414 after 1 epoch" + finding


def test_a_budget_without_its_twin_is_not_reported() -> None:
    assert budgets([series("dp", part, values) for part, values in PARTS.items() if part != "none"], ["test_loss"]) == ()


def test_names_that_look_like_markup_are_shown_as_they_are() -> None:
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(_table("[/a] title", ["[bold]b", "c"], [["[red]d[/red]", "[/e]"]]))
    shown = console.export_text()
    assert all(text in shown for text in ("[/a] title", "[bold]b", "[red]d[/red]", "[/e]"))


def test_a_figure_s_file_is_in_its_folder_whatever_it_is_called() -> None:
    assert Drawing("Causes by layer, ../../MINE\\x", (1, 1), lambda figure: None).slug == "causes-by-layer-mine-x"


def test_plots_take_the_pages_colour_and_escape_what_they_show() -> None:
    (budget,) = budgets([series("<b>&$x$", part, values) for part, values in PARTS.items()], ["test_loss"])
    plot = budget_bars(budget).svg()
    assert plot.startswith("<svg")
    assert "currentColor" in plot
    assert "<b>" not in plot
    assert plot == budget_bars(budget).svg()


def test_many_series_are_shown_in_a_panel_for_all_axes_but_the_last() -> None:
    grid = [
        Series(datapath, {"quantizer.levels": levels, "quantizer.method": method}, "", {})
        for datapath in ("fp32", "a4") for levels in ("int2", "nf4") for method in ("ste", "parq")
    ]  # fmt: skip
    panels = facets(grid)
    assert list(panels) == ["fp32, int2", "fp32, nf4", "a4, int2", "a4, nf4"]
    assert all(list(lines) == ["ste", "parq"] for lines in panels.values())
    assert panels["a4, int2"]["parq"] is grid[5]
    assert list(facets([series("one", "", {0: 1.0}), series("two", "", {0: 1.0})])) == [""]


SWEEP = {
    "one": {0: 1.50, 1: 1.62, 2: 1.55},
    "two": {0: 1.10, 1: 1.21, 2: 1.16},
    "four": {0: 1.00, 1: 1.11, 2: 1.04},
    "all": {0: 1.01, 1: 1.10, 2: 1.05},
}
"""Losses by seed: those of `two` lie 0.09, 0.11 and 0.11 above those of `all`, those of `four` on both sides of them."""


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["one", "two", "four", "all"], "four"),
        (["four", "all"], "four"),
        (["one", "two", "all"], "all"),
        (["two", "one", "four", "all"], "four"),
        (["four", "two", "all"], "all"),
    ],
)
def test_enough_is_the_first_point_from_which_on_none_is_told_apart_from_the_last(names: list[str], found: str) -> None:
    assert enough(names, SWEEP) == found


def test_one_seed_cannot_say_what_is_enough() -> None:
    values = {name: {0: seeds[0]} for name, seeds in SWEEP.items()}
    assert enough(list(SWEEP), values) is None
    assert enough_headline(list(SWEEP), values, Unit("test_loss", 3)) == ""


def test_the_headline_says_what_is_enough_and_how_the_next_smaller_point_differs() -> None:
    # 0.1033 is the mean of the differences, 0.0115 their deviation, 4.303 Student's t of two degrees of freedom.
    half = 4.303 * 0.011547 / math.sqrt(3)
    text = enough_headline(list(SWEEP), SWEEP, Unit("test_loss", 3))
    assert text == (
        "Enough is four, from where on test_loss is not told apart from that with all; with two it differs by "
        f"{0.10333 - half:+.3f} to {0.10333 + half:+.3f} (95% interval over 3 seeds)."
    )
    assert enough_headline(["one", "two", "all"], SWEEP, Unit("test_loss", 3)).startswith(
        "None of one to two is enough; with two"
    )
