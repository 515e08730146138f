"""What arithmetic costs: widths that are exact, and tables that say where they come from."""

from typing import Any

import pytest

import hwsim
from hwsim import ConfigError
from hwsim.costs import accumulator_bits, bits_per_element, cost, cost_tables, gemm_cost, stochastic_unit_bits


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


def test_the_figures_of_horowitz_are_those_that_the_table_was_made_from() -> None:
    table: Any = cost("horowitz_45nm")
    assert table.multiply["integer"] * 8**2 == pytest.approx(0.2, rel=0.01)
    assert table.multiply["float"] * 11**2 == pytest.approx(1.1, rel=0.01)


def test_the_verdict_between_int8_and_fp8_hangs_on_one_cell() -> None:
    gates: Any = cost("gates")
    int8, fp8 = hwsim.format("int8"), hwsim.format("fp8_e4m3fn")

    def ratio(multiplexer: float) -> float:
        table = gates.model_copy(update={"cells": {**gates.cells, "mux2": multiplexer}})
        return float(table.multiply_add(int8, int8, 32) / table.multiply_add(fp8, fp8, 32))

    assert ratio(1.75) > 1 > ratio(4.0)


def test_a_run_costs_its_multiply_adds() -> None:
    common = {"phase": "forward", "op": "mm", "site": "head", "gemm": "output"}
    audit = [
        {**common, "role": "input", "cast": "int8 absmax per tensor", "flops": 0},
        {**common, "role": "weight", "cast": "none", "flops": 0},
        {**common, "role": "result", "cast": "bf16", "flops": 200},
        {**common, "gemm": "", "role": "vector", "cast": "bf16", "flops": 7},
    ]
    assert gemm_cost(cost("bits"), audit) == 100 * (8 + 32)


def test_a_stochastic_rounding_is_a_register_and_an_adder() -> None:
    assert stochastic_unit_bits(13) == {"flip_flops": 13, "full_adders": 13}


def test_an_unknown_table_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(ConfigError, match=r"cost: got 'gate'; allowed: bits, gates, horowitz_45nm; did you mean 'gates'"):
        cost("gate")


def test_a_format_that_no_multiplier_takes_is_refused() -> None:
    with pytest.raises(ConfigError, match="allowed: integers, fixed point, floats"):
        cost("gates").multiply_add(hwsim.format("nf4"), hwsim.format("nf4"), 32)
