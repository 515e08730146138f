"""The commands that answer where an error comes from: budget, compare, diff; and error against cost in the report."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import scipy.stats
from rich.console import Console
from study_cases import Edit, edited
from typer.testing import CliRunner, Result

from hwsim.costs import MultiplyAdd, cost
from hwsim.fields import format_record
from hwsim.studies import cli
from hwsim.studies.cli import app
from hwsim.studies.comparing import difference
from hwsim.studies.experiments import Table
from hwsim.studies.files import load_study
from hwsim.studies.references import markdown, page
from hwsim.studies.report import load_report
from hwsim.studies.report.costs import costs, pareto, sensitivity
from hwsim.studies.report.page import drawings
from hwsim.studies.report.sites import load_step_budgets, site_records

Write = Callable[..., Path]
Here = tuple[str, str]
REGRESSION = """study:
  name: regression
  experiment: {name: quantized_sgd_components, dimension: 8, steps: 20, replicas: 64}
  grid: {experiment.quantizer: [{law: additive, size: 0.01}, {law: multiplicative, size: 0.02}]}
  seeds: [0, 1]
"""
LIMIT: Edit = ("seeds: [0, 1]", "seeds: [0, 1]\n  budget: {limit: {loss: 90 %}, candidates: [fp8_e4m3fn, fp32]}")


def hwsim(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, here: Here) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("study")
    path, output = folder / "tiny.yaml", folder / "out"
    path.write_text(edited(LIMIT))
    hwsim("run", path, "--output", output, *here)
    return SimpleNamespace(path=path, output=output)


def test_linear_regression_has_a_budget_that_adds_up_to_the_exact_recursion(tmp_path: Path) -> None:
    path = tmp_path / "regression.yaml"
    path.write_text(REGRESSION)
    found = json.loads(hwsim("budget", path, "--json").stdout)
    for one in {row["datapath"] for row in found["rows"]}:
        rows = [row["predicted"] for row in found["rows"] if row["datapath"] == one]
        total, interaction = (row["predicted"] for row in found["totals"] if row["datapath"] == one)
        assert len(rows) == 5
        assert total == pytest.approx(sum(rows) + interaction)
    (only,) = json.loads(hwsim("budget", path, "--json", "--datapath", "law additive, size 0.01").stdout)["budgets"]
    assert only["datapath"] == "law additive, size 0.01"
    assert only["headline"].startswith("law additive, size 0.01 changes the excess risk by ")


def test_an_experiment_without_a_budget_names_those_that_have_one(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("study: {name: other, experiment: {name: batch_scaling}}")
    result = hwsim("budget", path)
    assert result.exit_code == 2
    assert "'batch_scaling'; allowed: a study of trainings, or of the experiments quantized_sgd_components" in result.output


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


def test_an_allocation_that_no_candidate_keeps_within_the_limit_is_written_and_fails(write: Write, tmp_path: Path) -> None:
    strict: Edit = ("seeds: [0, 1]", "seeds: [0]\n  budget: {limit: {loss: 1e-12}, candidates: [fp4_e2m1fn, fp6_e2m3fn]}")
    result = hwsim("budget", write(strict), "--allocate", tmp_path / "cheap.yaml")
    assert result.exit_code == 1
    assert "BEYOND the limit 1e-12" in result.stdout
    assert (tmp_path / "cheap.yaml").is_file()


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
    assert "study.budget.candidates[0]: format: got 'my_e3m3'" in result.stderr
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


@pytest.fixture(scope="module")
def rates(tmp_path_factory: pytest.TempPathFactory, here: Here) -> Path:
    """The results of the small study at two learning rates."""
    folder = tmp_path_factory.mktemp("rates")
    (folder / "rates.yaml").write_text(
        edited(("{datapath: [fp32, mine]}", "{datapath: [fp32, mine], optimizer.lr: [0.1, 0.3]}"), ("[0, 1]", "[0]"))
    )
    hwsim("run", folder / "rates.yaml", "--output", folder / "out", *here)
    return folder / "out"


@pytest.fixture(scope="module")
def faster(tmp_path_factory: pytest.TempPathFactory, here: Here) -> Path:
    """The results of the small study at another learning rate."""
    folder = tmp_path_factory.mktemp("faster")
    (folder / "faster.yaml").write_text(edited(("lr: 0.1", "lr: 0.3")))
    hwsim("run", folder / "faster.yaml", "--output", folder / "fast", *here)
    return folder / "fast"


def compared(*names: object) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(hwsim("compare", *names, "--json").stdout)
    return rows


def test_two_folders_are_compared_datapath_by_datapath(study: SimpleNamespace, faster: Path) -> None:
    rows = compared(study.output, faster)
    assert [(row["a"], row["b"]) for row in rows] == [(f"out: {name}", f"fast: {name}") for name in ("fp32", "mine")]
    for row, slow, fast in zip(rows, load_report(study.output).grid, load_report(faster).grid, strict=True):
        changes = [fast.final("accuracy")[seed] - slow.final("accuracy")[seed] for seed in (0, 1)]
        expected = scipy.stats.ttest_1samp(changes, 0)
        assert (row["metric"], row["seeds"]) == ("accuracy", 2)
        assert row["difference"] == pytest.approx(sum(changes) / 2)
        assert (row["low"], row["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
        assert row["p"] == pytest.approx(expected.pvalue)


def test_a_comparison_is_a_table(study: SimpleNamespace, faster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "out", Console(width=140))
    lines = hwsim("compare", study.output, faster).stdout.splitlines()
    (heading,) = [line for line in lines if "accuracy: b - a" in line]
    assert [cell.strip() for cell in heading.strip("┃").split("┃")] == ["a", "b", "accuracy: b - a", "95% interval", "p", "seeds"]
    for row, name in zip(compared(study.output, faster), ("fp32", "mine"), strict=True):
        (line,) = [line for line in lines if f"fast: {name}" in line]
        interval = f"{row['low']:+.4g} .. {row['high']:+.4g}"
        shown = [f"out: {name}", f"fast: {name}", f"{row['difference']:+.4g}", interval, f"{row['p']:.2g}", "2"]
        assert [cell.strip() for cell in line.strip("│").split("│")] == shown


@pytest.mark.parametrize(
    ("parts", "pairs"),
    [
        (("lr 0.1", "lr 0.3"), [("fp32, lr 0.1", "fp32, lr 0.3"), ("mine, lr 0.1", "mine, lr 0.3")]),
        (("fp32", "mine"), [("fp32, lr 0.1", "mine, lr 0.1"), ("fp32, lr 0.3", "mine, lr 0.3")]),
        (("fp32, lr 0.1", "mine, lr 0.3"), [("fp32, lr 0.1", "mine, lr 0.3")]),
        (("fp32", ""), [("fp32, lr 0.1", "fp32, lr 0.1"), ("fp32, lr 0.3", "fp32, lr 0.3")]),
    ],
)
def test_parts_of_a_folder_are_compared_where_they_have_the_rest_in_common(
    rates: Path, parts: tuple[str, str], pairs: list[tuple[str, str]]
) -> None:
    rows = compared(*(f"{rates}:{part}" if part else rates for part in parts))
    assert [(row["a"], row["b"]) for row in rows] == [(f"out: {a}", f"out: {b}") for a, b in pairs]


def test_a_part_that_a_folder_lacks_is_refused_with_those_it_has(rates: Path) -> None:
    found = hwsim("compare", f"{rates}:lr 0.1", f"{rates}:lr 0.2")
    assert found.exit_code == 2
    assert "datapath or setting: got 'lr 0.2'; allowed: fp32, lr 0.1, lr 0.3, mine" in " ".join(found.stderr.split())


def test_a_paired_difference_has_students_interval_and_test() -> None:
    row = difference("a", "b", "loss", {0: 1.0, 1: 2.0, 2: 3.0, 9: 7.0}, {0: 1.5, 1: 2.7, 2: 3.3})
    expected = scipy.stats.ttest_1samp([0.5, 0.7, 0.3], 0)
    assert (row.seeds, row.difference) == (3, pytest.approx(0.5))
    assert row.p == pytest.approx(expected.pvalue)
    assert (row.low, row.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_datapaths_are_compared_by_what_they_declare() -> None:
    text = hwsim("compare", "int4_nearest", "int4_stochastic").stdout
    assert "gemm.output.weight.rounding: nearest_even | stochastic(24)" in text


def test_what_datapaths_declare_is_compared_as_json() -> None:
    first, same = json.loads(hwsim("compare", "int4_nearest", "int4_stochastic", "int4_nearest", "--json").stdout)
    assert (first["a"], first["b"], same["b"]) == ("int4_nearest", "int4_stochastic", "int4_nearest")
    assert "gemm.output.weight.rounding: nearest_even | stochastic(24)" in first["differences"]
    assert same["differences"] == []


def test_one_datapath_alone_is_not_compared() -> None:
    found = hwsim("compare", "fp32")
    assert (found.exit_code, found.stderr) == (2, "error: compare: got 1 name; allowed: two or more\n")


def test_two_datapaths_run_in_lock_step_to_the_first_difference(study: SimpleNamespace) -> None:
    assert "agree bit for bit over 1 steps" in hwsim("diff", "mine", "mine", "--study", study.path, "--steps", 1).stdout
    text = hwsim("diff", "fp32", "mine", "--study", study.path).stdout
    assert text.startswith("step 0: 1 output input[")


SUM = "step 0: 1 output result"
UNITS = """datapaths:
  narrow: {gemm: {output: {input: FP8, weight: FP8, mac: {order: sequential, accumulator: {format: fp12_e6m5}}}}}
  wide: {gemm: {output: {input: FP8, weight: FP8, mac: {order: sequential, accumulator: {format: fp16}}}}}
""".replace("FP8", "{format: fp8_e4m3fn, scaling: absmax}")


def test_the_dot_product_that_is_printed_gives_the_values_that_differ(write: Write) -> None:
    text = hwsim("diff", "narrow", "wide", "--study", write(("datapaths:\n", UNITS))).stdout
    assert text.startswith(SUM)
    reported = [float(value) for value in re.findall(r" (\S+) \((?:-?0x|-?inf)", text)]
    traces = re.split(r"\n\n(?=\w+: unit: 64 terms\n)", text)[1:]
    assert [trace.partition(":")[0] for trace in traces] == ["narrow", "wide"]
    assert [float(value) for value in re.findall(r"^result (\S+)$", text, re.MULTILINE)] == reported
    assert all("\n  times the scales " in trace and "\n  plus C " in trace for trace in traces)


def test_a_product_of_torchs_own_is_said_to_have_no_order(write: Write) -> None:
    text = hwsim(
        "diff", "fp32", "native", "--study", write(("datapaths:\n", "datapaths:\n  native: {gemm: {output: {result: bf16}}}\n"))
    )
    first, *others = text.stdout.split("\n\n")
    assert first.startswith(SUM)
    assert [other.strip() for other in others] == [
        f"{name}: torch's own product, whose order of summation is not defined" for name in ("fp32", "native")
    ]


def test_a_report_sets_error_against_cost(study: SimpleNamespace) -> None:
    found = {table.name: table for table in costs(load_report(study.output))}
    assert set(found) == {"operand_bits", "gates", "horowitz_45nm"}
    assert set(found["operand_bits"].values) == {"fp32", "mine"}
    assert found["operand_bits"].values["mine"] == pytest.approx(found["operand_bits"].values["fp32"] * 6 / 32)
    assert "Error against cost" in (study.output / "report.html").read_text()


def test_a_verdict_that_turns_on_one_cell_says_so() -> None:
    names = {"int8": "int8", "e4m3": "fp8_e4m3fn"}
    work = {name: {MultiplyAdd(format_record(fmt), format_record(fmt)): 1.0} for name, fmt in names.items()}
    turns = sensitivity(cost("gates"), work, {"int8": 0.2, "e4m3": 0.1})
    assert "Were mux2 (cells, 3) half what it is, int8 would leave it." in turns
    assert not any("flip_flop" in turn for turn in turns)
    assert sensitivity(cost("operand_bits"), work, {"int8": 0.2, "e4m3": 0.1}) == ()


def test_the_report_has_the_budget_of_a_step_and_keeps_it(study: SimpleNamespace) -> None:
    kept = study.output / "budgets.json"
    report, written = load_report(study.output), kept.stat().st_mtime_ns
    assert [one.datapath for one in report.steps] == ["mine"]
    assert {row["site"] for row in site_records(report.steps)} == {"1", "3"}
    assert "In one training step mine changes the loss by " in report.headline
    again = hwsim("run", study.path, "--output", study.output)
    assert kept.stat().st_mtime_ns == written
    assert " ".join(report.headline.split()) in " ".join(again.stdout.split())
    other = report.index | {"study": report.index["study"] | {"budget": {"steps": 2}}}
    assert load_step_budgets(study.output, other) == ()


def test_figures_and_tables_are_files_of_their_own(study: SimpleNamespace) -> None:
    folder = study.output / "report"
    assert hwsim("report", study.output, "--files").stdout.strip() == f"files: {folder}"
    figures = {path.stem for path in (folder / "figures").iterdir()}
    assert {"accuracy-by-epoch", "accuracy-against-operand-bits", "causes-by-layer-mine", "exponents-mine"} <= figures
    for name in figures:
        assert (folder / "figures" / f"{name}.svg").read_bytes().startswith(b"<?xml")
        assert (folder / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    for name, columns in (("runs", {"seed", "accuracy"}), ("sites", {"site", "predicted"}), ("costs", {"on_the_front"})):
        rows = json.loads((folder / "tables" / f"{name}.json").read_text())
        assert columns <= set(rows[0])
        assert pq.read_table(folder / "tables" / f"{name}.parquet").to_pylist() == rows
        lines = list(csv.DictReader((folder / "tables" / f"{name}.csv").read_text().splitlines()))
        assert [list(line) for line in lines] == [list(rows[0])] * len(rows)
    for name in ("comparison", "sites", "costs"):
        assert (folder / "tables" / f"{name}.tex").read_text().startswith("\\begin{tabular}")


def test_a_reference_page_has_the_question_the_answer_the_figures_and_the_tables(study: SimpleNamespace) -> None:
    report = load_report(study.output)
    figure = drawings(report)[0]
    text = page(load_study(study.path), report, {"plots/tiny-1.svg": figure})
    assert f"\n![{figure.caption}](plots/tiny-1.svg)\n" in text
    assert text.startswith("# tiny\n\n")
    assert f"\n**{report.headline}**\n" in text
    assert "\n## tiny: accuracy over 2 seeds\n" in text
    assert "\n## The 12 sites that change most in one step\n" in text
    assert markdown(Table("t", ["a|b", "c"], [["1", "2"]])) == ["| a\\|b | c |", "| --- | ---: |", "| 1 | 2 |"]


def test_the_front_is_what_nothing_beats_in_both() -> None:
    errors = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.2}
    values = {"a": 4.0, "b": 2.0, "c": 3.0, "d": 2.0}
    assert pareto(errors, values) == {"a", "b", "d"}
