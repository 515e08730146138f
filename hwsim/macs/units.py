"""Units by name: the files of `configs/macs`, and a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from hwsim.catalogue import Catalogue
from hwsim.config import Document, validate
from hwsim.errors import ConfigError, not_allowed

from .record import Mac


def mac(given: Mac | str | Mapping[str, Any], catalogue: Catalogue | None = None) -> Mac:
    """A Mac from itself, `native`, a name of the catalogue, or a mapping as in YAML.

    Raises:
        ConfigError: no such name, or a unit that cannot exist, with file, line and YAML path.
    """
    if isinstance(given, Mac):
        return given
    if isinstance(given, Mapping):
        return validate(Document({"mac": dict(given)}, ""), Mac, ("mac",), catalogue)
    if not isinstance(given, str):
        raise ConfigError(f"mac: got {given!r}; allowed: a unit's name, `native`, or a mapping")
    if given == "native":
        return Mac(name="native", order="native")
    if catalogue is not None and given in catalogue.macs:
        return _declared(given, catalogue)
    return _shipped(given)


@cache
def _shipped(name: str) -> Mac:
    catalogue = Catalogue()
    if name not in catalogue.names("macs"):
        raise ConfigError(not_allowed("mac", name, ["native", *catalogue.names("macs")]))
    return _declared(name, catalogue)


def _declared(name: str, catalogue: Catalogue) -> Mac:
    found = catalogue.find("macs", name)
    return validate(found.document, Mac, found.path, catalogue).model_copy(update={"name": name})
