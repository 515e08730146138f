"""The command line, end to end: two small studies run, read back, resumed and reported."""

import csv
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from study_cases import Edit, edited
from typer.testing import CliRunner, Result

from hwsim.costs import cost_tables
from hwsim.studies.cli import app
from hwsim.studies.files import load_study
from hwsim.studies.plan import expand
from hwsim.studies.results import results, run_rows
from hwsim.studies.store import Store
from hwsim.studies.train import train

Write = Callable[..., Path]
Here = tuple[str, str]
BUDGET: Edit = ("seeds: [0, 1]", "seeds: [0, 1]\n  report: {budget: [mine]}")


def hwsim(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A study with a budget, run once by the command line."""
    folder = tmp_path_factory.mktemp("study")
    path, output = folder / "tiny.yaml", folder / "out"
    path.write_text(edited(BUDGET, ("Every operand", "Every <i>operand</i>")))
    return SimpleNamespace(path=path, output=output, result=hwsim("run", path, "--output", output, "--workers", 1))


def test_a_study_runs_and_says_what_came_of_it(study: SimpleNamespace) -> None:
    assert study.result.exit_code == 0
    text = study.result.stdout
    assert "tiny: 16 runs done, 0 were finished before" in text
    assert "fp32 reaches accuracy" in text
    assert "Error budget of mine" in text
    assert (study.output / "report.html").is_file()


def test_a_complete_study_has_nothing_missing_and_is_reported_again(study: SimpleNamespace) -> None:
    (study.output / "report.html").unlink()
    before = {path: path.stat().st_mtime_ns for path in study.output.glob("runs/*/*")}
    again = hwsim("run", study.path, "--output", study.output)
    assert again.exit_code == 0
    assert "tiny: nothing is missing, 16 were finished before" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in study.output.glob("runs/*/*")} == before
    assert (study.output / "report.html").is_file()


def test_stored_results_equal_those_in_memory(study: SimpleNamespace) -> None:
    plan = expand(load_study(study.path))
    stored = {(row["id"], row["part"]): row for row in results(study.output).to_pylist()}
    assert set(stored) == {(place.id, place.part) for place in plan.places}
    for (id, _), row in stored.items():
        (metrics,) = train(plan.runs[id]).metrics
        assert {name: row[name] for name in metrics} == metrics


def test_results_are_read_by_one_query_without_hwsim(study: SimpleNamespace) -> None:
    query = f"""
        select run.run.datapath.name as datapath, count(*) from read_json_auto('{study.output}/runs/*/run.json') run
        join '{study.output}/runs/*/metrics.parquet' metrics using (id) group by all order by all"""
    counts = dict(duckdb.sql(query).fetchall())
    assert (counts["fp32"], counts["mine"], counts["mine: only weight"]) == (2, 2, 2)


def test_the_dry_run_counts_and_runs_nothing(study: SimpleNamespace, tmp_path: Path) -> None:
    assert hwsim("run", study.path, "--output", tmp_path / "none", "--dry-run").stdout.startswith("16 runs, 0 of them finished")
    assert hwsim("run", study.path, "--output", study.output, "--dry-run").stdout.startswith("16 runs, 16 of them finished")
    assert not (tmp_path / "none").exists()


def test_the_dry_run_predicts_from_finished_runs_and_else_from_a_few_steps(study: SimpleNamespace, tmp_path: Path) -> None:
    fresh = hwsim("run", study.path, "--output", tmp_path / "none", "--dry-run", "--json")
    found = json.loads(fresh.stdout)
    assert (found["runs"], found["done"], found["basis"]) == (16, 0, "8 of 8 configurations from a few steps")
    assert 0 < found["seconds"] < 600
    assert 0.1 < found["memory_gib"] < 20
    more = tmp_path / "more.yaml"
    more.write_text(study.path.read_text().replace("seeds: [0, 1]", "seeds: [0, 1, 2]"))
    known = json.loads(hwsim("run", more, "--output", study.output, "--dry-run", "--json").stdout)
    assert (known["done"], known["basis"]) == (16, "8 of 8 configurations from finished runs")
    times = {row["id"]: row["seconds"] for row in results(study.output).to_pylist()}
    assert known["seconds"] == pytest.approx(sum(times.values()) / 2)
    assert known["memory_gib"] == max(Store(study.output).record(id)["memory_gib"] for id in times)


def test_runs_are_listed_by_any_column(study: SimpleNamespace) -> None:
    def listed(where: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(hwsim("list", "runs", study.output, "--where", where, "--json").stdout)
        return found

    assert len(listed("true")) == 20
    rows = listed("datapath = 'mine' and part = '' and seed = 1 and accuracy > 0 and status = 'done'")
    assert [(row["study"], row["datapath"], row["seed"], row["epoch"]) for row in rows] == [("tiny", "mine", 1, 0)]
    assert listed("accuracy > 1") == []
    assert len(listed("(run->>'$.optimizer.lr') = '0.1' and part = ''")) == 4
    assert listed("(run->>'$.task.options.width') = '5'") == []
    assert "run" not in rows[0]
    shown = hwsim("list", "runs", study.output).stdout
    assert shown.count("fp32") == 2
    assert shown.count("mine") > 2


def test_metrics_are_listed_from_their_table_where_the_record_cannot_say_them(study: SimpleNamespace, tmp_path: Path) -> None:
    expected = run_rows(study.output)
    shutil.copytree(study.output / "runs", tmp_path / "runs")
    shutil.copy(study.output / "study.json", tmp_path)
    for path in tmp_path.glob("runs/*/run.json"):
        record = json.loads(path.read_text())
        assert record["last"].keys() == {"epoch", "step", "train_loss", "test_loss", "accuracy"}
        path.write_text(json.dumps({**record, "last": None}))
    assert run_rows(tmp_path) == expected


@pytest.mark.parametrize("where", ["acuracy > 0", "1; drop table found", "id in (select content from read_text('/etc/passwd'))"])
def test_a_condition_that_is_none_is_refused(study: SimpleNamespace, where: str) -> None:
    refused = hwsim("list", "runs", study.output, "--where", where)
    assert refused.exit_code == 2
    assert f"--where: got {where!r}: " in refused.stderr


def test_a_stored_run_repeats_itself_bit_for_bit(study: SimpleNamespace, tmp_path: Path) -> None:
    id = json.loads(hwsim("list", "runs", study.output, "--where", "datapath = 'mine'", "--json").stdout)[0]["id"]
    same = hwsim("rerun", study.output / "runs" / id)
    assert (same.exit_code, same.stdout) == (0, f"{id}: the same, bit for bit\n")
    copy = tmp_path / id
    shutil.copytree(study.output / "runs" / id, copy)
    rows = pq.read_table(copy / "metrics.parquet").to_pylist()
    rows[0]["train_loss"] = math.nextafter(rows[0]["train_loss"], 2)
    pq.write_table(pa.Table.from_pylist(rows), copy / "metrics.parquet")
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**record, "versions": {**record["versions"], "torch": "1.0"}}))
    other = hwsim("rerun", copy)
    assert other.exit_code == 1
    assert f"{id}: differs in\n  metrics: row 0, train_loss: {rows[0]['train_loss']!r} in the folder" in other.stdout
    assert 'here versions.torch: "1.0" then' in other.stdout
    (copy / "run.json").write_text(json.dumps({**record, "hash": "0" * 64}))
    assert "the configuration has the hash" in hwsim("rerun", copy).stderr
    assert "holds no run; allowed: a folder RESULTS/runs/ID" in hwsim("rerun", tmp_path).stderr


def test_everything_that_repeats_a_run_is_stored_with_it(study: SimpleNamespace) -> None:
    record = json.loads(next(study.output.glob("runs/*/run.json")).read_text())
    assert record["versions"].keys() >= {"python", "hwsim", "torch", "numpy", "numba"}
    assert record["hardware"].keys() == {"machine", "processor", "vector_instructions", "cores"}
    assert {"run", "hash", "threads", "host", "started", "seconds", "git_commit", "command", "data_checksum"} <= record.keys()


def test_times_and_hosts_are_in_the_csv_only_when_asked_for(study: SimpleNamespace) -> None:
    plain, volatile = (hwsim("report", study.output, "--csv", *more).stdout for more in ((), ("--volatile",)))
    header, more = (text.partition("\n")[0].split(",") for text in (plain, volatile))
    assert more == [*header, "seconds", "started", "host"]
    assert hwsim("report", study.output, "--volatile").exit_code == 2


def test_a_changed_study_is_refused_in_the_same_folder(study: SimpleNamespace, write: Write) -> None:
    refused = hwsim("run", write(BUDGET, ("lr: 0.1", "lr: 0.2")), "--output", study.output)
    assert refused.exit_code == 2
    assert "study.optimizer.lr: 0.1 in the folder, 0.2 now" in refused.stderr


def test_events_are_lines_of_json(study: SimpleNamespace) -> None:
    events = [json.loads(line) for line in hwsim("run", study.path, "--output", study.output, "--json").stdout.splitlines()]
    assert [event["event"] for event in events] == ["start", "end", "report"]
    assert (events[0]["total"], events[0]["already"]) == (16, 16)


def test_the_report_as_csv_has_a_line_for_each_place_and_is_the_same_each_time(study: SimpleNamespace) -> None:
    text = hwsim("report", study.output, "--csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 20
    assert {row["status"] for row in rows} == {"done"}
    assert text == hwsim("report", study.output, "--csv").stdout


def test_the_report_as_json_has_headline_comparison_and_budgets(study: SimpleNamespace) -> None:
    report = json.loads(hwsim("report", study.output, "--json").stdout)
    assert [row["datapath"] for row in report["comparison"]] == ["fp32", "mine"]
    assert [(budget["metric"], *budget["roles"]) for budget in report["budgets"]] == [
        ("accuracy", "input", "weight", "grad_output"),
        ("test_loss", "input", "weight", "grad_output"),
    ]
    assert report["missing"] == 0


def test_the_report_as_latex_is_two_kinds_of_tabular(study: SimpleNamespace) -> None:
    text = hwsim("report", study.output, "--latex").stdout
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == 3
    assert "accuracy (\\%)" in text
    assert "grad\\_output" in text


def test_the_page_is_one_file_that_loads_nothing_and_has_the_answer(study: SimpleNamespace) -> None:
    page = (study.output / "report.html").read_text()
    headline = json.loads(hwsim("report", study.output, "--json").stdout)["headline"]
    assert headline.replace("'", "&#39;") in page
    assert not re.search(r"""(src|href|action|data)\s*=\s*["'](?!#)|url\((?!#)|@import|https?://""", page)
    assert len(page) < 3_000_000
    assert page.count("<svg") == 8 + len(cost_tables())
    assert "prefers-color-scheme: dark" in page
    assert "Every &lt;i&gt;operand&lt;/i&gt;" in page
    assert "<i>" not in page
    assert "by torch's own matmul" in page


def test_bad_input_exits_with_2_and_writes_nothing(write: Write, tmp_path: Path) -> None:
    refused = hwsim("run", write(("lr: 0.1", "lr: 0")), "--output", tmp_path / "out")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: ")
    assert "tiny.yaml:10: study.optimizer.lr: got 0" in refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quickstrat"], "did you mean 'quickstart'?"),
        (["run", "no.yaml"], "no.yaml: no such file"),
        (["run", "quickstart", "--workers", "0"], "--workers: got 0; allowed: a whole number from 1 on"),
        (
            ["run", "quickstart", "--executor", "lokal"],
            "--executor: got 'lokal'; allowed: dask, local, ray, slurm; did you mean 'local'?",
        ),
        (["report", "nowhere"], "nowhere: holds no study; allowed: a folder that `hwsim run` wrote"),
        (["report", "nowhere", "--csv", "--json"], "got --csv and --json; allowed: one of them"),
        (["show", "fp8_e4m3fm"], "did you mean 'fp8_e4m3fn'?"),
    ],
)
def test_wrong_arguments_exit_with_2_and_the_nearest_match(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = hwsim(*arguments)
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert os.listdir(tmp_path) == []


def test_more_than_a_thousand_runs_need_a_yes(write: Write) -> None:
    refused = hwsim("run", write(("seeds: [0, 1]", f"seeds: {list(range(501))}")))
    assert refused.exit_code == 2
    assert "got 1002 runs; allowed without --yes: 1000" in refused.stderr


def test_check_tells_what_files_are_and_all_that_is_wrong(write: Write, tmp_path: Path) -> None:
    datapath = tmp_path / "datapath.yaml"
    datapath.write_text("datapath: {vector: bf16}\n")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("datapath: {vektor: bf16}\n")
    good = hwsim("check", write(), datapath)
    assert (good.exit_code, good.stdout.splitlines()) == (0, [f"{write()}: a study of 4 runs", f"{datapath}: a datapath"])
    bad = hwsim("check", wrong, datapath)
    assert bad.exit_code == 2
    assert f"{wrong}:1: datapath.vektor: unknown key" in bad.stderr


def test_diverged_and_failed_runs_are_told_apart_and_only_failures_are_tried_again(
    write: Write, tmp_path: Path, here: Here
) -> None:
    task = "model: study_cases:no_model, data: study_cases:few_points, loss: half_squared_error"
    broken = write(
        ("name: digits_mlp, epochs: 1, batch_size: 256, width: 4", f"name: broken, epochs: 1, batch_size: 2, {task}"),
        ("[fp32, mine]", "[fp32]"),
        ("[0, 1]", "[0]"),
    )
    failed = hwsim("run", broken, "--output", tmp_path / "broken", *here, "--trust", "study_cases")
    assert failed.exit_code == 1
    assert "RuntimeError: the model is <b>broken</b>" in failed.stderr
    assert "1 runs failed; the same command tries them again" in failed.stderr
    assert Store(tmp_path / "broken").finished() == set()

    wild = write(("lr: 0.1", "lr: 1.0e+30"), ("[fp32, mine]", "[fp32]"), ("[0, 1]", "[0]"))
    diverged = hwsim("run", wild, "--output", tmp_path / "out", *here)
    assert diverged.exit_code == 0
    assert "1 of 1 runs diverged (fp32)" in diverged.stdout
    assert "nothing is missing" in hwsim("run", wild, "--output", tmp_path / "out").stdout


UNKNOWN = (
    "name: digits_mlp, epochs: 1, batch_size: 256, width: 4",
    "name: odd, epochs: 1, batch_size: 2, loss: half_squared_error, model: study_cases:unknown_model, "
    "data: study_cases:few_points",
)


@pytest.mark.parametrize(
    ("coverage", "exit_code", "error"),
    [
        (
            "{fail_under: 1.0, unknown_ops: pass}",
            1,
            r"error: coverage: fp32, seed 0 \(\w+\): got 94.02.* % of operations and .* % of FLOPs; allowed: 100 % at least",
        ),
        ("{fail_under: 0.5, unknown_ops: pass}", 0, ""),
        ("{fail_under: 1.0}", 1, "operation hwsim_tests.doubled.default is not known to the emulator"),
    ],
)
def test_coverage_can_be_a_condition_of_a_study(
    write: Write, tmp_path: Path, here: Here, coverage: str, exit_code: int, error: str
) -> None:
    seeds = ("[0, 1]", f"[0]\n  coverage: {coverage}")
    path = write(UNKNOWN, seeds, ("lr: 0.1", "lr: 0.01"), ("[fp32, mine]", "[fp32]"))
    result = hwsim("run", path, "--output", tmp_path / "out", *here, "--trust", "study_cases")
    assert result.exit_code == exit_code
    assert re.search(error, result.stderr)
    if "pass" not in coverage:
        return
    page = (tmp_path / "out" / "report.html").read_text()
    told = "demands more coverage than 1 of its runs have" if exit_code else "50 % of operations and FLOPs"
    assert told in page
    assert "unknown operation, passed by unknown_ops: pass" in page


def test_the_report_says_where_a_run_diverged(write: Write, tmp_path: Path, here: Here) -> None:
    wild = write(("lr: 0.1", "lr: 1.0e+30"), ("[fp32, mine]", "[fp32]"), ("[0, 1]", "[0]"))
    hwsim("run", wild, "--output", tmp_path / "out", *here)
    page = (tmp_path / "out" / "report.html").read_text()
    assert re.search("<td[^>]*>3/output</td><td[^>]*>addmm</td><td[^>]*>forward</td>", page)
    assert "the datapath declares no cast" in page


def test_lists_are_tables_or_json() -> None:
    assert "fp8_e4m3fn" in hwsim("list", "formats", "fp8*").stdout
    names = [row["name"] for row in json.loads(hwsim("list", "formats", "fp8_e4m3fn*", "--json").stdout)]
    assert names == ["fp8_e4m3fn", "fp8_e4m3fnuz"]


@pytest.mark.parametrize("kind", ["datapaths", "studies", "macs", "tasks", "executors", "backends"])
def test_every_kind_can_be_listed(kind: str) -> None:
    rows = json.loads(hwsim("list", kind, "--json").stdout)
    assert all("name" in row for row in rows)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fp4_e2m1fn", "max: 6.0"),
        ("bf16", "exponent_bits: 8"),
        ("fp8_current", "format:"),
        ("quickstart", "runs:"),
        ("digits_mlp", "width:"),
        ("binary8p3se", "bits: 8"),
    ],
)
def test_show_says_what_a_name_stands_for(name: str, text: str) -> None:
    shown = hwsim("show", name)
    assert shown.exit_code == 0
    assert text in shown.stdout


def test_show_lists_every_code_of_a_small_format() -> None:
    values = json.loads(hwsim("show", "fp4_e2m1fn", "--json").stdout)["format"]["values"]
    assert (len(values), values["0111"], values["1001"]) == (16, 6.0, -0.5)


def test_the_schema_is_json_that_allows_the_shipped_studies() -> None:
    schema = json.loads(hwsim("schema").stdout)
    assert set(schema["properties"]) == {"study", "formats", "macs", "datapaths"}
    assert set(schema["$defs"]["Study"]["properties"]) >= {"task", "optimizer", "grid", "zip", "exclude", "seeds", "report"}


def test_a_name_of_a_format_and_a_datapath_is_shown_as_the_kind_asked_for() -> None:
    assert "format" in json.loads(hwsim("show", "bf16", "--json").stdout)
    assert "gemm" in json.loads(hwsim("show", "bf16", "--kind", "datapath", "--json").stdout)["datapath"]
