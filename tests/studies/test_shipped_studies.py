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

ACCELERATORS = {"b200_mxfp8", "b200_nvfp4", "h100_fp8", "mi300x_fp8"}
"""Recipes on the units of an accelerator, which the study `accelerators` is about."""
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
