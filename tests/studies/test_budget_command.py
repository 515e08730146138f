"""The commands that answer where an error comes from: budget, compare, diff; and error against cost in the report."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import scipy.stats
from study_cases import Edit, edited
from typer.testing import CliRunner, Result

from hwsim.studies.cli import app
from hwsim.studies.comparing import difference
from hwsim.studies.report import load_report
from hwsim.studies.report.costs import costs, pareto

Write = Callable[..., Path]
LIMIT: Edit = ("seeds: [0, 1]", "seeds: [0, 1]\n  budget: {limit: {loss: 90 %}, candidates: [fp8_e4m3fn, fp32]}")


def hwsim(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("study")
    path, output = folder / "tiny.yaml", folder / "out"
    path.write_text(edited(LIMIT))
    hwsim("run", path, "--output", output, "--workers", 1)
    return SimpleNamespace(path=path, output=output)


def test_a_budget_as_json_has_a_row_for_each_site_role_and_cause(study: SimpleNamespace) -> None:
    result = hwsim("budget", study.path, "--json", "--datapath", "mine")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert {"datapath", "site", "gemm", "role", "cause", "measured", "predicted", "noise"} <= set(found["rows"][0])
    assert {row["datapath"] for row in found["rows"]} == {"mine"}
    assert {(row["site"], row["gemm"], row["role"]) for row in found["rows"]} >= {
        ("1", "output", "weight"),
        ("3", "output", "input"),
    }
    assert found["rows"][0]["noise"] > 0
    (limit,) = found["budgets"][0]["limits"]
    assert limit["passed"]


def test_a_budget_is_told_in_sentences_and_fails_beyond_its_limit(write: Write) -> None:
    strict: Edit = ("seeds: [0, 1]", "seeds: [0]\n  budget: {limit: {gradient: 1e-7}}")
    result = hwsim("budget", write(strict))
    assert result.exit_code == 1
    assert "mine changes the loss of this batch by" in result.stdout
    assert "FAIL: gradient changes by" in result.stdout


def test_an_allocation_is_a_datapath_file_that_can_be_used(study: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "cheap.yaml"
    result = hwsim("budget", study.path, "--allocate", path)
    assert result.exit_code == 0
    assert "bits an operand" in result.stdout
    assert hwsim("check", path).stdout.strip() == f"{path}: a datapath"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--datapath", "fp32"), "budget: datapath: got 'fp32'; allowed: mine"),
        (("--allocate", "x.yaml"), "study.budget.limit.loss: missing"),
    ],
)
def test_what_a_study_does_not_have_is_refused(write: Write, arguments: tuple[str, ...], text: str) -> None:
    result = hwsim("budget", write(), *arguments)
    assert result.exit_code == 2
    assert text in result.stderr


def test_a_study_that_rounds_nowhere_has_no_budget(write: Write) -> None:
    result = hwsim("budget", write(("[fp32, mine]", "[fp32]")))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "tiny.yaml: no datapath of this study rounds; allowed: one with casts or an accumulator" in result.stderr


def test_the_candidates_of_a_budget_are_formats_of_the_catalogue_or_the_file(write: Write) -> None:
    wrong: Edit = ("seeds: [0, 1]", "seeds: [0]\n  budget: {candidates: [my_e3m3, bf16]}")
    result = hwsim("check", write(wrong))
    assert result.exit_code == 2
    assert "study.budget.candidates[0]: got 'my_e3m3'" in result.stderr
    assert "did you mean 'my_e3m2'?" in result.stderr
    own: Edit = ("seeds: [0, 1]", "seeds: [0]\n  budget: {limit: {loss: 90 %}, candidates: [my_e3m2, bf16]}")
    assert hwsim("check", write(own)).exit_code == 0


def test_two_datapaths_of_a_study_are_compared_seed_by_seed(study: SimpleNamespace) -> None:
    result = hwsim("compare", f"{study.output}:fp32", f"{study.output}:mine", "--json")
    (row,) = json.loads(result.stdout)
    values = [series.final("accuracy") for series in load_report(study.output).grid]
    assert row["seeds"] == 2
    assert row["difference"] == pytest.approx(sum(values[1][seed] - values[0][seed] for seed in (0, 1)) / 2)
    assert row["low"] <= row["difference"] <= row["high"]


def test_a_paired_difference_has_students_interval_and_test() -> None:
    row = difference("a", "b", "loss", {0: 1.0, 1: 2.0, 2: 3.0, 9: 7.0}, {0: 1.5, 1: 2.7, 2: 3.3})
    expected = scipy.stats.ttest_1samp([0.5, 0.7, 0.3], 0)
    assert (row.seeds, row.difference) == (3, pytest.approx(0.5))
    assert row.p == pytest.approx(expected.pvalue)
    assert (row.low, row.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_datapaths_are_compared_by_what_they_declare() -> None:
    text = hwsim("compare", "int4_nearest", "int4_stochastic").stdout
    assert "gemm.output.weight.rounding: nearest_even | stochastic(24)" in text


def test_one_datapath_alone_is_not_compared() -> None:
    found = hwsim("compare", "fp32")
    assert (found.exit_code, found.stderr) == (2, "error: compare: got 1 name; allowed: two or more\n")


def test_two_datapaths_run_in_lock_step_to_the_first_difference(study: SimpleNamespace) -> None:
    assert "agree bit for bit over 1 steps" in hwsim("diff", "mine", "mine", "--study", study.path, "--steps", 1).stdout
    text = hwsim("diff", "fp32", "mine", "--study", study.path).stdout
    assert text.startswith("step 0: 1 output input[")


def test_a_report_sets_error_against_cost(study: SimpleNamespace) -> None:
    found = {table.name: table for table in costs(load_report(study.output))}
    assert set(found) == {"bits", "gates", "horowitz_45nm"}
    assert "fp32" in found["bits"].values
    assert "Error against cost" in (study.output / "report.html").read_text()


def test_the_front_is_what_nothing_beats_in_both() -> None:
    errors = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.2}
    values = {"a": 4.0, "b": 2.0, "c": 3.0, "d": 2.0}
    assert pareto(errors, values) == {"a", "b", "d"}
