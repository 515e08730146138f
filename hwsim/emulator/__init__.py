"""The emulator: every tensor of a training loop on a declared machine, any model, unchanged."""

from .audit import AuditRow, NativeRow
from .context import emulate
from .machine import Machine
from .meter import SiteStatistics

__all__ = ["AuditRow", "Machine", "NativeRow", "SiteStatistics", "emulate"]
