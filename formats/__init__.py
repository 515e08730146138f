"""What a number is: formats, rounding, codes, and the backends that round tensors."""

from .base import Format
from .block import Block
from .codebook import AdditivePowersOfTwo, Codebook
from .errors import FormatError, HwsimError
from .float import Float
from .grid import Grid
from .integer import Fixed, Integer
from .levels import Levels
from .logarithmic import Logarithmic
from .philox import Draw
from .posit import Posit
from .registry import format_kinds, named_format
from .rounding import Projection, Rounding

__all__ = [
    "AdditivePowersOfTwo",
    "Block",
    "Codebook",
    "Draw",
    "Fixed",
    "Float",
    "Format",
    "FormatError",
    "Grid",
    "HwsimError",
    "Integer",
    "Levels",
    "Logarithmic",
    "Posit",
    "Projection",
    "Rounding",
    "format_kinds",
    "named_format",
]
