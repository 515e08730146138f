"""Error against cost in a report: which tables, which datapaths, and which widths."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from study_cases import Edit, edited
from typer.testing import CliRunner, Result

from hwsim.costs import cost_tables
from hwsim.studies.cli import app
from hwsim.studies.report import load_report
from hwsim.studies.report.costs import FACTS, cost_rows, costs
from hwsim.studies.report.summary import Report

Write = Callable[..., Path]
Here = tuple[str, str]

MACHINES: Edit = ("[fp32, mine]", "[fp32, mxfp8, fp8_current, h100_fp8]")
TABLE = """\
cost: {kind: table, node: none, includes: sums, source: a test, unit: pJ, multiply: {int8: 1, fp32: 1}, add: {int8: 1, fp32: 1}}
"""


def hwsim(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, here: Here) -> Report:
    folder = tmp_path_factory.mktemp("costs")
    own = folder / "flat.yaml"
    own.write_text(TABLE)
    (folder / "tiny.yaml").write_text(
        edited(MACHINES, ("seeds: [0, 1]", f"seeds: [0]\n  report: {{sites: [], costs: [horowitz_45nm, gates, '{own}']}}"))
    )
    assert hwsim("run", folder / "tiny.yaml", "--output", folder / "out", *here).exit_code == 0
    own.unlink()
    found = load_report(folder / "out")
    assert isinstance(found, Report)
    return found


def test_a_study_chooses_its_cost_tables_and_keeps_those_of_its_own_files(report: Report) -> None:
    found = costs(report)
    assert [table.name for table in found] == ["horowitz_45nm", "gates", "flat"]
    header, rows = cost_rows(report, found)
    assert header == ["datapath", "accuracy (%)", *FACTS, "horowitz_45nm (pJ)", "gates (NAND2)", "flat (pJ)"]
    assert all(len(row) == len(header) for row in rows)


def test_a_recipe_whose_formats_are_its_own_files_has_a_cost(report: Report) -> None:
    for table in costs(report):
        assert set(table.values) == {"fp32", "mxfp8", "fp8_current", "h100_fp8"}


def test_a_datapaths_accumulator_is_priced_and_shown(report: Report) -> None:
    horowitz, gates, _ = (table.values for table in costs(report))
    assert horowitz["h100_fp8"] < horowitz["fp8_current"]
    assert gates["h100_fp8"] < gates["fp8_current"]
    shown = {row[0]: row[2:5] for row in cost_rows(report, costs(report))[1]}
    weights = (64 * 4 + 4 + 4 * 10 + 10) * 32
    assert shown["fp32"] == ["32", "564", str(weights)]
    assert shown["h100_fp8"][:2] == ["22", "59"]
    assert shown["mxfp8"][:2] == ["32", "44"]


def test_without_a_choice_every_shipped_table_is_shown(report: Report) -> None:
    asked = {key: value for key, value in report.study["report"].items() if key != "costs"}
    index = {**report.index, "study": {**report.study, "report": asked}}
    other = replace(report, index=index)
    assert [table.name for table in costs(other)] == list(cost_tables())


def test_a_cost_table_that_is_not_there_is_refused_with_those_that_are(write: Write) -> None:
    result = hwsim("check", write(("seeds: [0, 1]", "seeds: [0]\n  report: {costs: [gate]}")))
    assert result.exit_code == 2
    assert "study.report.costs[0]: cost: got 'gate'; allowed: gates, horowitz_45nm, operand_bits; did you mean" in result.stderr
