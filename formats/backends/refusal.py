"""The error of a NaN that has no place to go."""

from __future__ import annotations

from typing import NoReturn

import torch

from hwsim.formats.errors import NanError


def refuse_nan(x: torch.Tensor, rounded: torch.Tensor) -> NoReturn:
    """Raise NanError naming the first element of x that became NaN."""
    first = int(rounded.reshape(-1).isnan().nonzero()[0])
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(first), x.shape)) if x.dim() else ()
    raise NanError(
        f"x{list(index) or ''}: got {float(x[index])}, which becomes NaN in a format that has none; "
        "allowed: `nan: max` or `nan: zero` say what it becomes",
        "nan",
    )
