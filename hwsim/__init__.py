"""hwsim: number formats and accelerator datapaths, emulated bit for bit in PyTorch training.

The public face: `format`, `quantize`, `mac`, `matmul`, `datapath`, `emulate`, `budget`, `backends`, `training`, and the errors.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hwsim.budgets import Budget, budget
from hwsim.casting import Quantized
from hwsim.casts import Cast, Scaling
from hwsim.datapaths import Datapath, datapath
from hwsim.emulator import Machine, emulate
from hwsim.errors import ConfigError, FormatError, HwsimError, StudyError
from hwsim.fields import format_record
from hwsim.formats import Block, Draw, Fixed, Float, Format, Integer, Rounding
from hwsim.formats.backends import backends
from hwsim.macs import Mac, mac, matmul
from hwsim.quantizing import quantize

if TYPE_CHECKING:
    from hwsim import training

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # The solvers and simulations are loaded by who asks for them: a cast or a product needs nothing of theirs.
    if name == "training":
        return import_module("hwsim.training")
    raise AttributeError(f"module 'hwsim' has no attribute {name!r}")


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
