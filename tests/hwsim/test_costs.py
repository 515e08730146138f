"""What arithmetic costs: widths that are exact, and tables that say where they come from."""

from math import log2
from typing import Any

import pytest
from pydantic import ValidationError

import hwsim
from hwsim import ConfigError
from hwsim.costs import (
    Table,
    accumulator_bits,
    bits_per_element,
    cost,
    cost_tables,
    gemm_cost,
    significand,
    stochastic_unit_bits,
)
from hwsim.formats import Rounding
from hwsim.macs import mac


def horowitz() -> Table:
    table = cost("horowitz_45nm")
    assert isinstance(table, Table)
    return table


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("mxfp4", 4.25),
        ("mxfp6_e2m3", 6.25),
        ("mxfp8_e4m3", 8.25),
        ("nvfp4", 4.5),
        ("nvfp4_16x16", 4.03125),
        ("int8", 8),
        ("fp32", 32),
    ],
)
def test_a_block_format_stores_its_share_of_the_scale(name: str, bits: float) -> None:
    assert bits_per_element(hwsim.format(name)) == bits


@pytest.mark.parametrize(("a", "b", "terms", "bits"), [("int8", "int8", 4096, 28), ("int4", "int8", 1, 12)])
def test_integers_sum_exactly_in_the_product_and_the_carries(a: str, b: str, terms: int, bits: int) -> None:
    assert accumulator_bits(hwsim.format(a), hwsim.format(b), terms) == bits


def test_minifloats_sum_exactly_in_the_width_of_aggarwal_et_al() -> None:
    e4m3 = hwsim.format("fp8_e4m3fn")
    assert accumulator_bits(e4m3, e4m3, 4096) == 16 + 3 + 16 + 3 + 12 - 1


@pytest.mark.parametrize("name", list(cost_tables()))
def test_every_table_has_a_unit_a_node_and_a_source_and_prices_wider_formats_higher(name: str) -> None:
    table = cost(name)
    assert table.unit
    assert table.node
    assert table.includes
    assert table.source
    prices = [table.multiply_add(fmt, fmt, 128) for fmt in map(hwsim.format, ("fp4_e2m1", "fp8_e4m3fn", "bf16", "fp32"))]
    assert prices == sorted(prices)
    assert prices[0] > 0


@pytest.mark.parametrize(
    ("name", "product", "addition"),
    [("int8", 0.2, 0.03), ("int16", None, 0.05), ("int32", 3.1, 0.1), ("fp16", 1.1, 0.4), ("fp32", 3.7, 0.9)],
)
def test_the_published_points_of_horowitz_are_kept(name: str, product: float | None, addition: float) -> None:
    table, fmt = horowitz(), hwsim.format(name)
    assert table.addition(significand(fmt)[0] == 0, fmt.bits) == addition
    if product is not None:
        assert table.product(fmt, fmt) == product


def test_energy_is_linear_between_published_points_and_proportional_outside_of_them() -> None:
    table = horowitz()
    assert table.addition(True, 24) == pytest.approx((0.05 + 0.1) / 2)
    assert table.addition(False, 24) == pytest.approx((0.4 + 0.9) / 2)
    assert table.addition(False, 8) == pytest.approx(0.4 / 2)
    assert table.addition(True, 64) == pytest.approx(0.1 * 2)
    e4m3, bf16, tf32, fp32 = map(hwsim.format, ("fp8_e4m3fn", "bf16", "tf32", "fp32"))
    assert table.product(e4m3, e4m3) == pytest.approx(1.1 * 4**2 / 11**2)
    assert table.product(tf32, fp32) == pytest.approx(1.1 + 2.6 * (11 * 24 - 11**2) / (24**2 - 11**2))
    assert table.product(bf16, hwsim.format("int8")) == pytest.approx(1.1 * 8 * 8 / 11**2)


def test_a_table_of_energies_has_a_figure_of_integers_and_one_of_floats() -> None:
    given = horowitz().model_dump()
    with pytest.raises(ValidationError, match="add: got int8; allowed: at least one integer and one float"):
        Table.model_validate({**given, "add": {"int8": 0.03}})


def test_fp32_on_torchs_own_sums_costs_a_product_and_a_sum_of_fp32() -> None:
    fp32 = hwsim.format("fp32")
    assert horowitz().multiply_add(fp32, fp32, 128) == pytest.approx(3.7 + 0.9)


@pytest.mark.parametrize(
    ("unit", "sums"),
    [
        ("native", 0.9),
        ("fp32_sequential", 0.9),
        ("nvidia_hopper_fp8", 0.4 + 0.5 * 6 / 16),
        ("deepseek_fp8", 0.4 + 0.5 * 6 / 16 + 0.9 / 128),
        ("fp8_fp12_stochastic", 0.4 * 12 / 16),
    ],
)
def test_a_sum_costs_what_its_accumulator_does_and_its_share_of_outer_sums(unit: str, sums: float) -> None:
    e4m3 = hwsim.format("fp8_e4m3fn")
    assert horowitz().multiply_add(e4m3, e4m3, 128, mac(unit)) == pytest.approx(1.1 * 16 / 121 + sums)


def test_an_integer_accumulator_is_priced_as_it_is_declared() -> None:
    int8 = hwsim.format("int8")
    assert horowitz().multiply_add(int8, int8, 128, mac("int8_int32")) == pytest.approx(0.2 + 0.1)
    assert horowitz().multiply_add(int8, int8, 128) == pytest.approx(0.2 + 0.05 + 0.05 * (23 - 16) / 16)


def test_gates_align_to_the_significand_of_the_units_own_sum() -> None:
    gates, fmt = cost("gates"), hwsim.format("fp8_e5m2")
    units = ["nvidia_ada_fp8", "nvidia_hopper_fp8", "nvidia_blackwell_fp8", "fp32_sequential", "native"]
    found = {name: gates.multiply_add(fmt, fmt, 128, mac(name)) for name in units}
    assert found["nvidia_ada_fp8"] == found["nvidia_hopper_fp8"]
    assert found["nvidia_hopper_fp8"] < found["fp32_sequential"] == found["native"] < found["nvidia_blackwell_fp8"]
    less = 24 * log2(24) - 14 * log2(14)
    assert found["native"] - found["nvidia_hopper_fp8"] == pytest.approx(7.8 * 10 + 3 * less * (1 + 1 / 32))


def test_a_stochastic_sum_adds_a_register_and_an_adder_to_every_lane() -> None:
    gates, fmt, unit = cost("gates"), hwsim.format("fp8_e5m2"), mac("fp8_fp12_stochastic")
    nearest = unit.model_copy(update={"accumulator": unit.accumulator.model_copy(update={"rounding": Rounding()})})
    added = gates.multiply_add(fmt, fmt, 128, unit) - gates.multiply_add(fmt, fmt, 128, nearest)
    assert added == pytest.approx(13 * (6.0 + 7.8))


def test_the_verdict_between_int8_and_fp8_hangs_on_one_cell() -> None:
    gates: Any = cost("gates")
    int8, fp8 = hwsim.format("int8"), hwsim.format("fp8_e4m3fn")

    def ratio(multiplexer: float) -> float:
        table = gates.model_copy(update={"cells": {**gates.cells, "mux2": multiplexer}})
        return float(table.multiply_add(int8, int8, 32) / table.multiply_add(fp8, fp8, 32))

    assert ratio(1.75) > 1 > ratio(4.0)


def test_a_run_costs_the_operands_of_its_multiply_adds_and_nothing_of_their_results() -> None:
    common = {"phase": "forward", "op": "mm", "site": "head", "gemm": "output"}
    audit = [
        {**common, "role": "input", "cast": "int8 absmax per tensor", "flops": 0},
        {**common, "role": "weight", "cast": "none", "flops": 0},
        {**common, "role": "result", "cast": "bf16", "flops": 200},
        {**common, "gemm": "", "role": "vector", "cast": "bf16", "flops": 7},
    ]
    assert gemm_cost(cost("operand_bits"), audit) == 100 * (8 + 32)


def test_a_stochastic_rounding_is_a_register_and_an_adder() -> None:
    assert stochastic_unit_bits(13) == {"flip_flops": 13, "full_adders": 13}


def test_an_unknown_table_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(ConfigError, match=r"cost: got 'gate'; allowed: gates, horowitz_45nm, operand_bits; did you mean 'gates'"):
        cost("gate")


def test_a_format_that_no_multiplier_takes_is_refused() -> None:
    with pytest.raises(ConfigError, match="allowed: integers, fixed point, floats"):
        cost("gates").multiply_add(hwsim.format("nf4"), hwsim.format("nf4"), 32)
