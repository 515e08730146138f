"""hwsim: number formats and accelerator datapaths, emulated bit for bit in PyTorch training.

The public face: `format`, `quantize`, `mac`, `matmul`, `datapath`, `emulate`, `budget`, `backends`, `training`, and the errors.
"""

from typing import Any

from hwsim import training
from hwsim.budgets import Budget, budget
from hwsim.casting import Quantized, quantize
from hwsim.casts import Cast, Scaling
from hwsim.datapaths import Datapath, datapath
from hwsim.emulator import Machine, emulate
from hwsim.errors import ConfigError, FormatError, HwsimError, StudyError
from hwsim.fields import format_record
from hwsim.formats import Block, Draw, Fixed, Float, Format, Integer, Rounding
from hwsim.formats.backends import backends
from hwsim.macs import Mac, mac, matmul

__version__ = "0.1.0"


def format(given: Format | str | dict[str, Any]) -> Format:
    """A number format from its name, a mapping as in YAML, or itself.

    Raises:
        FormatError: no such name or kind, or parameters that make no format; the nearest match is named.
    """
    try:
        return format_record(given)
    except ConfigError as error:
        raise FormatError(str(error), error.path) from None


__all__ = [
    "Block",
    "Budget",
    "Cast",
    "ConfigError",
    "Datapath",
    "Draw",
    "Fixed",
    "Float",
    "Format",
    "FormatError",
    "HwsimError",
    "Integer",
    "Mac",
    "Machine",
    "Quantized",
    "Rounding",
    "Scaling",
    "StudyError",
    "backends",
    "budget",
    "datapath",
    "emulate",
    "format",
    "mac",
    "matmul",
    "quantize",
    "training",
]
