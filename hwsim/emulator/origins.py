"""Where a tensor comes from, noted on its storage, so that views, transposes and saved tensors know it too."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from weakref import ref

from torch import Tensor

ATTRIBUTE = "hwsim_origin"


class Role(IntEnum):
    """A tensor's part in training, in ascending order: the result of an operation takes the highest of its operands."""

    CONST = 0
    DATA = 1
    WEIGHT = 2
    INPUT = 3
    GRAD = 4


class Origin:
    """What a storage holds."""

    __slots__ = ("role", "weight")

    def __init__(self, role: Role, weight: Stored | None = None) -> None:
        self.role = role
        self.weight = weight


class Stored(Origin):
    """A tensor that lives from step to step: a parameter or an optimizer state.

    `kind` is `weight`, `momentum`, `variance`, `state`, `scale` or `counter` (the last two never rounded). `dirty` says that it
    has been written since it was last rounded to its format; `writes` counts.
    """

    __slots__ = ("dirty", "kind", "name", "owners", "tensor", "writes")

    def __init__(self, kind: str, name: str, tensor: Tensor, owners: tuple[str, ...] = ()) -> None:
        super().__init__(Role.WEIGHT if kind == "weight" else Role.CONST)
        self.kind = kind
        self.name = name
        self.owners = owners
        self.tensor = ref(tensor)
        self.dirty = False
        self.writes = 0
        if kind == "weight":
            self.weight = self


NOWHERE = Origin(Role.CONST)
PLAIN = {role: Origin(role) for role in Role}


def origin_of(x: Tensor) -> Origin:
    """The origin noted on a tensor's storage, or CONST."""
    return getattr(x.untyped_storage(), ATTRIBUTE, NOWHERE)


def note(x: Tensor, origin: Origin) -> None:
    """Note where a tensor comes from, unless its storage already has as high a role or is Stored."""
    storage = x.untyped_storage()
    known = getattr(storage, ATTRIBUTE, NOWHERE)
    if known.role < origin.role and not isinstance(known, Stored):
        setattr(storage, ATTRIBUTE, origin)


def note_stored(x: Tensor, origin: Stored) -> None:
    """Note a parameter or a state, whatever was known."""
    setattr(x.untyped_storage(), ATTRIBUTE, origin)


def forget(x: Tensor) -> None:
    """Remove what was noted."""
    storage = x.untyped_storage()
    if hasattr(storage, ATTRIBUTE):
        delattr(storage, ATTRIBUTE)


def joined(tensors: Iterable[Tensor], copies: bool, backward: bool) -> Origin:
    """The origin of what is computed from these tensors.

    The highest role, with two rules beside: data combined with a weight is an activation, and in the backward pass a constant
    is a gradient (the loss seed). A copy of a weight remembers which.
    """
    best, data = NOWHERE, False
    for x in tensors:
        origin = origin_of(x)
        if backward and origin.role is Role.CONST:
            return PLAIN[Role.GRAD]
        data = data or origin.role is Role.DATA
        if origin.role > best.role:
            best = origin
    if best.role is Role.WEIGHT:
        if data:
            return PLAIN[Role.INPUT]
        return Origin(Role.WEIGHT, best.weight) if copies else PLAIN[Role.WEIGHT]
    return PLAIN[best.role]


def tensors_in(args: tuple[object, ...], kwargs: dict[str, object]) -> list[Tensor]:
    """The floating-point and complex tensors among the arguments of an operation, lists of tensors opened."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, Tensor):
            if value.is_floating_point() or value.is_complex():
                found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [x for x in value if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())]
    return found


def mark_data(values: object) -> None:
    """Note the floating-point tensors in nested arguments of the model as data, where nothing else is known."""
    if isinstance(values, Tensor):
        if values.is_floating_point():
            note(values, PLAIN[Role.DATA])
    elif isinstance(values, dict):
        for value in values.values():
            mark_data(value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            mark_data(value)
