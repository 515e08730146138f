"""The kernels of dot-product units as GPUs run them: compiled ahead of time, without a GPU."""

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

SCRIPT = Path(__file__).with_name("compiled_sums.py")
NVIDIA, AMD = ("sm_80", "sm_90", "sm_100"), "gfx942"
LARGE = pytest.mark.large
NAMES = (
    "terms", "terms_promoted", "trees", "groups", "scaled_groups", "promoted_groups", "late_groups", "digits", "digits_promoted",
)  # fmt: skip
KERNELS = [pytest.param(name, marks=LARGE if name != "groups" else ()) for name in NAMES]


@cache
def compiled(kernel: str) -> dict[str, dict[str, str]]:
    """The code of a kernel for each target; in a process of its own, since kernels are interpreted in this one."""
    command = [sys.executable, SCRIPT, kernel, *NVIDIA, AMD]
    run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "0"}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    code: dict[str, dict[str, str]] = json.loads(run.stdout)
    return code


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_sum_is_fused_with_a_product_approximated_or_flushed(kernel: str) -> None:
    for target in NVIDIA:
        ptx = compiled(kernel)[target]["assembly"]
        assert f".target {target}" in ptx
        assert re.findall(r"\bfma\.|\.ftz|\.approx|\bdiv\.full", ptx) == []
    code = compiled(kernel)[AMD]
    assert 'amdgcn_target "amdgcn-amd-amdhsa--gfx942' in code["assembly"]
    assert re.findall(r"llvm\.fma\b|llvm\.fmuladd|\bcontract\b|\bfast\b|\bafn\b|\bnsz\b", code["llir"]) == []
