"""How the compiled loops are compiled."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llvmlite import ir
from numba import njit
from numba.extending import intrinsic

UNWRAPPED_IN_C: dict[str, Any] = {"no_cfunc_wrapper": True}
UNWRAPPED: dict[str, Any] = UNWRAPPED_IN_C | {"no_cpython_wrapper": True}
"""Python never calls an inlined function: what would unpack its arguments takes a fifth of the time to compile."""
Function = TypeVar("Function", bound=Callable[..., Any])
if TYPE_CHECKING:

    def fma(a: Any, b: Any, c: Any) -> Any:
        """a b + c, rounded once; all of one floating type."""
else:

    @intrinsic
    def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: D103
        def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return builder.fma(*args)

        return a(a, a, a), build


def inlined(function: Function) -> Function:
    """A function that compiled ones call: compiled anew into each of them. Called from Python it ends the process."""
    return cast(Function, njit(error_model="numpy", **UNWRAPPED)(function))


def woven(function: Function) -> Function:
    """An inlined function whose code LLVM has to put into its caller, where arguments that are constants there are known."""
    return cast(Function, njit(error_model="numpy", forceinline=True, **UNWRAPPED)(function))


def kept(function: Function) -> Function:
    """A function that Python calls: it releases the GIL, and its machine code is kept on disk."""
    return cast(Function, njit(nogil=True, cache=True, error_model="numpy", **UNWRAPPED_IN_C)(function))


def sources(*files: str) -> int:
    """A checksum of these source files.

    numba takes kept machine code for current while the file of the kept function is unchanged, whatever it calls. A kept
    function that closes over this number is compiled again when any of the files changes.
    """
    return zlib.crc32(b"".join(Path(file).read_bytes() for file in files))
