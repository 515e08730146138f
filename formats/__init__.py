"""What a number is: formats, rounding, codes, and the backends that round tensors."""

from .base import Format
from .block import Block
from .errors import FormatError, HwsimError
from .float import Float
from .grid import Grid
from .integer import Fixed, Integer
from .philox import Draw
from .registry import format_kinds, named_format
from .rounding import Projection, Rounding

__all__ = [
    "Block",
    "Draw",
    "Fixed",
    "Float",
    "Format",
    "FormatError",
    "Grid",
    "HwsimError",
    "Integer",
    "Projection",
    "Rounding",
    "format_kinds",
    "named_format",
]
