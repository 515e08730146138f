"""Quantization settings of other libraries as datapaths, in the words of a datapath file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from hwsim.errors import ConfigError, not_allowed

Declaration = dict[str, Any]

MODELOPT_FLOATS = {(4, 3): "fp8_e4m3fn", (5, 2): "fp8_e5m2", (2, 1): "fp4_e2m1fn", (3, 2): "fp6_e3m2fn", (2, 3): "fp6_e2m3fn"}
MX_ELEMENTS = {
    "float8_e4m3fn": "fp8_e4m3fn",
    "float8_e5m2": "fp8_e5m2",
    "fp6_e3m2": "fp6_e3m2fn",
    "fp6_e2m3": "fp6_e2m3fn",
    "float4_e2m1fn_x2": "fp4_e2m1fn",
}


def import_recipe(given: Mapping[str, Any]) -> Declaration:
    """The datapath that a recipe of another library declares: a mapping for `hwsim.datapath`, or for a YAML file.

    Args:
        given: one key says whose it is: `transformer_engine`: a recipe's class name in `recipe`, beside its fields;
            `torchao`: a float8 recipe name in `float8`, or an MX configuration in `mx`; `modelopt`: a `quant_cfg`.

    Raises:
        ConfigError: a recipe or a setting that is not known, or that a datapath cannot say.
    """
    if len(given) != 1 or next(iter(given)) not in IMPORTERS:
        raise ConfigError(not_allowed("import", ", ".join(given), IMPORTERS))
    library, settings = next(iter(given.items()))
    return IMPORTERS[library](settings)


def datapath_file(given: Mapping[str, Any]) -> str:
    """The same as the text of a datapath file."""
    return str(yaml.dump({"datapath": import_recipe(given)}, Dumper=_Plain, sort_keys=False))


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def transformer_engine(settings: Mapping[str, Any]) -> Declaration:
    """A recipe of TransformerEngine (common/recipe): DelayedScaling, Float8CurrentScaling, the block scalings."""
    name = settings.get("recipe")
    known = {"recipe", "fp8_format", "margin", "amax_history_len", "amax_compute_algo"}
    _only("transformer_engine", settings, known)
    if settings.get("amax_compute_algo", "max") != "max":
        raise ConfigError(not_allowed("amax_compute_algo", settings["amax_compute_algo"], ["max"]))
    backward = {"HYBRID": "fp8_e5m2", "E4M3": "fp8_e4m3fn"}
    chosen = settings.get("fp8_format", "HYBRID")
    if chosen not in backward:
        raise ConfigError(not_allowed("fp8_format", chosen, backward))
    if name == "DelayedScaling":
        scaling = {"rule": "delayed", "window": settings.get("amax_history_len", 1024), "margin": settings.get("margin", 0)}
        cast = {"format": "fp8_e4m3fn", "scaling": scaling, "requantize": False}
        return _all(cast, cast, {**cast, "format": backward[chosen]})
    if name == "Float8CurrentScaling":
        cast = {"format": "fp8_e4m3fn", "scaling": "absmax"}
        return _all(cast, cast, {**cast, "format": backward[chosen]})
    if name == "Float8BlockScaling":
        return _all(_tiles(1, 128), _tiles(128, 128), _tiles(1, 128))
    if name == "MXFP8BlockScaling":
        block = _block("fp8_e4m3fn", 32, "rceil")
        return _all(block, block, block)
    if name == "NVFP4BlockScaling":
        gradient = {"format": "nvfp4", "rounding": "stochastic(8)"}
        declared = _all({"format": "nvfp4"}, {"format": "nvfp4_16x16"}, gradient)
        rotation = {"transform": "hadamard_16"}
        declared["gemm"]["grad_weight"] = {"input": rotation, "grad_output": rotation}
        return declared
    allowed = ("DelayedScaling", "Float8CurrentScaling", "Float8BlockScaling", "MXFP8BlockScaling", "NVFP4BlockScaling")
    raise ConfigError(not_allowed("recipe", name, allowed))


def torchao(settings: Mapping[str, Any]) -> Declaration:
    """torchao's float8 training recipes (float8/config.py) and MX configurations (prototype/mx_formats/config.py)."""
    _only("torchao", settings, {"float8", "mx"})
    if "mx" in settings:
        return _torchao_mx(settings["mx"])
    name, per_tensor, per_row = settings.get("float8"), {"scaling": "absmax"}, _per_channel(0, power_of_two=True)
    if name == "tensorwise":
        cast = {"format": "fp8_e4m3fn", **per_tensor}
        return _all(cast, cast, {**cast, "format": "fp8_e5m2"})
    if name not in ("rowwise", "rowwise_with_gw_hp"):
        raise ConfigError(not_allowed("float8", name, ("rowwise", "rowwise_with_gw_hp", "tensorwise")))
    row, column = {"format": "fp8_e4m3fn", **per_row}, {"format": "fp8_e4m3fn", **_per_channel(1, power_of_two=True)}
    declared = _all(row, row, row)
    declared["gemm"]["grad_input"] = {"weight": column}
    declared["gemm"]["grad_weight"] = {"input": column, "grad_output": column}
    if name == "rowwise_with_gw_hp":
        declared["gemm"]["grad_weight"] = {"input": "bf16", "grad_output": "bf16"}
        declared["gemm"]["grad_input"] = {"weight": {"format": "fp8_e4m3fn", "scaling": "power_of_two"}}
    return declared


def modelopt(settings: Mapping[str, Any]) -> Declaration:
    """A `quant_cfg` of nvidia-modelopt: `*weight_quantizer` and `*input_quantizer`, forward casts; gradients are not cast."""
    roles = {"*weight_quantizer": "weight", "*input_quantizer": "input"}
    entries = {key: entry for key, entry in settings.items() if key in roles and entry.get("enable", True)}
    others = [key for key, entry in settings.items() if key not in roles and entry.get("enable", True)]
    if others:
        raise ConfigError(not_allowed("quant_cfg", others[0], (*roles, "any other with enable: false")))
    casts = {roles[key]: {**_modelopt_cast(roles[key], entry), "requantize": False} for key, entry in entries.items()}
    return {"gemm": {"all": casts}}


def _torchao_mx(mx: Mapping[str, Any]) -> Declaration:
    _only("mx", mx, {"elem_dtype", "block_size", "scale_calculation_mode"})
    element, mode = mx.get("elem_dtype", "float8_e4m3fn"), str(mx.get("scale_calculation_mode", "floor")).lower()
    if element not in MX_ELEMENTS:
        raise ConfigError(not_allowed("elem_dtype", element, MX_ELEMENTS))
    if mode not in ("floor", "ceil", "rceil", "even"):
        raise ConfigError(not_allowed("scale_calculation_mode", mode, ("floor", "ceil", "rceil", "even")))
    block = _block(MX_ELEMENTS[element], mx.get("block_size", 32), mode)
    return _all(block, block, block)


def _modelopt_cast(role: str, entry: Mapping[str, Any]) -> Declaration:
    _only(f"{role} quantizer", entry, {"num_bits", "axis", "block_sizes", "enable", "type"})
    bits = entry.get("num_bits", 8)
    if isinstance(bits, int):
        element: Any = {"kind": "integer", "bits": bits, "symmetric": True}
    elif tuple(bits) in MODELOPT_FLOATS:
        element = MODELOPT_FLOATS[tuple(bits)]
    else:
        raise ConfigError(not_allowed("num_bits", bits, map(str, MODELOPT_FLOATS)))
    blocks = entry.get("block_sizes")
    if blocks is None:
        return {"format": element, **(_per_channel(entry["axis"]) if entry.get("axis") is not None else {"scaling": "absmax"})}
    size, scale = blocks.get(-1), tuple(blocks.get("scale_bits", ()))
    if size is None:
        raise ConfigError(f"block_sizes: got {dict(blocks)}; allowed: blocks along the last axis (-1)")
    if scale == (8, 0):
        return _block(element, size, "floor")
    if scale == (4, 3):
        two_level = {"kind": "block", "element": element, "scale": "fp8_e4m3fn", "size": size, "rule": "two_level"}
        return {"format": {**two_level, "tensor_scale": "fp32"}}
    return {"format": element, "scaling": {"rule": "absmax", "granularity": {"group": size}}}


def _all(of_input: Declaration, of_weight: Declaration, of_gradient: Declaration) -> Declaration:
    return {"gemm": {"all": {"input": of_input, "weight": of_weight, "grad_output": of_gradient, "result": "bf16"}}}


def _block(element: Any, size: int, rule: str) -> Declaration:
    return {"format": {"kind": "block", "element": element, "scale": "e8m0fnu", "size": size, "rule": rule}}


def _tiles(rows: int, columns: int) -> Declaration:
    return {"format": "fp8_e4m3fn", "scaling": {"rule": "power_of_two", "granularity": {"tile": [rows, columns]}}}


def _per_channel(axis: int, power_of_two: bool = False) -> Declaration:
    return {"scaling": {"rule": "power_of_two" if power_of_two else "absmax", "granularity": {"channel": axis}}}


def _only(where: str, settings: Mapping[str, Any], known: set[str]) -> None:
    unknown = next((key for key in settings if key not in known), None)
    if unknown is not None:
        raise ConfigError(not_allowed(f"{where}: key", unknown, known))


IMPORTERS: Mapping[str, Callable[[Mapping[str, Any]], Declaration]] = {
    "modelopt": modelopt,
    "torchao": torchao,
    "transformer_engine": transformer_engine,
}
