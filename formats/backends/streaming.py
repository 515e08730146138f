"""Results to memory past the cache, which else would first read what they overwrite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compiling import inlined

LINE = 32
STREAMED = 1 << 24
"""Bytes of a result from which on it goes past the cache: less may be read again before it is displaced."""


if TYPE_CHECKING:

    def _address(array: Any) -> int:
        """Where its first element lies."""

    def _move_line(target: int, source: int) -> None:
        """LINE bytes from one address to another, a multiple of LINE, past the cache."""

    def fence() -> None:
        """Wait until what went past the cache is in memory, before another thread is told of it."""

else:

    @intrinsic
    def _address(typing: Any, array: Any) -> Any:
        def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, value=args[0]).data
            return builder.ptrtoint(data, ir.IntType(64))

        return types.int64(array), build

    @intrinsic
    def _move_line(typing: Any, target: Any, source: Any) -> Any:
        def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            line = ir.VectorType(ir.IntType(64), LINE // 8).as_pointer()
            to, at = (builder.inttoptr(address, line) for address in args)
            store = builder.store(builder.load(at, align=4), to, align=LINE)
            store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), build

    @intrinsic
    def fence(typing: Any) -> Any:  # noqa: D103
        def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.void(), build


@inlined
def stream(page: Any, out: Any) -> None:
    """Copy a page to an array of its size and type, past the cache."""
    item = page.itemsize
    target, source, n = _address(out), _address(page), page.size
    head = min(((-target) & (LINE - 1)) // item, n)
    lines = (n - head) * item // LINE
    for i in range(head):
        out[i] = page[i]
    for line in range(lines):
        _move_line(target + head * item + line * LINE, source + head * item + line * LINE)
    for i in range(head + lines * LINE // item, n):
        out[i] = page[i]
