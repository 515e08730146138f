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
TE_FIELDS: Mapping[str, tuple[str, ...]] = {
    "DelayedScaling": ("fp8_format", "margin", "amax_history_len", "amax_compute_algo", "reduce_amax"),
    "Float8CurrentScaling": ("fp8_format",),
    "Float8BlockScaling": ("fp8_format",),
    "MXFP8BlockScaling": ("fp8_format", "margin"),
    "NVFP4BlockScaling": ("disable_rht", "disable_stochastic_rounding", "disable_2d_quantization"),
}
"""The recipes of TransformerEngine, and the fields of each that are read."""
MODELOPT_ROLES = {"weight_quantizer": "weight", "input_quantizer": "input"}
MODELOPT_UNCAST = ("output_quantizer", "bmm_quantizer")
"""Quantizers of what no datapath that is imported casts; they may be switched off."""
WITHOUT_GEMM = ("nn.BatchNorm1d", "nn.BatchNorm2d", "nn.BatchNorm3d", "nn.LeakyReLU", "nn.Embedding", "nn.LayerNorm")


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
    name = str(settings.get("recipe"))
    if name not in TE_FIELDS:
        raise ConfigError(not_allowed("recipe", name, TE_FIELDS))
    _only("transformer_engine", settings, {"recipe", *TE_FIELDS[name]})
    for field, value in {"amax_compute_algo": "max", "reduce_amax": True}.items():
        if settings.get(field, value) != value:
            raise ConfigError(not_allowed(field, settings[field], [str(value)]))
    if name == "MXFP8BlockScaling" and settings.get("margin", 0) != 0:
        raise ConfigError(not_allowed("margin", settings["margin"], ["0"]))
    backward = {"HYBRID": "fp8_e5m2", "E4M3": "fp8_e4m3fn"}
    chosen = settings.get("fp8_format", "E4M3" if name in ("Float8BlockScaling", "MXFP8BlockScaling") else "HYBRID")
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
        return _all(_tiles(1, 128), _tiles(128, 128), {**_tiles(1, 128), "format": backward[chosen]})
    if name == "MXFP8BlockScaling":
        block = _block("fp8_e4m3fn", 32, "rceil")
        return _all(block, block, _block(backward[chosen], 32, "rceil"))
    return _nvfp4(settings)


def _nvfp4(settings: Mapping[str, Any]) -> Declaration:
    gradient = {"format": "nvfp4", "rounding": "stochastic(8)"}
    if settings.get("disable_stochastic_rounding"):
        del gradient["rounding"]
    weight = "nvfp4" if settings.get("disable_2d_quantization") else "nvfp4_16x16"
    declared = _all({"format": "nvfp4"}, {"format": weight}, gradient)
    if not settings.get("disable_rht"):
        rotation = {"transform": "hadamard_16"}
        declared["gemm"]["grad_weight"] = {"input": rotation, "grad_output": rotation}
    return declared


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


def modelopt(settings: Any) -> Declaration:
    """A configuration of nvidia-modelopt or its `quant_cfg`: forward casts of weights and inputs; gradients are not cast.

    Quantizers of attention's products have to be off: these are not cast. A pattern of layers that is switched off becomes an
    override without casts; where it matches no layer of a model, running that model says so.
    """
    casts: Declaration = {}
    overrides: Declaration = {}
    for pattern, entry in _quant_cfg(settings).items():
        role = MODELOPT_ROLES.get(pattern.removeprefix("*"))
        enabled = entry.get("enable", True)
        if role is not None and enabled:
            casts[role] = {**_modelopt_cast(role, entry), "requantize": False}
        elif role is not None:
            casts.pop(role, None)
        elif enabled and not all(isinstance(x, Mapping) and not x.get("enable", True) for x in entry.values() or [None]):
            others = (*(f"*{name}" for name in MODELOPT_ROLES), "any other with enable: false")
            raise ConfigError(not_allowed("quant_cfg", pattern, others))
        elif pattern.startswith("nn."):
            if pattern not in WITHOUT_GEMM:
                raise ConfigError(not_allowed("quant_cfg", pattern, (*WITHOUT_GEMM, "patterns of layers' names")))
        elif pattern != "default" and not pattern.endswith(MODELOPT_UNCAST):
            layers, roles = _switched_off(pattern)
            overrides.setdefault(layers, {"gemm": {"all": {}}})["gemm"]["all"] |= dict.fromkeys(roles)
    declared: Declaration = {"gemm": {"all": casts}, "products": {"gemm": {"all": dict.fromkeys(casts)}}}
    return {**declared, "overrides": overrides} if overrides else declared


def _switched_off(pattern: str) -> tuple[str, tuple[str, ...]]:
    """The layers, and of these the roles, whose quantizers a pattern names: `LAYER.weight_quantizer`, `LAYER.input_quantizer`."""
    for name, role in MODELOPT_ROLES.items():
        if pattern.endswith(name):
            return pattern.removesuffix(name).removesuffix("."), (role,)
    return pattern.removesuffix(".*"), tuple(MODELOPT_ROLES.values())


def _quant_cfg(settings: Any) -> dict[str, Mapping[str, Any]]:
    """The quantizers' settings by pattern, of a whole configuration, of its `quant_cfg`, or of one written as a list."""
    if isinstance(settings, Mapping) and "quant_cfg" in settings:
        _only("modelopt", settings, {"quant_cfg", "algorithm"})
        algorithm = settings.get("algorithm") or "max"
        method = algorithm.get("method") if isinstance(algorithm, Mapping) else algorithm
        if method != "max":
            raise ConfigError(not_allowed("algorithm", method, ["max"]))
        settings = settings["quant_cfg"]
    if isinstance(settings, list):
        for entry in settings:
            _only("quant_cfg", entry, {"quantizer_name", "cfg", "enable"})
        settings = {
            entry["quantizer_name"]: {**(entry.get("cfg") or {}), "enable": entry.get("enable", True)} for entry in settings
        }
    wrong = next((key for key, entry in settings.items() if not isinstance(entry, Mapping)), None)
    if wrong is not None:
        raise ConfigError(f"quant_cfg: {wrong}: got {settings[wrong]!r}; allowed: the settings of one quantizer")
    return dict(settings)


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
    """These casts for every layer with a weight, and bf16 for the rest: both libraries leave attention's products alone."""
    gemm = {"all": {"input": of_input, "weight": of_weight, "grad_output": of_gradient, "result": "bf16"}}
    return {"gemm": gemm, "products": {"gemm": "bf16"}}


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
