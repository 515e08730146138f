"""Rounding one element at a time by the exact reference: slow, and obviously right."""

from __future__ import annotations

import torch
from torch import Tensor

from hwsim.formats.base import Format
from hwsim.formats.errors import NanError
from hwsim.formats.philox import Draw, word
from hwsim.formats.reference import check_projection, project, project_scaled
from hwsim.formats.rounding import Projection
from hwsim.formats.scaled import CARRIERS, PER_TENSOR, ScaleLayout, geometry, result_dtype


def quantize(
    x: Tensor,
    fmt: Format,
    projection: Projection,
    scale: Tensor | None = None,
    layout: ScaleLayout = PER_TENSOR,
    draw: Draw = Draw(),
    rescale: bool = True,
) -> Tensor:
    """See `hwsim.formats.operators.quantize_tensor`."""
    check_projection(fmt, projection)
    dtype = result_dtype(fmt, x.dtype)
    scales = _scales(x, scale, layout)
    values = []
    for i, given in enumerate(x.double().flatten().tolist()):
        random = word(i, draw) if projection.rounding.is_stochastic else 0
        try:
            if scales is None:
                values.append(float(project(given, fmt, projection, random)))
            else:
                values.append(float(project_scaled(given, scales[i], fmt, projection, CARRIERS[dtype], random)[rescale]))
        except NanError as error:
            raise NanError(f"element {i} of x, {given}: {error}", error.field) from error
    result = torch.tensor(values, dtype=torch.float64).view(x.shape).to(x.device, dtype)
    return torch.empty_like(x, dtype=dtype).copy_(result)


def _scales(x: Tensor, scale: Tensor | None, layout: ScaleLayout) -> list[float] | None:
    """The scale of each element, in row-major order."""
    if scale is None:
        return None
    index = geometry(x.shape, scale, layout).scale_index(x.numel(), scale.device)
    flat: list[float] = scale.double().reshape(-1)[index].tolist()
    return flat
