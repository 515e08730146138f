"""`hwsim.quantize`: one tensor through one converter; inside `torch.compile` it is one operator, which breaks no graph."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from hwsim.casting import Quantized, apply, parts
from hwsim.casts import Cast, Scaling
from hwsim.config import Document, explain
from hwsim.errors import ConfigError, FormatError
from hwsim.formats import Draw, Format, Rounding
from hwsim.formats.lowering import constant_in_graphs
from hwsim.formats.rounding import NanRule, Overflow
from hwsim.formats.scaled import CARRIERS, result_dtype

LIBRARY = torch.library.Library("hwsim", "FRAGMENT")  # type: ignore[no-untyped-call]
LIBRARY.define(  # type: ignore[no-untyped-call]
    "cast(Tensor x, str declared, int axis, ScalarType dtype) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)
ALLOWED = f"a dense floating tensor: {', '.join(map(str, CARRIERS))}"


def quantize(
    x: Tensor,
    fmt: Format | str | dict[str, Any],
    rounding: Rounding | str | dict[str, Any] = "nearest_even",
    overflow: Overflow = "saturate",
    scaling: Scaling | str | dict[str, Any] | None = None,
    *,
    axis: int = -1,
    nan: NanRule = "error",
    seed: int = 0,
    site: str = "",
    step: int = 0,
    call: int = 0,
    rank: int = 0,
    offset: int = 0,
    return_parts: bool = False,
    backend: str | None = None,
    gradient: Literal["pass", "clip"] = "pass",
) -> Tensor | Quantized:
    """A tensor rounded to a format: each element once, from its exact value, or its exact quotient by the scale.

    NaN stays NaN where the format has one, else `nan` says what it becomes; overflow is judged after rounding with an
    unbounded exponent; -0 becomes +0 where the format has none.

    Args:
        x: float16, bfloat16, float32 or float64, any shape.
        fmt: a format, its name, or a mapping as in YAML.
        rounding, overflow, nan: see Rounding and Projection.
        scaling: see Scaling.
        axis: the axis that groups, and the blocks of a block format, run along; one of x's, whatever the format.
        seed, site, step, call, rank, offset: the key of a stochastic rounding (see Draw).
        return_parts: a Quantized (values, codes, scale codes) instead of the values; not inside `torch.compile`.
        backend: one of `hwsim.backends()`; by default numba on CPU, triton on CUDA and torch elsewhere.
        gradient: goes straight through (`pass`), or nowhere where the quotient by the scale lies beyond the format (`clip`).

    Returns:
        Values of x's shape in x's dtype where that holds every value of the format, else in the smaller of float32 and
        float64 that does.

    Raises:
        FormatError, ConfigError: no dense floating tensor, no such axis, an unknown name, or a combination that cannot be;
            inside `torch.compile` also parts, a backend, or the gradient `clip`.
    """
    if torch.compiler.is_compiling():
        given = (fmt, rounding, overflow, nan, scaling, gradient, return_parts, backend)
        return torch.ops.hwsim.cast(x, *_constants(axis, x.dtype, (seed, site, step, call, rank, offset), *given))  # type: ignore[no-any-return]
    _check_given(x, axis)
    cast = _cast_of(fmt, rounding, overflow, nan, scaling, gradient)
    draw = Draw(seed, site, step, call, rank, offset)
    if not return_parts and cast.gradient == "pass":
        return apply(cast, x, draw, axis, backend=backend)
    found = parts(cast, x, draw, axis, backend)
    if cast.gradient == "clip":
        found = replace(found, values=_clipped(x.detach(), found))
    return found if return_parts else found.values


def _check_given(x: object, axis: object) -> None:
    """Refuse what is no dense tensor of a dtype that is rounded, and an axis that it does not have."""
    if not isinstance(x, Tensor):
        raise FormatError(f"x: got a {type(x).__name__}; allowed: {ALLOWED}", "x")
    if x.dtype not in CARRIERS or x.layout is not torch.strided or x.is_nested:
        raise FormatError(f"x: got a tensor of {x.dtype}, {x.layout}; allowed: {ALLOWED}", "x")
    axes = max(x.dim(), 1)
    if isinstance(axis, bool) or not isinstance(axis, int) or not -axes <= axis < axes:
        raise FormatError(f"axis: got {axis!r} for a tensor of shape {tuple(x.shape)}; allowed: {-axes} to {axes - 1}", "axis")


def _clipped(x: Tensor, found: Quantized) -> Tensor:
    """The values, with no way back for the gradient where the quotient lies beyond the format."""
    quotient = x if found.unit is None else x / found.unit
    beyond = (quotient > found.format.max) | (quotient < found.format.min)
    return torch.where(beyond, found.values.detach(), found.values)


def _cast_of(*given: Any) -> Cast:
    named = not any(isinstance(field, dict | list) for field in given)
    return _known_cast(str(given[0]), *given) if named else _cast(*given)


@lru_cache(maxsize=1024)
def _known_cast(label: str, *given: Any) -> Cast:
    """The cast of what can be looked up; `label` keeps formats apart that are equal but for their name."""
    return _cast(*given)


def _cast(fmt: Any, rounding: Any, overflow: Any, nan: Any, scaling: Any, gradient: Any) -> Cast:
    names = "format", "rounding", "overflow", "nan", "scaling", "gradient"
    given = dict(zip(names, (fmt, rounding, overflow, nan, scaling, gradient), strict=True))
    try:
        return Cast.model_validate(given)
    except ValidationError as error:
        raise explain(error, Document(given, ""), model=Cast) from None


@constant_in_graphs
def _constants(axis: int, dtype: torch.dtype, words: tuple[Any, ...], *given: Any) -> tuple[str, int, torch.dtype]:
    """What the operator is given besides the tensor: constants of a compiled graph."""
    *declared, return_parts, backend = given
    cast = _cast_of(*declared)
    for name, value, allowed in (
        ("return_parts", return_parts, False),
        ("backend", backend, None),
        ("gradient", cast.gradient, "pass"),
    ):
        if value != allowed:
            raise ConfigError(f"{name}: got {value!r} inside torch.compile; allowed: {allowed!r}")
    draw = Draw(*words)
    numbers = draw.seed, draw.site, draw.step, draw.call, draw.rank, draw.offset
    return json.dumps([cast.model_dump(mode="json"), numbers]), axis, result_dtype(cast.format, dtype)


@lru_cache(maxsize=1024)
def _declared(text: str) -> tuple[Cast, Draw]:
    cast, words = json.loads(text)
    return Cast.model_validate(cast), Draw(*words)


def _round(x: Tensor, declared: str, axis: int, dtype: torch.dtype) -> Tensor:
    _check_given(x, axis)
    cast, draw = _declared(declared)
    return apply(cast, x, draw, axis)


def _shape_only(x: Tensor, declared: str, axis: int, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


def _straight_through(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return gradient, None, None, None


LIBRARY.impl("cast", _round, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
LIBRARY.impl("cast", _shape_only, "Meta")  # type: ignore[no-untyped-call]
torch.library.register_autograd("hwsim::cast", _straight_through, lib=LIBRARY)
