"""Where QPyTorch differs: the table of docs/qtorch.md. `python tests/conformance/qtorch_table.py` writes it anew."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

import hwsim
from hwsim.catalogue import shipped
from hwsim.formats import Float, Projection, Rounding
from hwsim.formats.backends.qtorch import inexpressible
from hwsim.formats.operators import quantize_tensor

PAGE = Path(__file__).resolve().parents[2] / "docs" / "qtorch.md"
TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.S)
CLASSES = ("NaN", "infinity", "negative zero", "sign flip", "beyond the largest", "tie", "other")
SIGN_FLIP_BITS = 23


def floats() -> dict[str, Float]:
    """The floats of the catalogue, without aliases."""
    named = {name: hwsim.format(name) for name, declared in shipped("formats").items() if isinstance(declared.data, Mapping)}
    return {name: fmt for name, fmt in named.items() if isinstance(fmt, Float)}


def half_precision_values() -> torch.Tensor:
    """The value of every float16 code, in float32."""
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.float16).float()


def equal(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Where two tensors have the same bits, any NaN being the same."""
    return (a == b) & (a.signbit() == b.signbit()) | a.isnan() & b.isnan()


def divergences(fmt: Float, x: torch.Tensor) -> dict[str, int]:
    """How many elements of x QPyTorch does not round to nearest even with saturation, by the first class that they fall in."""
    nan = "error" if fmt.has_nan else "max"
    even = quantize_tensor(x, fmt, Projection(nan=nan), backend="torch")
    away = quantize_tensor(x, fmt, Projection(Rounding("nearest_away"), nan=nan), backend="torch")
    theirs = quantize_tensor(x, fmt, Projection(nan="max"), backend="qtorch")
    left = ~equal(even, theirs)
    members = {
        "NaN": x.isnan(),
        "infinity": x.isinf(),
        "negative zero": (even == 0) & (theirs == 0),
        "sign flip": torch.full_like(left, fmt.mantissa_bits == SIGN_FLIP_BITS),
        "beyond the largest": x.abs() > fmt.max,
        "tie": equal(away, theirs),
        "other": torch.ones_like(left),
    }
    counts = {}
    for name in CLASSES:
        counts[name] = int((left & members[name]).sum())
        left = left & ~members[name]
    return counts


def table() -> str:
    """The table in markdown: one row for each float of the catalogue."""
    x = half_precision_values()
    rows = ["| format | " + " | ".join(CLASSES) + " |", "|---|" + "---:|" * len(CLASSES)]
    for name, fmt in floats().items():
        why_not = inexpressible(fmt)
        cells = [f"refused; {why_not}", *[""] * (len(CLASSES) - 1)] if why_not else map(str, divergences(fmt, x).values())
        rows.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: table(), PAGE.read_text()))
