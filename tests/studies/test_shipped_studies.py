"""The shipped training studies can answer what they ask: their axes, sizes and report settings."""

from collections import Counter

import pytest
import torch

import hwsim
from hwsim.budgets.machines import roles
from hwsim.casting import apply
from hwsim.catalogue import shipped
from hwsim.config import loads
from hwsim.formats import Draw
from hwsim.studies.budgeting import study_budgets
from hwsim.studies.files import StudyFile, load_study
from hwsim.studies.plan import Plan, expand
from hwsim.studies.schema import Study

ACCELERATORS = {name for name in shipped("datapaths") if name.startswith(("a100_", "b200_", "h100_", "mi300x_"))}
"""Recipes on the units of an accelerator, as those of the study `accelerators`."""
EDGES = "leaves the first and the last layer in single precision, which are all layers of the study's network"
NOT_COMPARED = {"w4a4_dorefa": EDGES, "w4a4_pact": EDGES}
"""Other recipes that `recipe_comparison` leaves out, and why."""


def study_of(file: StudyFile) -> Study:
    assert isinstance(file.study, Study)
    return file.study


@pytest.fixture(scope="module")
def accumulators() -> tuple[StudyFile, Plan]:
    file = load_study("accumulator_width")
    return file, expand(file)


def test_accumulators_vary_in_width_and_chunk_as_datapaths_of_their_own(accumulators: tuple[StudyFile, Plan]) -> None:
    macs = [machine.gemm.output.mac for machine in accumulators[1].machines.values()]
    plain = [mac for mac in macs if not (mac.is_native or mac.fused)]
    chunks = Counter((mac.accumulator.format.grid.mantissa_bits, getattr(mac.order, "chunked", None)) for mac in plain)
    assert chunks == Counter({(width, chunk): 1 for width in (3, 5, 7, 10, 13, 23) for chunk in (None, 16, 64)})
    assert {"native", "hopper_13", "hopper_13_promoted"} <= set(accumulators[1].machines)


def test_promotion_changes_products_at_the_studys_number_of_terms(accumulators: tuple[StudyFile, Plan]) -> None:
    file, plan = accumulators
    task = study_of(file).task
    terms = min(task["batch_size"], task["width"])
    plain, promoted = (plan.machines[name].gemm.grad_weight for name in ("hopper_13", "hopper_13_promoted"))
    assert promoted.mac.promote is not None
    assert terms >= 4 * promoted.mac.promote.every
    torch.manual_seed(0)
    assert plain.input is not None
    a, b = (apply(plain.input, torch.randn(size), Draw()) for size in ((8, terms), (terms, 8)))
    assert not torch.equal(hwsim.matmul(a, b, plain.mac), hwsim.matmul(a, b, promoted.mac))


def test_the_report_splits_the_step_of_chosen_accumulators(accumulators: tuple[StudyFile, Plan]) -> None:
    file, plan = accumulators
    chosen = study_of(file).report.sites
    assert chosen
    assert all("accumulator" in roles(plan.machines[name]) for name in chosen)
    small = file.document.text.replace("width: 512", "width: 4").replace("epochs: 10", "epochs: 1")
    (found,) = study_budgets(StudyFile.of(loads(small, "small.yaml")), chosen[:1], seeds=1, causes=False, groups=False)
    assert {row.gemm for row in found.budget.rows if row.role == "accumulator"} == {"output", "grad_input", "grad_weight"}


def test_every_training_recipe_is_compared() -> None:
    compared = set(expand(load_study("recipe_comparison")).machines)
    assert compared == set(shipped("datapaths")) - ACCELERATORS - set(NOT_COMPARED)
    for name in NOT_COMPARED:
        machine = hwsim.datapath(name)
        assert machine.first
        assert machine.last


def points_of(plan: Plan) -> set[tuple[str, object, object]]:
    return {(p.datapath, p.settings["quantizer.levels"], p.settings["quantizer.method"]) for p in plan.places}


@pytest.fixture(scope="module")
def drawn() -> Plan:
    return expand(load_study("parq_training_gpt"))


def test_networks_are_drawn_to_few_values_beside_rounded_activations_of_each_width_that_hardware_pairs_with_them(
    drawn: Plan,
) -> None:
    points = points_of(drawn)
    trained, binary = {"ste", "binary_relax", "parq", "lsq"}, "rule lsbq, bits 1"
    methods = {pair: {m for d, v, m in points if (d, v) == pair} for pair in {(d, v) for d, v, _ in points}}
    expected = {("a8", binary): trained, ("a8", "rule ternary"): trained, ("a4", "rule ternary"): trained}
    expected |= {(d, v): {*trained, "post_training"} for d in ("a8", "a4") for v in ("int2", "int4")}
    expected |= {("fp32", v): {*trained, "post_training"} for v in (binary, "rule ternary", "int2", "int3", "int4")}
    expected |= {("fp32", v): {*trained, "post_training"} - {"lsq"} for v in ("fp4_e2m1", "nf4")}
    assert methods == expected
    assert len(drawn.runs) == 3 * len(points) == 195


def test_the_studies_of_networks_have_the_same_points(drawn: Plan) -> None:
    for name in ("deit", "resnet20"):
        assert points_of(expand(load_study(f"parq_training_{name}"))) == points_of(drawn), name


def test_points_and_methods_that_were_added_leave_stored_runs_their_ids() -> None:
    """Runs of hours are found again by these names."""
    ids = {(p.datapath, *p.settings.values(), p.seed): p.id for p in expand(load_study("parq_training_deit")).places}
    assert ids["fp32", "rule lsbq, bits 1", "ste", 0] == "aa98a669a682"
    assert ids["a8", "int4", "parq", 2] == "d388d57683e3"
    assert ids["fp32", "rule ternary", "lsq", 1] == "910cb2f80d7b"
