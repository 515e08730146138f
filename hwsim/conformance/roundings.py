"""Checks of rounding and of codes: every format of the catalogue against every peer that has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial

import numpy as np
import torch

from hwsim.catalogue import shipped
from hwsim.fields import format_record
from hwsim.formats import Fixed, Float, Format, Integer, Logarithmic, Posit, named_format
from hwsim.formats.float import MAX_EXPONENT_BITS

from .peer_apytypes import APYTYPES
from .peer_gfloat import GFLOAT, format_info
from .peer_logarithms import MPFR_LOGARITHMS, XLNS
from .peer_ml_dtypes import ML_DTYPES, TYPES, numpy_type
from .peer_mpfr import MPFR
from .peer_nvidia import NVIDIA, scales
from .peer_posits import POSIT_STRINGS, SOFTPOSIT, magnitudes_of
from .peer_softfloat import SOFTFLOAT
from .peers import Array, Peer, compare, different
from .registry import Check, Depth, Outcome

FIXED = {"fixed8.4": Fixed(8, 4), "ufixed6.6": Fixed(6, 6, signed=False), "fixed8.-3": Fixed(8, -3), "fixed16.15": Fixed(16, 15)}
"""Fixed point has no names of its own in the catalogue; these stand for it."""


@cache
def subjects() -> Mapping[str, tuple[Format, ...]]:
    """The floats, integers, posits and logarithmic numbers of the catalogue, some fixed point, and P3109 formats by width."""
    named = {name: format_record(name) for name, declared in shipped("formats").items() if isinstance(declared.data, Mapping)}
    single = {name: fmt for name, fmt in named.items() if isinstance(fmt, Float | Integer | Posit | Logarithmic)} | FIXED
    return {name: (fmt,) for name, fmt in single.items()} | {f"binary{k}": p3109(k) for k in range(3, 9)}


def p3109(width: int) -> tuple[Format, ...]:
    """The IEEE P3109 formats of one width: every precision that fp64 carries, signed and unsigned, extended and finite."""
    least = {"s": max(1, width - MAX_EXPONENT_BITS), "u": max(1, width - MAX_EXPONENT_BITS + 1)}
    names = [f"binary{width}p{p}{s}{d}" for s in "su" for p in range(least[s], width + (s == "u")) for d in "ef"]
    return tuple(fmt for name in names if (fmt := named_format(name)))


PEERS: Mapping[str, Peer] = {
    "mpfr": MPFR,
    "gfloat": GFLOAT,
    "ml_dtypes": ML_DTYPES,
    "nvidia": NVIDIA,
    "softfloat": SOFTFLOAT,
    "apytypes": APYTYPES,
    "softposit": SOFTPOSIT,
    "posit_strings": POSIT_STRINGS,
    "xlns": XLNS,
    "mpfr_logarithms": MPFR_LOGARITHMS,
}
QUICK = ("ml_dtypes", "nvidia")
WIDE_P3109 = range(9, 17)
"""Widths of which codes are compared alone: they round by the same rules, and there are hundreds of formats."""


def checks() -> Iterator[Check]:
    """For each format, or family of formats, rounding by every peer that has it, and the value of every code."""
    yield Check("formats/e8m0fnu/nvidia", NVIDIA.oracle, "rounding of magnitudes", scales)
    yield from wide_codes()
    for name, formats in subjects().items():
        for label, peer in PEERS.items():
            if known := [fmt for fmt in formats if peer.has(fmt)]:
                what = "rounding" + (f" of {len(known)} formats" if len(known) > 1 else "")
                run = partial(_each, partial(compare, peer=peer), known)
                yield Check(f"formats/{name}/{label}", peer.oracle, what, run, "quick" if label in QUICK else "full")
        if posits := [fmt for fmt in formats if isinstance(fmt, Posit)]:
            run = partial(_each, decoded_by_strings, posits)
            depth: Depth = "quick" if formats[0].bits <= 8 else "full"
            yield Check(f"codes/{name}/posit_strings", POSIT_STRINGS.oracle, "the value of every code", run, depth)
        listed = [fmt for fmt in formats if isinstance(fmt, Float) and fmt.bits <= 16]
        for peer, decoded in ((GFLOAT, decoded_by_gfloat), (ML_DTYPES, decoded_by_ml_dtypes)):
            if known := [fmt for fmt in listed if peer.has(fmt)]:
                label = next(label for label, one in PEERS.items() if one is peer)
                yield Check(f"codes/{name}/{label}", peer.oracle, "the value of every code", partial(_each, decoded, known))


def wide_codes() -> Iterator[Check]:
    """The value of every code of the wider P3109 formats."""
    for width in WIDE_P3109:
        formats = p3109(width)
        what, run = f"the value of every code of {len(formats)} formats", partial(_each, decoded_by_gfloat, formats)
        yield Check(f"codes/binary{width}/gfloat", GFLOAT.oracle, what, run, "full")


def _each(check: Callable[[Format], Outcome], formats: Sequence[Format]) -> Outcome:
    """The outcomes of several formats as one; the note is that of the first which differs, else the longest."""
    outcomes = [check(fmt) for fmt in formats]
    excluded: Counter[str] = Counter()
    for outcome in outcomes:
        excluded.update(dict(outcome.excluded))
    notes = [f"{fmt}: {o.note}" for fmt, o in zip(formats, outcomes, strict=True) if o.mismatches] or [o.note for o in outcomes]
    cases, mismatches = sum(o.cases for o in outcomes), sum(o.mismatches for o in outcomes)
    return Outcome(cases, mismatches, max(notes, key=len), tuple(excluded.items()))


def decoded_by_gfloat(fmt: Format) -> Outcome:
    """Every code decoded here and there."""
    import gfloat

    with np.errstate(all="ignore"):
        theirs = gfloat.decode_ndarray(format_info(fmt), np.arange(1 << fmt.bits))
    return _compared(fmt, theirs)


def decoded_by_ml_dtypes(fmt: Format) -> Outcome:
    """Every code decoded here and there."""
    codes = np.arange(1 << fmt.bits, dtype=np.uint16 if fmt.bits == 16 else np.uint8)
    with np.errstate(invalid="ignore"):
        theirs = codes.view(numpy_type(TYPES[fmt][0])).astype(np.float64)
    return _compared(fmt, theirs)


def decoded_by_strings(fmt: Format) -> Outcome:
    """Every code decoded here and there: the negative ones are the two's complement of the positive."""
    assert isinstance(fmt, Posit)
    positive = magnitudes_of(fmt.bits, fmt.es)
    return _compared(fmt, np.concatenate([positive, [np.nan], -positive[:0:-1]]))


def _compared(fmt: Format, theirs: Array) -> Outcome:
    ours = fmt.decode(torch.arange(1 << fmt.bits)).double().numpy()
    wrong = different(ours, theirs)
    first = f"first: code {int(wrong.argmax())}" if wrong.any() else ""
    return Outcome(len(ours), int(wrong.sum()), first)
