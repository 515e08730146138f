"""The tasks that ship with the package; importing this registers them."""

from ..registry import CATALOGUE
from . import images, regression, signals, text

__all__ = ["CATALOGUE", "images", "regression", "signals", "text"]
