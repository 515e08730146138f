"""What a run computes and keeps, from its audit and its datapath as they are stored."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import nn

import hwsim
from hwsim import FormatError
from hwsim.casts import Cast
from hwsim.catalogue import Catalogue, shipped
from hwsim.config import loads
from hwsim.costs import MultiplyAdd, bits_per_element, cost, moved_bits, multiply_adds, stored_bits
from hwsim.datapaths import Datapath, datapath
from hwsim.fields import format_mapping, format_record
from hwsim.layering import OPERANDS_OF
from hwsim.macs import mac

OWN = """\
formats:
  narrow: {kind: float, exponent_bits: 2, mantissa_bits: 1}
  wide: {kind: float, exponent_bits: 5, mantissa_bits: 7}
macs:
  small: {accumulator: {format: narrow}, order: sequential}
datapath:
  gemm: {all: {input: narrow, weight: narrow, grad_output: {format: wide, scaling: absmax}, mac: small}}
  overrides: {head: {gemm: {all: {input: wide, mac: native}}}}
"""


def audit_of(machine: Datapath, site: str = "head", product: bool = False) -> Iterator[dict[str, Any]]:
    """The rows of one product in each GEMM; a `product` of two activations has no other roles here."""
    layer = machine.layer(site)
    for gemm, operands in OPERANDS_OF.items():
        path = getattr(layer.of_products if product else layer.gemm, gemm)
        unit = path.mac.name or str(path.mac.order)
        common = {"phase": "forward", "op": "mm", "site": site, "gemm": gemm, "mac": unit, "count": 1}
        for role in (*operands, "result"):
            cast = getattr(path, role)
            yield {**common, "role": role, "cast": "none" if cast is None else str(cast), "flops": 2 * (role == "result")}


def stored(machine: Datapath) -> Datapath:
    """A datapath as `run.json` has it: without the names of its own formats."""
    return Datapath.model_validate_json(json.dumps(machine.model_dump(mode="json")))


def own() -> Datapath:
    document = loads(OWN, "own.yaml")
    return hwsim.config.validate(document, Datapath, ("datapath",), Catalogue.of(document))


@pytest.mark.parametrize("name", sorted(shipped("datapaths")))
def test_every_format_that_a_shipped_recipe_declares_is_found_in_its_stored_run(name: str) -> None:
    machine = datapath(name)
    found = multiply_adds(list(audit_of(machine)), datapath=stored(machine))
    declared = {
        repr(format_mapping(cast.format)) if (cast := getattr(getattr(machine.gemm, gemm), role)) else "none"
        for gemm, operands in OPERANDS_OF.items()
        for role in operands
    }
    wide = repr(format_mapping(format_record("fp32")))
    seen = {repr(format_mapping(fmt)) for of in found for fmt in (of.a, of.b)}
    assert seen == {wide if text == "none" else text for text in declared}
    assert sum(found.values()) == 3


def test_a_recipes_block_floats_have_a_price_in_every_table() -> None:
    machine = datapath("mxfp8")
    (of,) = multiply_adds(list(audit_of(machine)), datapath=stored(machine))
    assert bits_per_element(of.a) == 8.25
    assert all(cost(name).multiply_add(of.a, of.b, 128, of.unit) > 0 for name in ("operand_bits", "gates", "horowitz_45nm"))


def test_products_of_two_activations_have_the_formats_and_the_unit_that_are_declared_for_them() -> None:
    machine = datapath("b200_mxfp8")
    found = multiply_adds([*audit_of(machine), *audit_of(machine, product=True)], datapath=stored(machine))
    assert [(bits_per_element(of.a), of.unit.name, count) for of, count in found.items()] == [
        (8.25, "nvidia_blackwell_mxfp8", 3),
        (16, "nvidia_blackwell_bf16", 3),
    ]


def test_a_name_that_only_a_datapaths_own_file_knows_is_no_name_without_it() -> None:
    with pytest.raises(FormatError, match="got 'mxfp8_rceil'"):
        multiply_adds(list(audit_of(datapath("mxfp8"))))


def test_a_format_declared_in_place_is_found_by_its_kind() -> None:
    block = {"kind": "block", "element": "fp4_e2m1fn", "scale": "e8m0fnu", "size": 8}
    machine = hwsim.datapath({"name": "in_place", "gemm": {"all": {"input": block, "weight": block, "grad_output": block}}})
    (of,) = multiply_adds(list(audit_of(machine)), datapath=stored(machine))
    assert bits_per_element(of.a) == 5


def test_casts_are_told_apart_by_what_their_words_say_beside_the_name() -> None:
    machine = own()
    work = multiply_adds(
        list(audit_of(machine, "other")), datapath=stored(machine), catalogue=Catalogue.of(loads(OWN, "own.yaml"))
    )
    pairs = [(of.a.bits, of.b.bits, of.unit.accumulator.format.bits) for of in work]
    assert pairs == [(4, 4, 4), (13, 4, 4)]


def test_two_formats_without_a_known_name_that_read_alike_are_not_guessed() -> None:
    machine = own()
    with pytest.raises(FormatError, match="got 'narrow'"):
        multiply_adds(list(audit_of(machine, "other")), datapath=stored(machine))


def test_each_product_goes_to_the_unit_of_its_gemm() -> None:
    machine = datapath("h100_fp8")
    units = {of.unit for of in multiply_adds(list(audit_of(machine)), datapath=stored(machine))}
    assert units == {mac("nvidia_hopper_fp8"), machine.gemm.grad_input.mac}
    (plain,) = multiply_adds(list(audit_of(datapath("bf16"))))
    assert plain == MultiplyAdd(hwsim.format("bf16"), hwsim.format("bf16"), mac("native"))


def optimizer_rows(machine: Datapath, elements: int) -> list[dict[str, Any]]:
    """Three steps that write a weight twice each, and its moments once."""

    def row(role: str, cast: Cast | None, op: str) -> dict[str, Any]:
        site = "w" if role == "weight" else f"w/{role}"
        common = {"phase": "optimizer", "gemm": "", "site": site, "op": op, "count": 3}
        return {**common, "role": role, "cast": "none" if cast is None else str(cast), "flops": 3 * elements}

    unit = machine.optimizer
    written = [("weight", unit.weight, "mul_"), ("weight", unit.weight, "addcdiv_")]
    return [row(*one) for one in (*written, ("momentum", unit.momentum, "lerp_"), ("variance", unit.variance, "mul_"))]


@pytest.mark.parametrize(("name", "bits"), [("fp32", 96), ("bf16_pure", 48), ("fp8_lm", 16 + 8 + 16), ("adam8bit", 32 + 8 + 8)])
def test_weights_and_states_are_stored_once_in_the_optimizers_formats(name: str, bits: int) -> None:
    machine = datapath(name)
    assert stored_bits(optimizer_rows(machine, 10), datapath=stored(machine)) == 10 * bits


WEIGHT, PATCHES = 4 * 2 * 3 * 3, 5 * 4 * 6 * 6
"""Elements of the convolution's weight and of its result."""
MOVING: dict[str, tuple[nn.Module, tuple[int, ...], dict[str, int]]] = {
    "linear": (nn.Linear(8, 3), (5, 8), {"input": 40, "weight": 24, "grad_output": 15}),
    "convolution": (nn.Conv2d(2, 4, 3), (5, 2, 8, 8), {"input": 640, "weight": WEIGHT, "grad_output": PATCHES}),
}


@pytest.mark.parametrize("name", list(MOVING))
@pytest.mark.parametrize("recipe", ["fp32", "fp8_current", "mxfp8", "h100_fp8"])
def test_each_gemm_reads_its_operands_and_writes_its_result_once(name: str, recipe: str) -> None:
    model, shape, elements = MOVING[name]
    machine = datapath(recipe)
    with hwsim.emulate(model, machine) as running:
        model(torch.randn(shape, requires_grad=True)).square().sum().backward()
        rows = [asdict(row) for row in running.audit()]
    results = {"output": "grad_output", "grad_input": "input", "grad_weight": "weight"}  # of whose shape each GEMM's result is
    wanted = 0.0
    for gemm, operands in OPERANDS_OF.items():
        path = getattr(machine.gemm, gemm)
        for role, size_of in (*((role, role) for role in operands), ("result", results[gemm])):
            cast = getattr(path, role)
            wanted += elements[size_of] * (32 if cast is None else bits_per_element(cast.format))
    assert moved_bits(rows, datapath=stored(machine)) == wanted
