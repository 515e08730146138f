"""The Triton kernels as GPUs run them: compiled ahead of time, without a GPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("triton")

SCRIPT = Path(__file__).with_name("compiled_kernels.py")
NVIDIA, AMD = ("sm_80", "sm_90", "sm_100"), "gfx942"
KERNELS = ("nearest", "drawn", "by_rule", "by_rule_scaled", "levels", "levels_scaled")
FLOAT32 = pytest.param("float32", id="float32")
OTHERS = [pytest.param(dtype, id=dtype, marks=pytest.mark.large) for dtype in ("float16", "bfloat16", "float64")]


@cache
def compiled(dtype: str) -> dict[str, dict[str, dict[str, str]]]:
    """The code of each kernel for each target; in a process of its own, since kernels are interpreted in this one."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    run = subprocess.run([sys.executable, SCRIPT, dtype], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    code: dict[str, dict[str, dict[str, str]]] = json.loads(run.stdout)
    return code


@pytest.mark.parametrize("dtype", [FLOAT32, *OTHERS])
@pytest.mark.parametrize("target", NVIDIA)
@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_is_fused_approximated_or_flushed_on_nvidia(kernel: str, target: str, dtype: str) -> None:
    ptx = compiled(dtype)[kernel][target]["assembly"]
    assert f".target {target}" in ptx
    assert re.findall(r"\bfma\.|\.ftz|\.approx|\bdiv\.full", ptx) == []


@pytest.mark.parametrize("dtype", [FLOAT32, *OTHERS])
@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_may_be_fused_or_relaxed_on_amd(kernel: str, dtype: str) -> None:
    code = compiled(dtype)[kernel][AMD]
    assert 'amdgcn_target "amdgcn-amd-amdhsa--gfx942' in code["assembly"]
    assert re.findall(r"llvm\.fma\b|llvm\.fmuladd|\bcontract\b|\bfast\b|\bafn\b|\bnsz\b", code["llir"]) == []


@pytest.mark.parametrize("dtype", [FLOAT32, *OTHERS])
@pytest.mark.parametrize("target", NVIDIA)
@pytest.mark.parametrize("kernel", KERNELS)
def test_loads_and_stores_are_vectorised(kernel: str, target: str, dtype: str) -> None:
    ptx = compiled(dtype)[kernel][target]["assembly"]
    assert re.search(r"\bld\.global[.\w]*\.v[248]\.", ptx)
    assert re.search(r"\bst\.global[.\w]*\.v[248]\.", ptx)


@pytest.mark.parametrize("kernel", KERNELS)
def test_elements_beyond_2_to_the_31_have_64_bit_indices(kernel: str) -> None:
    ttir = compiled("float32")[kernel]["sm_90"]["ttir"]
    widths = re.findall(r"tt\.addptr .*: tensor<\d+x!tt\.ptr<f32>>, tensor<\d+xi(\d+)>", ttir)
    assert widths
    assert set(widths) == {"64"}


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_new_format_compiles_nothing(kernel: str) -> None:
    ttir = compiled("float32")[kernel]["sm_90"]["ttir"]
    signature = next(line for line in ttir.splitlines() if "tt.func public" in line)
    assert "!tt.ptr<i64>" in signature
