"""Packages that only one executor or sink needs."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from hwsim.errors import StudyError


def needed(module: str, extra: str) -> Any:
    """The module of an optional extra.

    Raises:
        StudyError: it is not installed.
    """
    if find_spec(module.partition(".")[0]) is None:
        raise StudyError(f"{extra}: {module} is not installed; allowed with it: pip install 'hwsim[{extra}]'")
    return import_module(module)
