"""The ways to round tensors: each gives the same bits."""

from .registry import Backend, backend, backends

__all__ = ["Backend", "backend", "backends"]
