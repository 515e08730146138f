"""The suite that a plug-in passes before it registers: every format of our own passes, and each fault is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from rounding_cases import FORMATS

from hwsim.formats import Codebook, FormatError, Integer, Levels, format_kinds, registry
from hwsim.formats.backends import Backend
from hwsim.formats.backends import registry as backend_registry
from hwsim.formats.properties import check_backend, check_format


@dataclass(frozen=True)
class Sound(Integer):
    bits: int = 3


@dataclass(frozen=True)
class Unproven(Integer):
    """Has a field without a default, and no examples."""


@dataclass(frozen=True)
class OffByOne(Integer):
    bits: int = 3

    def decode_code(self, code: int) -> Fraction | float:
        return super().decode_code(code) + 1


@dataclass(frozen=True)
class Tangled(Codebook):
    """Its boundaries leave the neighbours that they lie between."""

    examples: ClassVar[Any] = classmethod(lambda kind: (kind((-1.0, 0.0, 1.0, 2.0)),))

    @property
    def lattice(self) -> Levels:
        return Levels(values=(-1.0, 0.0, 0.5, 2.0), codes=(0, 1, 2, 3), boundaries=(-0.5, 0.5, 1.5), bits=2)


@dataclass(frozen=True)
class Twice(Codebook):
    """Each level has two codes, and no sign bit tells them apart."""

    examples: ClassVar[Any] = classmethod(lambda kind: (kind((-1.0, 0.0, 1.0, 2.0)),))

    @property
    def bits(self) -> int:  # type: ignore[override]
        return super().bits + 1

    def decode_code(self, code: int) -> Fraction | float:
        return super().decode_code(code % len(self.levels))


def entry(name: str, what: object) -> SimpleNamespace:
    return SimpleNamespace(name=name, value=f"plugin:{name}", load=lambda: what)


@pytest.fixture
def _fresh() -> Iterator[None]:
    caches = (registry.format_kinds, backend_registry.registered, backend_registry.backend)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def install(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, what: object) -> None:
    monkeypatch.setattr(module, "entry_points", lambda group: [entry(name, what)])


@pytest.mark.parametrize("name", FORMATS)
def test_our_own_formats_pass(name: str) -> None:
    check_format(FORMATS[name])


@pytest.mark.parametrize("name", ["reference", "torch", "numba"])
def test_our_own_backends_pass(name: str) -> None:
    check_backend(backend_registry.backend(name))


@pytest.mark.usefixtures("_fresh")
def test_a_sound_kind_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, registry, "sound", Sound)
    assert format_kinds()["sound"] is Sound


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Unproven, r"kind: 'mine' has fields without defaults; allowed: those, or a class method `examples\(\)`"),
        (OffByOne, "int3: 'decodes alike' fails at code 0"),
        (Twice, r"codebook\(4 levels\): 'a code comes back' fails at code 4"),
        (Tangled, r"codebook\(4 levels\): 'decodes alike' fails at code 2"),
        (object, "kind: 'mine' of plugin:mine is <class 'object'>; allowed: a subclass of Format"),
    ],
)
def test_a_faulty_kind_does_not(kind: object, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, registry, "mine", kind)
    with pytest.raises(FormatError, match=message):
        format_kinds()


@dataclass(frozen=True)
class Numbers:
    """A backend's `quantize` that changes what the reference gives."""

    change: Any
    known: Backend = field(default_factory=lambda: backend_registry.backend("reference"))

    def __call__(self, *arguments: Any) -> torch.Tensor:
        return self.change(self.known.quantize(*arguments), *arguments)  # type: ignore[no-any-return]


def refuse(*_: object) -> torch.Tensor:
    raise FormatError("no")


@pytest.mark.parametrize(
    ("quantize", "message"),
    [
        (Numbers(lambda y, *_: y.float().nextafter(torch.tensor(9.0)).double()), "'equals the reference' fails in the mode"),
        (
            Numbers(lambda y, *_: y + 0.0),
            "backend 'mine' on float.e4m3, fn.: 'equals the reference' fails in the mode 'nearest_even'",
        ),
        (refuse, "backend: 'mine' refuses every format"),
    ],
)
def test_a_faulty_backend_does_not(quantize: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FormatError, match=message):
        check_backend(Backend("mine", str, quantize))


@pytest.mark.usefixtures("_fresh")
def test_a_backend_that_cannot_run_here_is_listed_untested(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Backend("mine", lambda: "there is no such device", refuse)
    install(monkeypatch, backend_registry, "mine", mine)
    assert backend_registry.backends()["mine"] == "there is no such device"
    install(monkeypatch, backend_registry, "mine", replace(mine, available=str))
    backend_registry.registered.cache_clear()
    with pytest.raises(FormatError, match="refuses every format"):
        backend_registry.backends()
