"""How the YAML of a datapath is laid over itself: `all` under each GEMM, overrides over the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

Gemm = Literal["output", "grad_input", "grad_weight"]
Operand = Literal["input", "weight", "grad_output"]
GEMMS: tuple[Gemm, ...] = get_args(Gemm)
OPERANDS: tuple[Operand, ...] = get_args(Operand)
OPERANDS_OF: Mapping[Gemm, tuple[Operand, Operand]] = {
    "output": ("input", "weight"),
    "grad_input": ("grad_output", "weight"),
    "grad_weight": ("grad_output", "input"),
}
OUTER_FIRST = {("output", "input"), ("output", "weight"), ("grad_input", "grad_output")}
"""The operands whose canonical layout has the contracted axis last.

A weight's canonical layout is (output, input) features, an activation's (samples, input features), an output gradient's
(samples, output features), however the model stores them. Casts act on that layout: `channel: 0` of a weight is its output
features, in all three GEMMs.
"""
FIRST_USE: Mapping[str, Gemm] = {"input": "output", "weight": "output", "grad_output": "grad_input"}
"""The GEMM whose copy of an operand a later one takes where the cast says `requantize: false`."""


def spread(given: Any) -> Any:
    """The YAML of a layer's GEMMs with `all` written out: one mapping for each of the three."""
    if isinstance(given, str):
        given = {"all": {**dict.fromkeys((*OPERANDS, "result"), given), "mac": "native"}}
    if not isinstance(given, Mapping):
        return given
    rest = {key: value for key, value in given.items() if key != "all"}
    return rest | {gemm: merge_gemm(given.get("all") or {}, given.get(gemm) or {}) for gemm in GEMMS}


def merge_gemm(base: Any, patch: Any) -> Any:
    """The YAML of one GEMM over another: casts key by key, the unit as a whole."""
    if not (isinstance(base, Mapping) and isinstance(patch, Mapping)):
        return patch or base
    return {**base, **{key: value if key == "mac" else merge_cast(base.get(key), value) for key, value in patch.items()}}


def merge_cast(base: Any, patch: Any) -> Any:
    """The YAML of one cast over another; a name or a format's own mapping replaces the whole cast."""
    if isinstance(base, str):
        base = {"format": base}
    if not (isinstance(base, Mapping) and isinstance(patch, Mapping)) or "kind" in base or "kind" in patch:
        return patch
    return {**base, **patch}


def patched(base: Mapping[str, Any], patch: Any) -> Any:
    """The YAML of an override, completed by what it does not change.

    An override of `gemm` without `products` of its own leaves those of the base: what it says holds for them too.
    """
    if not isinstance(patch, Mapping) or not isinstance(patch.get("gemm", {}), str | Mapping):
        return patch
    gemm = _over(base.get("gemm", {}), patch.get("gemm", {}))
    if gemm is None:
        return patch
    kept = {key: value for key, value in base.items() if key != "products" or "gemm" not in patch}
    return with_products({**kept, **patch, "gemm": gemm}) if "products" in patch else {**kept, **patch, "gemm": gemm}


def with_products(layer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The YAML of a layer, its products completed by its GEMMs."""
    products = layer.get("products")
    if not isinstance(products, Mapping) or not isinstance(products.get("gemm"), str | Mapping):
        return layer
    gemm = _over(layer.get("gemm", {}), products["gemm"])
    return layer if gemm is None else {**layer, "products": {**products, "gemm": gemm}}


def _over(base: Any, patch: Any) -> dict[str, Any] | None:
    """The YAML of a layer's GEMMs over that of another's; None where one of them is no mapping."""
    below, above = spread(base), spread(patch)
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return None
    return {**above, **{gemm: merge_gemm(below[gemm], above[gemm]) for gemm in GEMMS}}
