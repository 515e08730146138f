"""Dot-product units: what they are, and what they compute, bit for bit."""

from .matmul import matmul
from .orders import Alignment, Chunked, Fused, LateSum
from .quantized import Scaled
from .record import CInput, Mac, Operands, Promote, Rounded, Scales
from .units import mac

__all__ = [
    "Alignment",
    "CInput",
    "Chunked",
    "Fused",
    "LateSum",
    "Mac",
    "Operands",
    "Promote",
    "Rounded",
    "Scaled",
    "Scales",
    "mac",
    "matmul",
]
