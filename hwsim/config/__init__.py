"""Strict YAML documents, and the records they declare."""

from .canonical import canonical, content_hash
from .document import Document, load, loads
from .record import Record
from .validation import explain, validate

__all__ = ["Document", "Record", "canonical", "content_hash", "explain", "load", "loads", "validate"]
