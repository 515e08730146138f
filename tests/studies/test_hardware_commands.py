"""`hwsim vectors`, `hwsim trace` and `hwsim probe`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hwsim.studies.cli import app
from hwsim.studies.files import check_file


def test_vectors_go_to_a_file_or_to_stdout(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    arguments = ["vectors", "nvidia_volta_fp16", "--count", "2", "--terms", "5", "--seed", "4", "--json"]
    assert CliRunner().invoke(app, [*arguments, "--output", str(path)]).exit_code == 0
    assert json.loads(path.read_text()) == json.loads(CliRunner().invoke(app, arguments).output)
    lines = CliRunner().invoke(app, ["vectors", "fp4", "--rounding", "toward_zero"]).output.splitlines()
    assert {"# format: fp4_e2m1fn", "# rounding: toward_zero", "3fc00000,3"} <= set(lines)


def test_vectors_of_a_unit_have_one_of_its_operand_formats_each() -> None:
    arguments = ["vectors", "nvidia_ada_fp8", "--count", "2", "--terms", "4"]
    for operands, expected in (("", ("fp8_e4m3fn", "fp8_e4m3fn")), ("fp8_e5m2", ("fp8_e5m2", "fp8_e5m2")),
                               ("fp8_e5m2, fp8_e4m3fn", ("fp8_e5m2", "fp8_e4m3fn"))):  # fmt: skip
        lines = CliRunner().invoke(app, [*arguments, "--operands", operands]).output.splitlines()
        assert {f"# input: {expected[0]}", f"# weight: {expected[1]}"} <= set(lines)


def test_vectors_of_a_two_level_block_format_have_every_scale() -> None:
    found = json.loads(CliRunner().invoke(app, ["vectors", "nvfp4", "--count", "2", "--json"]).output)
    assert (found["element"], found["scale"], found["tensor_scale"]) == ("fp4_e2m1fn", "fp8_e4m3fn", "fp32")
    assert [(len(row["input"]), len(row["scale"]), len(row["tensor_scale"])) for row in found["vectors"]] == [(64, 4, 8)] * 2


def test_a_trace_takes_operands_or_draws_them() -> None:
    given = CliRunner().invoke(app, ["trace", "fp32_sequential", "--a", "1,2", "--b", "3,0.5", "--c", "-1"])
    assert given.output.endswith("result 3.0\n")
    drawn = [CliRunner().invoke(app, ["trace", "nvidia_ampere_fp16", "--seed", "3"]).output for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert "k = 3:" in drawn[0]


def test_a_probed_function_becomes_a_unit_s_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_dots.py").write_text(
        "def dot(a, b, c):\n    for x, y in zip(a.float(), b.float()):\n        c = (c + x * y).float()\n    return c\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = CliRunner().invoke(app, ["probe", "my_dots:dot", "--operands", "bf16", "--terms", "6", "--output", "unit.yaml"])
    assert found.exit_code == 0
    assert "order: sequential" in (tmp_path / "unit.yaml").read_text()
    assert check_file(tmp_path / "unit.yaml")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["vectors", "nvidia_voltaa_fp16"], "did you mean 'nvidia_volta_fp16'?"),
        (["vectors", "native"], "got 'native'"),
        (["vectors", "nvidia_ada_fp8", "--operands", "fp16"], "a: got 'fp16'; allowed: fp8_e4m3fn, fp8_e5m2"),
        (["vectors", "nvidia_ada_fp8", "--operands", "fp16,fp16,fp16"], "--operands: got 'fp16,fp16,fp16'; allowed: a format"),
        (["trace", "fp32_sequential", "--a", "1,x", "--b", "1,2"], "--a: got '1,x'; allowed: numbers separated by commas"),
        (["trace", "fp32_sequential", "--a", "1"], "got one of --a and --b"),
        (["trace", "fp16_accumulate", "--a", "0.3", "--b", "1"], "element [0, 0] is 0.3; allowed: values of fp16"),
        (["probe", "no_such_module:dot"], "allowed: module:function"),
        (["probe", "math:sqrt", "--operands", "nf4"], "operands: got nf4; allowed: a float or integer format"),
    ],
)
def test_wrong_arguments_are_refused_in_words(arguments: list[str], text: str) -> None:
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 2
    assert text in found.output
