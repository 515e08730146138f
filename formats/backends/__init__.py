"""The ways to round tensors: each gives the same bits."""

from . import threads  # noqa: F401  (early, so that it knows the process that its user began in)
from .registry import Backend, backend, backends

__all__ = ["Backend", "backend", "backends"]
