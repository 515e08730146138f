"""Packages that only some tasks need."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .errors import TaskError


def optional(module: str, package: str, extra: str, what: str, field: str) -> Any:
    """The module, which `package` of the extra `extra` brings.

    Raises:
        TaskError: it is not installed; `what` of the option `field` needs it.
    """
    if find_spec(module.partition(".")[0]) is None:
        raise TaskError(f"{field}: {what} needs the package {package}: pip install 'hwsim[{extra}]'", field)
    return import_module(module)
