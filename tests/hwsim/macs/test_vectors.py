"""Golden vectors and traces: what they show is what `matmul` and `quantize` compute."""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from typing import Any

import pytest
import torch

import hwsim
from hwsim.casting import Quantized
from hwsim.casts import Cast
from hwsim.catalogue import shipped
from hwsim.errors import FormatError
from hwsim.fields import format_record
from hwsim.formats import Block, Draw, Format
from hwsim.formats.philox import word
from hwsim.macs import Operands, Scaled, mac, matmul
from hwsim.macs.trace import as_text, trace
from hwsim.macs.vectors import converter_vectors, unit_vectors

UNITS = ["nvidia_ampere_fp16_to_fp16", "nvidia_hopper_mma_sync_fp8", "fp16_accumulate", "int8_int32", "amd_cdna3_fp8",
         "amd_cdna2_bf16", "deepseek_fp8", "fp8_fp12_stochastic", "nvidia_blackwell_nvfp4", "nvidia_blackwell_mxfp8"]  # fmt: skip


def decoded(codes: object, fmt: str | Format) -> torch.Tensor:
    words = [int(code, 16) for code in ([codes] if isinstance(codes, str) else codes)]  # type: ignore[attr-defined]
    signed = [word - (1 << 64) if word >> 63 else word for word in words]
    return (format_record(fmt) if isinstance(fmt, str) else fmt).decode(torch.tensor(signed)).double()


@pytest.mark.parametrize(
    ("name", "count", "terms"),
    [*((name, 8, 37) for name in UNITS), *((name, 4, 5) for name in shipped("macs") if name not in UNITS)],
)
def test_the_result_of_a_unit_s_vector_is_that_of_the_compiled_unit(name: str, count: int, terms: int) -> None:
    unit = mac(name)
    found = json.loads(unit_vectors(unit, count, terms, seed=3).as_json())
    assert (found["unit"], found["seed"], found["terms"]) == (name, 3, terms)
    assert unit.operands is not None
    for n, row in enumerate(found["vectors"]):
        a, b = decoded(row["a"], unit.operands.input[0])[None], decoded(row["b"], unit.operands.weight[0])[:, None]
        c = decoded(row["c"], unit.c_format)[None]
        x: torch.Tensor | Scaled = a
        y: torch.Tensor | Scaled = b
        if unit.scales:
            sa, sb = (unit.scales.format.decode(torch.tensor([int(s, 16) for s in row[key]])) for key in ("scale_a", "scale_b"))
            x, y = Scaled(a, sa[None]), Scaled(b, sb[:, None])
        expected = matmul(x, y, unit, c, Draw(3, step=n)).double()
        result = decoded(row["result"], unit.outermost.format)[None]
        assert torch.equal(expected.nan_to_num(nan=1e300), result.nan_to_num(nan=1e300))
        assert row["partial"][-1] == row["result"]


@pytest.mark.parametrize("operands", [("fp8_e5m2", "fp8_e4m3fn"), ("fp8_e5m2", "fp8_e5m2")], ids=str)
@pytest.mark.parametrize("name", ["nvidia_ada_fp8", "nvidia_blackwell_mxfp8", "deepseek_fp8"])
def test_vectors_have_the_operand_formats_that_are_asked_for(name: str, operands: tuple[str, str]) -> None:
    unit, (fa, fb) = mac(name), (format_record(fmt) for fmt in operands)
    found = json.loads(unit_vectors(unit, 12, 40, seed=3, operands=(fa, fb)).as_json())
    assert (found["input"], found["weight"]) == operands
    narrow = unit.model_copy(update={"operands": Operands(input=(fa,), weight=(fb,))})
    for row in found["vectors"]:
        a, b, c = decoded(row["a"], fa)[None], decoded(row["b"], fb)[:, None], decoded(row["c"], narrow.c_format)[None]
        x: torch.Tensor | Scaled = a
        y: torch.Tensor | Scaled = b
        if unit.scales:
            sa, sb = (decoded(row[key], unit.scales.format) for key in ("scale_a", "scale_b"))
            x, y = Scaled(a, sa[None]), Scaled(b, sb[:, None])
        expected = matmul(x, y, narrow, c).double()
        result = decoded(row["result"], unit.outermost.format)[None]
        assert torch.equal(expected.nan_to_num(nan=1e300), result.nan_to_num(nan=1e300))
    assert any(value > 448 for row in found["vectors"] for value in decoded(row["a"], fa).tolist())


def test_operand_formats_that_a_unit_does_not_take_are_refused() -> None:
    with pytest.raises(FormatError, match="operands of nvidia_ada_fp8, b: got 'fp16'; allowed: fp8_e4m3fn, fp8_e5m2"):
        unit_vectors(mac("nvidia_ada_fp8"), 1, operands=(format_record("fp8_e5m2"), format_record("fp16")))


def test_partial_sums_are_those_of_shorter_dot_products() -> None:
    (row,) = json.loads(unit_vectors(mac("fp16_accumulate"), count=1, terms=12).as_json())["vectors"]
    a, b, c = (decoded(row[key], "fp16") for key in ("a", "b", "c"))
    assert len(row["partial"]) == 12
    for k, partial in enumerate(row["partial"], start=1):
        expected = matmul(a[None, :k], b[:k, None], "fp16_accumulate", c[None])
        assert torch.equal(expected.double().flatten().nan_to_num(), decoded(partial, "fp16").nan_to_num())


def test_csv_has_the_header_and_the_same_rows() -> None:
    found = unit_vectors(mac("nvidia_volta_fp16"), count=3, terms=5, seed=9)
    lines = found.as_csv().splitlines()
    assert "# seed: 9" in lines
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert [row["a"].split() for row in rows] == [row["a"] for row in json.loads(found.as_json())["vectors"]]


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic(8)"])
@pytest.mark.parametrize("name", ["fp8_e4m3fn", "fp4", "bf16", "int5"])
def test_a_converter_s_codes_are_those_of_quantize(name: str, rounding: str) -> None:
    rows = converter_vectors(Cast(format=name, rounding=rounding), count=300, seed=5).rows  # type: ignore[arg-type]
    x = decoded([row["input"] for row in rows], "fp32").float()
    expected = hwsim.quantize(x, name, rounding=rounding, seed=5, return_parts=True)
    assert isinstance(expected, hwsim.Quantized)
    assert [int(str(row["output"]), 16) for row in rows] == (expected.codes & ((1 << format_record(name).bits) - 1)).tolist()
    assert len(rows) >= 290
    assert ("random" in rows[0]) == (rounding != "nearest_even")


def test_ties_of_a_small_format_are_among_a_converter_s_inputs() -> None:
    inputs = {decoded(row["input"], "fp32").item() for row in converter_vectors(Cast(format=format_record("fp4"))).rows}
    assert {0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0} <= inputs


TILES = {"kind": "block", "element": "fp8_e4m3fn", "scale": "fp32", "tile": [128, 128]}
LEVELS = {"kind": "block", "element": "nf4", "scale": "bf16", "size": 64}
BLOCKS = [*(name for name in shipped("formats") if isinstance(format_record(name), Block)), TILES, LEVELS]


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic(8)"])
@pytest.mark.parametrize("declared", BLOCKS, ids=str)
def test_a_block_converter_gives_the_codes_and_scales_of_quantize(declared: Any, rounding: str) -> None:
    fmt = format_record(declared)
    assert isinstance(fmt, Block)
    found = json.loads(converter_vectors(Cast(format=fmt, rounding=rounding, nan="max"), count=3, seed=4).as_json())  # type: ignore[arg-type]
    assert (found["element"], found["scale"]) == (str(fmt.element), str(fmt.scale))
    assert len(found["vectors"]) == 3
    for n, row in enumerate(found["vectors"]):
        x = decoded(row["input"], "fp32").float().view(found["shape"])
        offset = n * x.numel()
        q = hwsim.quantize(x, fmt, rounding=rounding, nan="max", seed=4, offset=offset, return_parts=True)
        assert isinstance(q, Quantized)
        assert decoded(row["output"], fmt.element).tolist() == q.elements.double().flatten().tolist()
        assert q.scale is not None
        assert decoded(row["scale"], fmt.scale).tolist() == q.scale.double().flatten().tolist()
        assert (q.tensor_scale is None) == ("tensor_scale" not in row)
        if q.tensor_scale is not None:
            assert decoded(row["tensor_scale"], "fp32").item() == q.tensor_scale
            assert len(set(row["scale"])) > 1
        words = [f"{word(k, Draw(4, offset=offset)):08x}" for k in (0, x.numel() - 1)]
        assert "random" not in row if rounding == "nearest_even" else [row["random"][0], row["random"][-1]] == words


def test_a_converter_whose_scales_vectors_do_not_show_is_refused() -> None:
    with pytest.raises(FormatError, match=r"scaling: got .*; allowed in vectors: none, or a block format"):
        converter_vectors(Cast(format="int8", scaling="absmax"))  # type: ignore[arg-type]


def test_a_trace_shows_alignment_what_is_cut_and_the_rounding() -> None:
    a, b = torch.tensor([1024.0, 0.5, 3.0]), torch.tensor([1024.0, 2.0**-13, 1.0])
    text = as_text(trace(a, b, "nvidia_ampere_fp16", 0.1))
    assert "group from k = 0: largest exponent 20, truncate at 2^-4" in text
    assert "+000000000000000000000.0001|10011001100110011001101" in text
    assert "sum                  1048579.0625             +100000000000000000011.000|1" in text
    assert text.endswith("result 1048579.0")


@pytest.mark.parametrize("name", UNITS)
def test_every_step_is_the_sum_of_what_is_kept_of_its_parts(name: str) -> None:
    unit = mac(name)
    assert unit.operands is not None
    a, b = (torch.tensor([1.0, -3.0, 2.0, 0.5] * 10), torch.tensor([2.0, 1.0, 0.5, -1.0] * 10))
    if name.startswith("int"):
        a, b = a * 2, b * 2
    found = trace(a, b, unit, 1.0)
    assert found.steps[-1].result == found.result
    for step in found.steps:
        assert Fraction(step.exact) == sum(Fraction(part.kept) for part in step.parts)


def blocks_of(x: torch.Tensor, fmt: str, **options: object) -> Quantized:
    found = hwsim.quantize(x, fmt, return_parts=True, **options)  # type: ignore[arg-type]
    assert isinstance(found, Quantized)
    return found


def test_a_trace_takes_operands_as_matmul_does() -> None:
    x, y = torch.randn(2, 40, generator=torch.Generator().manual_seed(1)) * 100
    unit = "nvidia_blackwell_mxfp8"
    scaled = Scaled(x.sign(), torch.tensor([2.0, 8.0]))
    expected = matmul(Scaled(scaled.values[None], scaled.scales[None]), y.sign()[:, None], unit).item()
    assert trace(scaled, y.sign(), unit).result == trace(y.sign(), scaled, unit).result == expected
    qx, qy = blocks_of(x, "mxfp8_e4m3"), blocks_of(y, "mxfp8_e5m2")
    matrices = blocks_of(x[None], "mxfp8_e4m3"), blocks_of(y[:, None], "mxfp8_e5m2", axis=0)
    assert trace(qx, qy, unit).result == matmul(*matrices, unit).item()


@pytest.mark.parametrize(
    ("a", "unit", "text"),
    [
        (Scaled(torch.ones(40), torch.ones(2)), "nvidia_hopper_fp8", "got scales for nvidia_hopper_fp8, which takes none"),
        (Scaled(torch.ones(70), torch.ones(2)), "nvidia_blackwell_mxfp8", r"input scales: got shape \(1, 2\); allowed: \(1, 3\)"),
        (blocks_of(torch.ones(4) * 3, "int8", scaling={"rule": "absmax"}), "int8_int32", "got a scale of a whole operand"),
        ([1.0], "fp32_sequential", "input operand: got list; allowed: a tensor, Scaled or Quantized"),
    ],
)
def test_scales_that_a_trace_cannot_show_are_refused(a: Any, unit: str, text: str) -> None:
    terms = 1 if isinstance(a, list) else len(a.values)
    with pytest.raises(FormatError, match=text):
        trace(a, torch.ones(terms), unit)


def test_what_has_no_steps_is_refused() -> None:
    with pytest.raises(FormatError, match="got `native`"):
        trace(torch.ones(2), torch.ones(2), "native")
    with pytest.raises(FormatError, match="allowed: two of one length"):
        trace(torch.ones(2), torch.ones(3), "fp32_sequential")
    with pytest.raises(FormatError, match="declared `operands`"):
        unit_vectors(mac({"order": "fma", "accumulator": {"format": "fp32"}}))
