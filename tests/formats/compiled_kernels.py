"""Compiles every Triton kernel ahead of time for GPUs that need not be there, and prints the code as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hwsim.formats.backends import gpu, gpu_kernels, gpu_levels
from hwsim.formats.lowering import Rule

TARGETS = {f"sm_{n}": GPUTarget("cuda", n, 32) for n in (80, 90, 100)} | {"gfx942": GPUTarget("hip", "gfx942", 64)}
BY_RULE = {"found": None, "FIELDS": len(Rule._fields), "BLOCK": gpu.BLOCK}
KERNELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "nearest": (gpu_kernels.round_nearest, {"found": None, "BLOCK": gpu.FAST_BLOCK}),
    "drawn": (gpu_kernels.round_drawn, {"found": None, "COUNTERS": gpu.COUNTERS}),
    "by_rule": (gpu_kernels.round_by_rule, {"scales": None, **BY_RULE}),
    "by_rule_scaled": (gpu_kernels.round_by_rule, BY_RULE),
    "levels": (gpu_levels.round_to_levels, {"scales": None, **BY_RULE}),
    "levels_scaled": (gpu_levels.round_to_levels, BY_RULE),
}
DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
TABLES = ("rule", "rules", "keys")
ALIGNED = ("x", "out", "count", "offset")


def source(kernel: Any, constants: dict[str, Any], dtype: str) -> ASTSource:
    """The kernel on tensors of a dtype, aligned and of a length that 16 divides, as torch allocates them."""
    kinds = dict.fromkeys(TABLES, "*i64") | dict.fromkeys(("x", "out"), f"*{dtype}") | {"scales": "*fp32", "values": "*fp64"}
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i64") for name in kernel.arg_names}
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(kernel.arg_names) if name in ALIGNED}
    return ASTSource(kernel, signature, constexprs=constants, attrs=aligned)


def compiled(kernel: str, target: str, dtype: str) -> dict[str, str]:
    """The intermediate code and the assembly of one kernel."""
    code = triton.compile(source(*KERNELS[kernel], DTYPES[dtype]), target=TARGETS[target], options=gpu.OPTIONS).asm
    return {"ttir": str(code["ttir"]), "llir": str(code["llir"]), "assembly": str(code.get("ptx") or code["amdgcn"])}


if __name__ == "__main__":
    print(json.dumps({kernel: {target: compiled(kernel, target, sys.argv[1]) for target in TARGETS} for kernel in KERNELS}))
