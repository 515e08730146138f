"""What is known of an operation before it runs: its kind, and which arguments it writes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch._ops import OpOverload

from .opened import opened
from .operations import UNDECLARED_WRITES, Kind, base_name, kind_of
from .stepping import Stepping


class Plan:
    """One ATen overload, analysed once.

    Attributes:
        name: its name in the tables; label: its name as torch has it.
        writes: whether it writes arguments (in-place, out, foreach, fused; running statistics).
        returns_written: whether its results are the arguments that it declares to write.
        views: whether its results are views of its arguments.
        opened: how it runs in the vector unit's steps, or None.
    """

    __slots__ = ("_keywords", "_positions", "func", "kind", "label", "name", "opened", "returns_written", "views", "writes")

    def __init__(self, func: OpOverload) -> None:
        self.func = func
        self.name = base_name(func)
        self.label = str(func._overloadpacket.__name__)
        self.kind = kind_of(func)
        arguments = func._schema.arguments
        written = [i for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write]
        self._positions = [i for i in written if not arguments[i].kwarg_only]
        self._positions += [i for i in UNDECLARED_WRITES.get(self.name, ()) if i not in self._positions]
        self._keywords = [arguments[i].name for i in written if arguments[i].kwarg_only]
        self.returns_written = bool(written)
        self.writes = bool(self._positions or self._keywords)
        returns = func._schema.returns
        self.views = bool(returns) and not self.writes and all(r.alias_info is not None for r in returns)
        self.opened = opened(self.name, func) if self.kind is Kind.VECTOR else None

    def written(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """The floating-point tensors that this call writes."""
        values = [args[i] for i in self._positions if i < len(args)]
        values += [kwargs[name] for name in self._keywords if name in kwargs]
        flat = [x for value in values for x in (value if isinstance(value, (list, tuple)) else (value,))]
        return [x for x in flat if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())]

    def stepped(self, unit: Stepping, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the call gives when the unit's steps do it; the operation has been `opened`."""
        given = {name: value for name, value in kwargs.items() if name not in self._keywords}
        out = self.opened(unit, *args, **given) if self.opened is not None else self.func(*args, **kwargs)
        target = self.target(args, kwargs) if self.returns_written else None
        return out if target is None else target.copy_(out)

    def apart(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with copies of those that the call writes."""
        if not self.writes:
            return args, kwargs
        copies = {id(x): x.clone() for x in self.written(args, kwargs)}
        return tuple(copies.get(id(x), x) for x in args), {key: copies.get(id(x), x) for key, x in kwargs.items()}

    def target(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """The tensor that receives the result of an in-place or out form."""
        return self.written(args, kwargs)[0] if self.writes else None
