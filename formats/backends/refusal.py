"""The error of a NaN that has no place to go."""

from __future__ import annotations

from typing import NoReturn

import torch

from hwsim.formats.errors import FormatError, NanError


def refuse_nan(x: torch.Tensor, rounded: torch.Tensor) -> NoReturn:
    """Raise NanError naming the first element of x that became NaN."""
    first = int(rounded.reshape(-1).isnan().nonzero()[0])
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(first), x.shape)) if x.dim() else ()
    raise NanError(
        f"x{list(index) or ''}: got {float(x[index])}, which becomes NaN in a format that has none; "
        "allowed: `nan: max` or `nan: zero` say what it becomes",
        "nan",
    )


def refuse_special(x: torch.Tensor) -> NoReturn:
    """Raise FormatError naming the first NaN or infinity of x."""
    index = [int(i) for i in (~x.isfinite()).nonzero()[0]]
    raise FormatError(
        f"x{index}: got {float(x[tuple(index)])} in a block under `special: error`; "
        "allowed: finite numbers; `special: nan` and `special: element` let others in",
        "special",
    )
