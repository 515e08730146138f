"""Compiles Triton kernels ahead of time for GPUs that need not be there, and prints the code as JSON.

Reads lines of a kernel, a target and a dtype, and answers each by a line.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hwsim.formats.backends import block_gpu, gpu, gpu_blocks, gpu_kernels, gpu_levels
from hwsim.formats.lowering import Rule

TARGETS = {f"sm_{n}": GPUTarget("cuda", n, 32) for n in (80, 90, 100)} | {"gfx942": GPUTarget("hip", "gfx942", 64)}
BY_RULE = {"found": None, "FIELDS": len(Rule._fields), "BLOCK": gpu.BLOCK}
ON_A_GRID = {"values": None, "keys": None}
KERNELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "nearest": (gpu_kernels.round_nearest, {"found": None, "BLOCK": gpu.FAST_BLOCK}),
    "drawn": (gpu_kernels.round_drawn, {"found": None, "COUNTERS": gpu.COUNTERS}),
    "by_rule": (gpu_kernels.round_by_rule, {"scales": None, **BY_RULE}),
    "by_rule_scaled": (gpu_kernels.round_by_rule, BY_RULE),
    "levels": (gpu_levels.round_to_levels, {"scales": None, **BY_RULE}),
    "levels_scaled": (gpu_levels.round_to_levels, BY_RULE),
    "tensor_top": (gpu_blocks.largest_magnitude, {"BLOCK": gpu.FAST_BLOCK}),
    "block_scales": (gpu_blocks.block_scales, {"FIELDS": len(Rule._fields), "BLOCKS": block_gpu.TILE // 16, "CHUNK": 16}),
    "best_scales": (gpu_blocks.best_scales, {**ON_A_GRID, "FIELDS": len(Rule._fields), "BLOCKS": block_gpu.TRIED}),
    "block_elements": (gpu_blocks.round_elements, {**ON_A_GRID, **BY_RULE}),
    "block_elements_on_levels": (gpu_blocks.round_elements, BY_RULE),
}
DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
TABLES = ("rule", "rules", "keys", "numbers")
ALIGNED = ("x", "out", "count", "offset", "strips", "columns", "width")


def source(kernel: Any, constants: dict[str, Any], dtype: str) -> ASTSource:
    """The kernel on tensors of a dtype, aligned and of a length that 16 divides, as torch allocates them."""
    kinds = dict.fromkeys(TABLES, "*i64") | dict.fromkeys(("x", "out"), f"*{dtype}") | {"values": "*fp64", "tensor": "*fp32"}
    kinds |= {"scales": "*fp64" if "numbers" in kernel.arg_names else "*fp32", "top": "*i64" if dtype == "fp64" else "*i32"}
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i64") for name in kernel.arg_names}
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(kernel.arg_names) if name in ALIGNED}
    return ASTSource(kernel, signature, constexprs=constants, attrs=aligned)


def compiled(kernel: str, target: str, dtype: str) -> dict[str, str]:
    """The intermediate code and the assembly of one kernel."""
    code = triton.compile(source(*KERNELS[kernel], DTYPES[dtype]), target=TARGETS[target], options=gpu.OPTIONS).asm
    return {"ttir": str(code["ttir"]), "llir": str(code["llir"]), "assembly": str(code.get("ptx") or code["amdgcn"])}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(compiled(*line.split())), flush=True)
