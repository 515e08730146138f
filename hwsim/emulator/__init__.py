"""The emulator: every tensor of a training loop on a declared machine, any model, unchanged."""

from .audit import AuditRow, NativeRow
from .context import emulate
from .machine import Machine
from .meter import SiteStatistics
from .watch import NotFinite

__all__ = ["AuditRow", "Machine", "NativeRow", "NotFinite", "SiteStatistics", "emulate"]
