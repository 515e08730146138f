"""Experiments: studies whose runs are frozen questions, performed, stored, read back and reported as any run is."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import duckdb
import pytest
import torch
from typer.testing import CliRunner

from hwsim.catalogue import shipped_studies
from hwsim.config import loads
from hwsim.config.record import Record
from hwsim.errors import ConfigError, StudyError
from hwsim.studies.cli import app
from hwsim.studies.editing import study_schema
from hwsim.studies.experiments import Experiment, Section, experiments, registry
from hwsim.studies.experiments.aprox_convergence import minimisers
from hwsim.studies.files import StudyFile, load_study
from hwsim.studies.plan import Plan, expand
from hwsim.studies.report.plots import experiment_plot
from hwsim.studies.schema import ExperimentRun, ExperimentStudy
from hwsim.studies.store import Store
from hwsim.studies.worker import perform
from hwsim.training import ABSOLUTE, PAR, Glm, objective

SPECTRA = """\
study:
  name: spectra
  experiment: {name: spectral_distortion, dimension: 8}
  grid: {experiment.size: [0.01, 0.1]}
  seeds: [0, 1]
"""


def plan_of(*edits: tuple[str, str]) -> Plan:
    text = SPECTRA
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return expand(StudyFile.of(loads(text, "spectra.yaml")))


def hwsim(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


class TestPlans:
    def test_every_point_and_seed_is_a_complete_frozen_run(self) -> None:
        plan = plan_of()
        runs = list(plan.runs.values())
        assert [(place.settings, place.seed) for place in plan.places] == [
            ({"experiment.size": size}, seed) for size in (0.01, 0.1) for seed in (0, 1)
        ]
        assert all(isinstance(run, ExperimentRun) for run in runs)
        assert runs[0].experiment.bases == ("identity", "hadamard", "random")  # type: ignore[union-attr]
        assert ExperimentRun.model_fields["threads"].default == 1

    @pytest.mark.parametrize(
        "edit", [("dimension: 8", "dimension: 16"), ("[0, 1]", "[2, 3]"), ("name: spectra\n", "name: spectra\n  threads: 2\n")]
    )
    def test_whatever_a_result_depends_on_changes_the_ids(self, edit: tuple[str, str]) -> None:
        assert not plan_of().runs.keys() & plan_of(edit).runs.keys()

    @pytest.mark.parametrize("edit", [("name: spectra\n", "name: other\n"), ("dimension: 8", "exponent: 2, dimension: 8")])
    def test_names_and_written_out_defaults_do_not(self, edit: tuple[str, str]) -> None:
        assert list(plan_of(edit).runs) == list(plan_of().runs)

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (("spectral_distortion", "spectral_distorsion"), "spectra.yaml:3: study.experiment.name: got 'spectral_distorsion'"),
            (("spectral_distortion", "spectral_distorsion"), "did you mean 'spectral_distortion'?"),
            (("dimension: 8", "dimensions: 8"), "spectra.yaml:3: study.experiment.dimensions: unknown key"),
            (("dimension: 8", "dimensions: 8"), "did you mean 'dimension'?"),
            (("dimension: 8", "dimension: 6"), "got 6 with a Hadamard basis; allowed: a power of two"),
            (("dimension: 8", "bases: [hadamrd]"), "study.experiment.bases[0]: got 'hadamrd'"),
            (("[0.01, 0.1]", "[0.01, -1]"), "spectra.yaml:4: study.grid['experiment.size'][1]: got -1"),
            (("experiment.size", "experiment.sice"), "spectra.yaml:4: study.grid['experiment.sice'][0]: unknown key"),
            (("experiment.size", "task.size"), "got the axis 'task.size'; allowed: threads, and dotted paths such as"),
            (("[0.01, 0.1]", "[0.01, 0.01]"), "are the same run; allowed: points that differ"),
            (("  seeds", "  task: {name: digits_mlp}\n  seeds"), "study.task: unknown key"),
            (("name: spectral_distortion, ", ""), "study.experiment.name: missing"),
        ],
    )  # fmt: skip
    def test_a_wrong_experiment_is_refused_with_its_place(self, edit: tuple[str, str], message: str) -> None:
        with pytest.raises(ConfigError) as refusal:
            plan_of(edit)
        assert message in str(refusal.value)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, here: tuple[str, str]) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("experiment")
    path, output = folder / "spectra.yaml", folder / "out"
    path.write_text(SPECTRA)
    return SimpleNamespace(path=path, output=output, result=hwsim("run", path, "--output", output, *here))


class TestResults:
    def test_a_study_answers_its_question_in_the_first_sentence(self, study: SimpleNamespace) -> None:
        assert study.result.exit_code == 0
        assert "spectra: 4 runs done, 0 were finished before" in study.result.stdout
        assert "in 8 dimensions, multiplicative errors only scale" in " ".join(study.result.stdout.split())
        page = (study.output / "report.html").read_text()
        assert page.count("<svg") == 1
        assert "approximation error" in page

    def test_what_is_done_is_not_done_again(self, study: SimpleNamespace) -> None:
        before = {path: path.stat().st_mtime_ns for path in study.output.glob("runs/*/*")}
        again = hwsim("run", study.path, "--output", study.output)
        assert "nothing is missing, 4 were finished before" in again.stdout
        assert {path: path.stat().st_mtime_ns for path in study.output.glob("runs/*/*")} == before

    def test_rows_are_read_by_one_query(self, study: SimpleNamespace) -> None:
        runs = f"{study.output}/runs/*"
        query = f"""select run.run.experiment.size, count(*), max(quantized) > 1 from read_json_auto('{runs}/run.json') run
            join '{runs}/metrics.parquet' rows using (id) where law = 'additive' group by all order by all"""
        assert duckdb.sql(query).fetchall() == [(0.01, 48, True), (0.1, 48, True)]

    def test_the_report_is_csv_json_and_latex_too(self, study: SimpleNamespace) -> None:
        lines = hwsim("report", study.output, "--csv").stdout.splitlines()
        assert len(lines) == 1 + 4 * 48
        found = json.loads(hwsim("report", study.output, "--json").stdout)
        assert (found["experiment"]["name"], found["missing"]) == ("spectral_distortion", 0)
        assert hwsim("report", study.output, "--latex").stdout.startswith("\\begin{tabular}")


SMALL: dict[str, Mapping[str, Any]] = {
    "additive_vs_multiplicative": {"dimensions": (4, 16), "integer_bits": (4,), "bits": (4,), "steps": 40},
    "aprox_convergence": {"steps": 200, "times": (20, 200), "problems": 2, "ste_steps": 4, "rhos": (2.0, 1e6)},
    "batch_scaling": {"dimension": 6, "steps": 40, "batches": (1, 64, 256)},
    "dimension": {"dimensions": (10, 400), "steps": 40, "size": 0.1},
    "par_regression": {
        "dimension": 16, "problems": 2, "shares": (0.25,), "strengths": (0.1,), "observations": (20, 60), "iterations": (1, 20),
        "starts": 3,
    },
    "post_training": {"datapath": "int8", "sentences": 6, "batch_size": 6},
    "quantized_sgd_components": {"dimension": 6, "steps": 40, "replicas": 64},
    "spectral_distortion": {"dimension": 8},
    "storage_rounding": {"dimension": 6, "lengths": (20, 40), "simulated": 40, "replicas": 16},
    "trained_components": {
        "task": {"name": "diabetes_regression", "epochs": 1, "batch_size": 64},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "cast": "int4",
    },
}  # fmt: skip


def small(name: str) -> Any:
    return experiments()[name].parameters.model_validate({"name": name, **SMALL[name]})


@cache
def rows_of(name: str) -> list[dict[str, Any]]:
    return experiments()[name].rows(small(name), 3)


@pytest.mark.parametrize("name", ["quantized_sgd_components", "spectral_distortion", "storage_rounding"])
def test_rows_are_a_function_of_parameters_and_seed(name: str) -> None:
    assert experiments()[name].rows(small(name), 3) == rows_of(name) != experiments()[name].rows(small(name), 4)


def test_every_experiment_has_a_small_case_here_and_a_shipped_study() -> None:
    assert {*SMALL, "silicon_cost"} == set(experiments()), "tests/rtl has the one that needs a synthesiser"
    studies = [load_study(path).study for path in shipped_studies().values()]
    assert {study.experiment["name"] for study in studies if isinstance(study, ExperimentStudy)} == set(experiments())


@pytest.mark.parametrize("name", SMALL)
class TestEachExperiment:
    def test_answers_with_numbers_a_table_and_a_plot(self, name: str) -> None:
        experiment, parameters = experiments()[name], small(name)
        given = {field: getattr(parameters, field) for field in type(parameters).model_fields}
        section = experiment.section([{**given, "seed": 3, **row} for row in rows_of(name)])
        assert any(character.isdigit() for character in section.headline)
        assert section.headline.endswith(".")
        assert all(len(row) == len(table.header) for table in section.tables for row in table.rows)
        assert all(experiment_plot(plot).svg().startswith("<svg") for plot in section.plots)
        assert section.tables
        assert section.plots

    def test_can_be_read_back_from_its_own_record(self, name: str) -> None:
        experiment = experiments()[name]
        run = ExperimentRun(experiment=small(name), seed=0)
        stored = json.loads(json.dumps(run.model_dump(mode="json")))["experiment"]
        assert ExperimentRun(experiment=experiment.parameters.model_validate(stored), seed=0).hash == run.hash


class TestFindings:
    """What the shipped questions turn on, at a size that a test can pay."""

    def test_a_batch_divides_what_is_drawn_for_each_sample_and_not_what_it_has_in_common(self) -> None:
        costs = {(row["law"], row["place"], row["batch"]): row["cost"] for row in rows_of("batch_scaling")}
        assert costs["multiplicative", "activations", 256] < 0.3 * costs["multiplicative", "activations", 64]
        assert costs["batch_common", "activations", 256] > 0.8 * costs["batch_common", "activations", 64]

    def test_the_quantization_rate_is_above_its_bound_and_zero_where_a_slope_is(self) -> None:
        rates = [row for row in rows_of("par_regression") if row["kind"] in ("rate", "zero slope")]
        assert all(row["least"] >= row["bound"] for row in rates if row["kind"] == "rate")
        assert [row["rate"] for row in rates if row["kind"] == "zero slope"] == [0.0]

    def test_the_rate_is_zero_at_critical_points_in_the_flat_pieces_of_a_regularizer_that_is_not_convex(self) -> None:
        (row,) = (row for row in rows_of("par_regression") if row["kind"] == "flat pieces")
        assert (row["rate"], row["least"]) == (0.0, 0.0)
        assert row["bound"] > 0.8
        assert row["violation"] < 1e-9

    def test_different_starts_end_in_different_critical_points_which_all_keep_the_bound(self) -> None:
        rows = [row for row in rows_of("par_regression") if row["kind"] == "starts"]
        assert {row["family"] for row in rows} == {"quasi-convex", "non-convex"}
        for row in rows:
            assert 1 < row["points"] <= row["starts"] == 3
            assert row["spread"] > 0.01
            assert row["violation"] < 1e-9
            assert row["least"] >= row["bound"] == 0.75

    def test_the_rate_falls_below_its_bound_where_columns_are_not_in_general_position(self) -> None:
        (row,) = (row for row in rows_of("par_regression") if row["kind"] == "repeated columns")
        assert row["rate"] < row["bound"]

    @pytest.mark.parametrize("loss", ["logistic", "absolute"])
    def test_aprox_stays_within_the_theorem_and_quantized_as_prox_sgd_does_not_and_parq_tends_to_ste(self, loss: str) -> None:
        """The gaps are to the least objective there is: none is below zero, in any of the problems."""
        parameters = small("aprox_convergence").model_copy(update={"loss": loss})
        rows = experiments()["aprox_convergence"].rows(parameters, 3)
        runs = {(row["method"], row["t"]): row for row in rows if row["kind"] == "gap"}
        for (method, _), row in runs.items():
            assert -1e-9 <= row["least"] <= row["gap"] <= row["largest"]
            assert method != "AProx" or row["largest"] <= row["bound"] / 10
        assert runs["AProx", 200]["gap"] < runs["AProx", 20]["gap"] / 2
        assert runs["AProx", 200]["rate"] >= 0.1 > 0.03 >= runs["Prox-SGD", 200]["rate"]
        far, near = (sum(row["distance"] for row in rows if row.get("rho") == rho) for rho in (2.0, 1e6))
        assert near == 0 < far

    def test_the_absolute_loss_is_compared_with_the_minimum_that_no_point_beats(self) -> None:
        draw = torch.Generator().manual_seed(0)
        par = PAR((0.0, 0.5, 1.0), (0.5, 1.0, inf))
        design = torch.randn(2, 30, 4, generator=draw, dtype=torch.float64)
        problem = Glm(design, torch.randn(2, 30, generator=draw, dtype=torch.float64), ABSOLUTE)
        best = minimisers(problem, par, 0.05)
        least = objective(problem, par, 0.05, best)
        for reach in (1e-3, 1e-2, 1e-1, 1.0):
            for _ in range(50):
                near = best + reach * torch.randn(2, 4, generator=draw, dtype=torch.float64)
                assert bool((objective(problem, par, 0.05, near.clamp(-1, 1)) >= least - 1e-12).all())

    def test_additive_errors_reach_the_limit_of_stability_first(self) -> None:
        numbers = {(row["law"], row["d"]): row["stability"] for row in rows_of("dimension")}
        assert numbers["multiplicative", 400] < 1 < numbers["additive", 400]

    def test_a_pretrained_network_keeps_the_order_of_its_answers_in_eight_bits_and_all_of_it_is_emulated(self) -> None:
        (row,) = rows_of("post_training")
        assert (row["family"], row["bits"], row["coverage"]) == ("integers", 8.0, 1.0)
        assert 0.9 < row["spearman"] < 1
        assert 0.9 < row["cosine"] < 1

    def test_the_components_of_a_real_run_leave_the_others_alone(self) -> None:
        losses = {row["target"]: row["test_loss"] for row in rows_of("trained_components")}
        assert set(losses) == {"none", "data", "labels", "parameters", "activations", "output_gradients", "all"}
        assert len(set(losses.values())) == 7


class Failing(Record):
    """Does it fail?"""

    name: Literal["failing"]


def failing() -> Experiment:
    def rows(parameters: Failing, seed: int) -> list[dict[str, Any]]:
        raise RuntimeError("out of luck")

    return Experiment(Failing, rows, lambda rows: Section("Yes."))


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Experiment], None]]:
    """Installs an experiment as an entry point."""

    def install(experiment: Experiment) -> None:
        entry = SimpleNamespace(name=experiment.name, value="plugin:EXPERIMENT", load=lambda: experiment)
        monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
        registry.experiments.cache_clear()
        registry.experiment_setting.cache_clear()

    yield install
    registry.experiments.cache_clear()
    registry.experiment_setting.cache_clear()


def test_what_fails_is_a_failure_and_no_result(plugin: Callable[[Experiment], None], tmp_path: Path) -> None:
    plugin(failing())
    (run, *_) = expand(StudyFile.of(loads("study: {name: wrong, experiment: {name: failing}}", "wrong.yaml"))).runs.values()
    assert perform(run, tmp_path).error == "RuntimeError: out of luck"
    assert Store(tmp_path).finished() == set()


def test_a_plug_in_adds_an_experiment_and_may_not_take_a_name(plugin: Callable[[Experiment], None]) -> None:
    plugin(failing())
    assert experiments()["failing"].description == "Does it fail?"
    plugin(experiments()["dimension"])
    with pytest.raises(StudyError, match="experiment: 'dimension' of plugin:EXPERIMENT exists already"):
        experiments()


def test_experiments_are_listed_and_part_of_the_schema() -> None:
    rows = json.loads(hwsim("list", "experiments", "--json").stdout)
    assert {row["name"] for row in rows} == set(experiments())
    assert all(row["description"].endswith("?") for row in rows)
    assert "experiment" in study_schema()["$defs"]["ExperimentStudy"]["properties"]
    assert json.loads(hwsim("show", "trained_components", "--json").stdout)["kind"] == "experiment"
