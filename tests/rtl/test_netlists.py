"""Netlists, their simulation, areas and mutants; none of it needs a synthesiser."""

import json

import numpy as np
import pytest

from hwsim.errors import ConfigError
from hwsim.rtl.areas import Area, area, cells, ordered
from hwsim.rtl.mutation import mutants, mutated
from hwsim.rtl.netlist import KINDS, Netlist, from_yosys
from hwsim.rtl.simulator import codes_of, planes, simulate, simulate_words

TRUTH = {
    "NOT": lambda a, b, c: 1 - a,
    "AND": lambda a, b, c: a & b,
    "NAND": lambda a, b, c: 1 - (a & b),
    "OR": lambda a, b, c: a | b,
    "NOR": lambda a, b, c: 1 - (a | b),
    "XOR": lambda a, b, c: a ^ b,
    "XNOR": lambda a, b, c: 1 - (a ^ b),
    "MUX": lambda a, b, s: b if s else a,
    "AOI3": lambda a, b, c: 1 - ((a & b) | c),
    "OAI3": lambda a, b, c: 1 - ((a | b) & c),
}


def one_gate(kind):
    return Netlist("one", {"x": (2, 3, 4)}, {"y": (5,)}, np.array([KINDS.index(kind)], np.uint8), np.array([[2, 3, 4]], np.int32))


def adder():
    """y = a + b of one bit and a carry, with a gate that is not needed: OR of a and b beside the AND."""
    kinds = np.array([KINDS.index(kind) for kind in ("XOR", "AND", "OR", "AND")], np.uint8)
    reads = np.array([[2, 3, 0], [2, 3, 0], [2, 3, 0], [5, 6, 0]], np.int32)
    return Netlist("adder", {"a": (2,), "b": (3,)}, {"y": (4, 7)}, kinds, reads)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_has_its_truth_table(kind):
    x = np.arange(8)
    found = simulate(one_gate(kind), {"x": x}, {"x": 3})["y"]
    assert found.tolist() == [TRUTH[kind](n & 1, n >> 1 & 1, n >> 2 & 1) for n in range(8)]


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000])
def test_codes_survive_their_bit_planes(count):
    codes = np.random.default_rng(0).integers(0, 1 << 37, count)
    assert (codes_of(planes(codes, 37), count) == codes).all()


def test_codes_of_several_places_lie_one_after_the_other():
    assert (planes(np.array([[1, 2]]), 2)[:, 0] == np.array([1, 0, 0, 1], np.uint64)).all()


def test_a_netlist_in_yosys_json_is_read_in_an_order_that_can_be_simulated():
    cells_ = {
        "late": {"type": "$_AND_", "connections": {"A": [9], "B": [3], "Y": [4]}},
        "early": {"type": "$_NOT_", "connections": {"A": [2], "Y": [9]}},
    }
    ports = {"x": {"direction": "input", "bits": [2, 3]}, "y": {"direction": "output", "bits": [4, "1"]}}
    netlist = from_yosys(json.dumps({"modules": {"m": {"ports": ports, "cells": cells_}}}), "m")
    assert simulate(netlist, {"x": np.arange(4)}, {"x": 2})["y"].tolist() == [2, 2, 3, 2]
    assert netlist.depth == 2
    assert netlist.counts == {"AND": 1, "NOT": 1}


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"type": "$_DFF_P_", "connections": {}}, "a cell of type"),
        ({"type": "$_AND_", "connections": {"A": [4], "B": [2], "Y": [4]}}, "in a circle"),
    ],
)
def test_a_netlist_that_cannot_be_simulated_is_refused(cell, message):
    ports = {"x": {"direction": "input", "bits": [2]}, "y": {"direction": "output", "bits": [4]}}
    with pytest.raises(ValueError, match=message):
        from_yosys(json.dumps({"modules": {"m": {"ports": ports, "cells": {"c": cell}}}}), "m")


def test_a_wrong_gate_is_noticed_or_proven_harmless():
    netlist = adder()
    every = np.concatenate([planes(np.array([0, 1, 0, 1]), 1), planes(np.array([0, 0, 1, 1]), 1)])
    fates = {(m.gate, m.now): m.fate for seed in range(40) for m in mutants(netlist, every, 4, seed)}
    assert fates[0, "OR"] == "killed"
    assert fates[2, "XNOR"] == "equivalent"
    assert set(fates.values()) == {"killed", "equivalent"}


def test_a_survivor_is_killed_by_a_vector_that_the_solver_finds():
    netlist = adder()
    nothing = np.concatenate([planes(np.array([0, 0]), 1)] * 2)
    for mutant in mutants(netlist, nothing, 4):
        if mutant.fate == "killed by an added vector":
            bits = np.array([[np.uint64(bit)] for bit in mutant.vector])
            good, bad = (simulate_words(n, bits) for n in (netlist, mutated(netlist, mutant.gate, mutant.now)))
            assert any((good[port] & np.uint64(1) != bad[port] & np.uint64(1)).any() for port in good)
            return
    pytest.fail("no mutant survived two equal vectors")


def test_an_area_is_a_sum_of_cells_in_units_of_a_nand():
    found = area({"default": adder()}, ("transistors", "osu035"), "a tool")
    assert found.by == {("default", "transistors"): 2.5 + 1.5 + 1.5 + 1.5, ("default", "osu035"): (224 + 3 * 128) / 96}
    assert (found.low, found.high) == (608 / 96, 7.0)


def test_an_order_that_flips_between_mappings_is_undecided():
    def of(name, *values):
        return Area(name, "a tool", 1, 1, dict(zip([("default", "x"), ("booth", "x")], values, strict=True)))

    small, large, mixed = of("small", 10.0, 11.0), of("large", 20.0, 30.0), of("mixed", 9.0, 14.0)
    assert small.against(large) == "smaller"
    assert large.against(small) == "larger"
    assert small.against(mixed) == "undecided"
    assert [(a.circuit, how) for a, how in ordered([large, mixed, small])] == [
        ("small", ""),
        ("mixed", "undecided"),
        ("large", "larger"),
    ]


def test_every_cell_table_names_its_source_and_has_every_gate():
    for name in ("transistors", "osu035"):
        table = cells(name)
        assert table.source
        assert set(table.areas) == set(KINDS)
        assert table.per_register > 1


def test_an_unknown_cell_table_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'osu035'"):
        cells("osu053")


def test_a_cell_table_without_a_gate_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("cells: {description: mine, node: any, source: me, register: 1.0, areas: {NAND: 1.0}}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml:1.*areas: AND is missing or unknown"):
        cells(path)
