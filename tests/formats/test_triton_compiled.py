"""The Triton kernels as GPUs run them: compiled ahead of time, without a GPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

SCRIPT = Path(__file__).with_name("compiled_kernels.py")
NVIDIA, AMD = ("sm_80", "sm_90", "sm_100"), "gfx942"
TENSORS = ("nearest", "drawn", "by_rule", "by_rule_scaled", "levels", "levels_scaled")
FINDING_SCALES = ("tensor_top", "block_scales", "best_scales")
ELEMENTS = ("block_elements", "block_elements_on_levels")
KERNELS = (*TENSORS, *FINDING_SCALES, *ELEMENTS)
ONE_ELEMENT_AT_A_TIME = "best_scales"
Compiler = Callable[[str, str, str], dict[str, str]]


def cases(
    kernels: Sequence[str], targets: Sequence[str], dtypes: Sequence[str] = ("float32", "float16", "bfloat16", "float64")
) -> Any:
    """Every kernel for every target and dtype; those that take long when first compiled are large tests."""

    def marks(kernel: str, target: str, dtype: str) -> Any:
        soon = kernel in TENSORS or (target in ("sm_90", AMD) and kernel != "block_elements_on_levels")
        return () if soon and dtype == "float32" else pytest.mark.large

    every = [(kernel, target, dtype) for dtype in dtypes for target in targets for kernel in kernels]
    return pytest.mark.parametrize(("kernel", "target", "dtype"), [pytest.param(*case, marks=marks(*case)) for case in every])


@pytest.fixture(scope="module")
def compiled() -> Iterator[Compiler]:
    """Gives the code of a kernel; from a process of its own, since kernels are interpreted in this one."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, SCRIPT], env=environment, text=True, **pipes) as process:
        questions, answers = process.stdin, process.stdout
        assert questions is not None
        assert answers is not None

        @cache
        def ask(kernel: str, target: str, dtype: str) -> dict[str, str]:
            questions.write(f"{kernel} {target} {dtype}\n")
            questions.flush()
            line = answers.readline()
            assert line, f"{kernel} does not compile for {target}"
            code: dict[str, str] = json.loads(line)
            return code

        yield ask
        questions.close()


@cases(KERNELS, NVIDIA)
def test_nothing_is_fused_approximated_or_flushed_on_nvidia(compiled: Compiler, kernel: str, target: str, dtype: str) -> None:
    ptx = compiled(kernel, target, dtype)["assembly"]
    assert f".target {target}" in ptx
    assert re.findall(r"\bfma\.|\.ftz|\.approx|\bdiv\.full", ptx) == []


@cases(KERNELS, (AMD,))
def test_nothing_may_be_fused_or_relaxed_on_amd(compiled: Compiler, kernel: str, target: str, dtype: str) -> None:
    code = compiled(kernel, target, dtype)
    assert 'amdgcn_target "amdgcn-amd-amdhsa--gfx942' in code["assembly"]
    assert re.findall(r"llvm\.fma\b|llvm\.fmuladd|\bcontract\b|\bfast\b|\bafn\b|\bnsz\b", code["llir"]) == []


@cases([kernel for kernel in KERNELS if kernel != ONE_ELEMENT_AT_A_TIME], NVIDIA)
def test_loads_are_vectorised(compiled: Compiler, kernel: str, target: str, dtype: str) -> None:
    assert re.search(r"\bld\.global[.\w]*\.v[248]\.", compiled(kernel, target, dtype)["assembly"])


@cases((*TENSORS, *ELEMENTS), NVIDIA)
def test_stores_are_vectorised(compiled: Compiler, kernel: str, target: str, dtype: str) -> None:
    assert re.search(r"\bst\.global[.\w]*\.v[248]\.", compiled(kernel, target, dtype)["assembly"])


@cases(KERNELS, ("sm_90",), ("float32",))
def test_elements_beyond_2_to_the_31_have_64_bit_indices(compiled: Compiler, kernel: str, target: str, dtype: str) -> None:
    ttir = compiled(kernel, target, dtype)["ttir"]
    widths = re.findall(r"tt\.addptr .*: tensor<[\dx]+x!tt\.ptr<f32>>, tensor<[\dx]+xi(\d+)>", ttir)
    assert widths
    assert set(widths) == {"64"}


@cases([kernel for kernel in KERNELS if kernel != "tensor_top"], ("sm_90",), ("float32",))
def test_a_new_format_compiles_nothing(compiled: Compiler, kernel: str, target: str, dtype: str) -> None:
    ttir = compiled(kernel, target, dtype)["ttir"]
    signature = next(line for line in ttir.splitlines() if "tt.func public" in line)
    assert "!tt.ptr<i64>" in signature
