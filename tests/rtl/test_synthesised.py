"""Synthesised netlists beside the emulator, exact arithmetic, recorded GPU outputs and an open simulator: `make rtl`."""

import json
import shutil
import subprocess
from functools import cache

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hwsim.casts import Cast
from hwsim.catalogue import Catalogue
from hwsim.conformance.units import SILICON, bits, recorded, recordings
from hwsim.fields import format_record
from hwsim.formats import Block
from hwsim.macs import mac
from hwsim.rtl.converters import converter
from hwsim.rtl.mutation import mutants
from hwsim.rtl.simulator import planes, simulate
from hwsim.rtl.stimuli import of_patterns, of_step
from hwsim.rtl.subjects import subjects
from hwsim.rtl.synthesis import synthesised
from hwsim.rtl.units import lowered
from hwsim.rtl.verify import by_rationals, cast_verdict, compared, through, unit_verdicts
from hwsim.studies.bench.circuits import simulation, small_units, suite
from hwsim.studies.cli import app

pytestmark = pytest.mark.rtl

UNITS = [name for name in Catalogue().names("macs") if subjects(name)[0].unit]
ROUNDINGS = ("nearest_even", "nearest_away", "toward_zero", "toward_positive", "toward_negative", "to_odd", "stochastic(8)")
FORMATS = [name for name in Catalogue().names("formats") if subjects(name, kind="format")[0].circuits]


@cache
def synthesised_unit(name):
    unit = lowered(mac(name))
    return unit, {circuit.name: synthesised(circuit, timeout=3000) for circuit in unit.circuits}


@pytest.mark.parametrize("name", UNITS)
def test_the_netlists_of_a_shipped_unit_equal_the_emulator(name):
    unit, netlists = synthesised_unit(name)
    verdicts = list(unit_verdicts(mac(name), unit, netlists, side=1024, exact=0))
    assert all(verdict.mismatches == 0 for verdict in verdicts), [str(verdict) for verdict in verdicts]
    assert {verdict.circuit for verdict in verdicts} == {circuit.name for circuit in unit.circuits}
    assert min(verdict.vectors for verdict in verdicts) >= 1_000_000


@pytest.mark.parametrize("name", UNITS)
def test_the_netlist_of_a_shipped_units_step_equals_exact_arithmetic(name):
    unit, netlists = synthesised_unit(name)
    vectors = by_rationals(mac(name), unit, of_step(mac(name), unit, 1024), 20_000)
    verdict = compared(unit.step, netlists[unit.step.name], vectors, "rational reference")
    assert (verdict.vectors, verdict.mismatches) == (20_000, 0), str(verdict)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_netlist_of_a_shipped_formats_converter_equals_the_emulator(name, rounding):
    fmt = format_record(name)
    assert not isinstance(fmt, Block)
    found = subjects(name, rounding, kind="format")[0]
    if not found.circuits:
        assert found.refused.startswith("rounding: ")
        return
    verdict = cast_verdict(found.declared, found.circuits[0], synthesised(found.circuits[0]), 1 << 20)
    assert verdict.mismatches == 0, str(verdict)


@pytest.mark.skipif(not SILICON.is_dir(), reason=f"no recorded GPU outputs at {SILICON}")
@pytest.mark.parametrize("recording", list(recordings()), ids=str)
def test_recorded_gpu_outputs_come_out_of_the_netlist(recording):
    declared, data = mac(recording.unit), recorded(recording.name)
    unit, netlists = synthesised_unit(recording.unit)
    kind = recording.name.split("_")[1]
    formats = {"e4m3": "fp8_e4m3fn", "e5m2": "fp8_e5m2"}
    if kind in formats:
        operands = (format_record(formats[kind]),) * 2
        unit = lowered(declared, operands)
        netlists = {circuit.name: synthesised(circuit, timeout=3000) for circuit in unit.circuits}
    c = torch.zeros_like(data["c"]) if recording.zero_c else data["c"]
    c = c.half().float() if recording.result == "fp16" else c  # as a register of that width holds it
    found = through(declared, unit, netlists, data["a"], data["b"], c).float()
    expected = bits(data[f"d_{recording.result}"])
    found = found.half().float() if recording.result == "fp16" else found
    assert int((bits(found) == expected).sum()) == len(expected) == 5000


@pytest.mark.parametrize("target", ["fp8_e4m3fn", "fp8_e5m2"])
def test_a_converters_netlist_equals_the_emulator_on_every_float32(target):
    cast = Cast(format=format_record(target))
    circuit = converter(cast)
    netlist = synthesised(circuit)
    for start in range(0, 1 << 32, 1 << 24):
        stimuli = of_patterns(cast, circuit, torch.arange(start, start + (1 << 24)))
        verdict = compared(circuit, netlist, stimuli)
        assert verdict.mismatches == 0, str(verdict)


def test_an_fp8_multiply_add_into_fp12_equals_the_emulator_on_every_code():
    declared = mac({"operands": "fp8_e5m2", "accumulator": {"format": "fp12_e6m5"}, "order": "sequential"})
    unit = lowered(declared)
    netlist, (fmt, state) = synthesised(unit.step), (unit.operands[0], unit.state)
    from hwsim.macs import matmul

    codes = torch.arange(256)
    values = fmt.decode(codes).double()
    products = np.stack(np.meshgrid(np.arange(256), np.arange(256), indexing="ij"), -1).reshape(-1, 2)
    for c in range(1 << 12):
        start = torch.full((256, 256), float(state.decode(torch.tensor([c]))[0]), dtype=torch.float64)
        wanted = state.encode(matmul(values[:, None], values[None], declared, start).double()).numpy().reshape(-1) & 0xFFF
        given = {"a": products[:, 0], "b": products[:, 1], "c": np.full(1 << 16, c)}
        assert (simulate(netlist, given, {"a": 8, "b": 8, "c": 12})["d"] == wanted).all(), c


def test_every_mutant_is_killed_or_proven_equivalent():
    declared = mac({"operands": "fp8_e4m3fn", "accumulator": {"format": "fp32"}, "order": "sequential"})
    unit = lowered(declared)
    netlist, stimuli = synthesised(unit.step), of_step(declared, unit)
    widths = {port.name: port.width for port in unit.step.inputs}
    words = np.concatenate([planes(stimuli.given[port], widths[port]) for port in netlist.inputs])
    fates = [mutant.fate for mutant in mutants(netlist, words, 300)]
    assert len(fates) == 300
    assert set(fates) <= {"killed", "killed by an added vector", "equivalent"}
    assert fates.count("killed") > 250


def test_the_area_suite_and_the_simulation_are_timed_against_what_is_promised():
    units = [unit for unit in small_units() if unit.step.name == "int8_int32"]
    found = [part.as_dict()["cases"] for part in (suite(units), simulation(1, 640))]
    assert [list(cases) for cases in found] == [["1 circuits"], ["640 vectors of 1,289 gates"]]
    assert [case["limit"] for cases in found for case in cases.values()] == [180.0, 1.0]
    assert all(0 < case["seconds"] < 180 for cases in found for case in cases.values())


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="needs the distribution's package iverilog")
@pytest.mark.parametrize("name", ["fp8_e4m3fn", "int8_int32", "fp8_fp12_stochastic", "nvidia_volta_fp16", "amd_cdna2_bf16"])
def test_verilog_compiles_without_warnings_and_its_test_bench_passes(name, tmp_path):
    done = CliRunner().invoke(app, ["rtl", name, "--verilog", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    for row in json.loads(done.output):
        for circuit in row["circuits"]:
            command = ["iverilog", "-Wall", "-g2012", "-o", "sim", f"../{circuit}.v", f"{circuit}_tb.v"]
            built = subprocess.run(command, cwd=tmp_path / "tb", capture_output=True, text=True, check=False)
            assert (built.returncode, built.stdout + built.stderr) == (0, "")
            ran = subprocess.run(["vvp", "sim"], cwd=tmp_path / "tb", capture_output=True, text=True, check=False)
            assert ran.stdout.startswith(f"PASS {circuit}"), ran.stdout
