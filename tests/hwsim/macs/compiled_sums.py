"""Compiles Triton kernels of dot-product units ahead of time for GPUs that need not be there, and prints the code as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hwsim.macs import gpu, gpu_digits, gpu_kernels
from hwsim.macs.lanes import Edges

TARGETS = {f"sm_{n}": GPUTarget("cuda", n, 32) for n in (80, 90, 100)} | {"gfx942": GPUTarget("hip", "gfx942", 64)}
COMMON = {"FIELDS": len(Edges._fields), "M": gpu.BLOCK, "N": gpu.BLOCK, "C_FIRST": True, "C_LAST": False}
SMALL = COMMON | {"M": gpu.DIGITS_BLOCK, "N": gpu.DIGITS_BLOCK}
TERMS = {"ROUNDS": True, "TREE": False, "DEPTH": 1, "LEVELS": 1, "SCALED": False, **COMMON}
KERNELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "terms": (gpu_kernels.sum_terms, TERMS),
    "terms_promoted": (gpu_kernels.sum_terms, TERMS | {"LEVELS": 3, "SCALED": True, "C_FIRST": False, "C_LAST": True}),
    "trees": (gpu_kernels.sum_terms, TERMS | {"TREE": True, "DEPTH": 16}),
    "groups": (gpu_kernels.sum_groups, {"HOW": 0, "SIZE": 1, "LATE": 0, "LEVELS": 1, "SCALED": True, **COMMON}),
    "scaled_groups": (gpu_kernels.sum_groups, {"HOW": 3, "SIZE": 16, "LATE": 0, "LEVELS": 0, "SCALED": False, **COMMON}),
    "promoted_groups": (gpu_kernels.sum_groups, {"HOW": 0, "SIZE": 4, "LATE": 0, "LEVELS": 1, "SCALED": True, **COMMON}),
    "late_groups": (gpu_kernels.sum_groups, {"HOW": 0, "SIZE": 1, "LATE": 2, "LEVELS": 0, "SCALED": False, **COMMON}),
    "digits": (gpu_digits.sum_digits, {"ROUNDS": False, "IEEE_ZERO": True, "LEVELS": 0, "SCALED": False, **SMALL}),
    "digits_promoted": (gpu_digits.sum_digits, {"ROUNDS": True, "IEEE_ZERO": True, "LEVELS": 3, "SCALED": True, **SMALL}),
}
TABLES = ("rules", "grids", "steps", "merges", "stream", "bounds", "room")
SIZES = ("rows", "columns", "terms", "first", "width", "every", "blocks", "groups", "count", "lowest")


def source(kernel: Any, constants: dict[str, Any]) -> ASTSource:
    """The kernel with float64 operands and int64 tables."""
    kinds = dict.fromkeys(TABLES, "*i64") | dict.fromkeys(SIZES, "i64")
    signature = {name: "constexpr" if name in constants else kinds.get(name, "*fp64") for name in kernel.arg_names}
    return ASTSource(kernel, signature, constexprs=constants)


def compiled(kernel: str, target: str) -> dict[str, str]:
    """The intermediate code and the assembly of one kernel."""
    code = triton.compile(source(*KERNELS[kernel]), target=TARGETS[target], options=gpu.OPTIONS).asm
    return {"llir": str(code["llir"]), "assembly": str(code.get("ptx") or code["amdgcn"])}


if __name__ == "__main__":
    kernel, *targets = sys.argv[1:]
    print(json.dumps({target: compiled(kernel, target) for target in targets}))
