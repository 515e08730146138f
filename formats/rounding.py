"""Which neighbour a value takes, and what happens at the edges of a format."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from .errors import FormatError, not_allowed

Mode = Literal[
    "nearest_even",
    "nearest_away",
    "nearest_zero",
    "toward_zero",
    "toward_positive",
    "toward_negative",
    "to_odd",
    "stochastic",
]
Variant = Literal["A", "B", "C"]
Overflow = Literal["saturate", "propagate", "infinity", "nan", "wrap"]
NanRule = Literal["error", "max", "zero"]

MODES: tuple[str, ...] = get_args(Mode)
OVERFLOWS: tuple[str, ...] = get_args(Overflow)
NAN_RULES: tuple[str, ...] = get_args(NanRule)


@dataclass(frozen=True)
class Rounding:
    """Which of its two neighbours a real number takes.

    With |x| = (k + v) ulp, k an integer and 0 <= v < 1, the magnitude becomes k ulp or (k + 1) ulp:

    - `nearest_even`, `nearest_away`, `nearest_zero`: by v against 1/2; the name says what a tie does
      (even: the even one of k and k + 1);
    - `toward_zero`, `toward_positive`, `toward_negative`: directed;
    - `to_odd`: k if v = 0, else the odd one (Boldo and Melquiond), which keeps a later rounding single;
    - `stochastic`: k + 1 with a probability of v to `random_bits` bits, from the top N bits R of a random word;
      variant A: floor(v 2^N) + R >= 2^N; B: floor(v 2^(N+1)) + 2 R + 1 >= 2^(N+1); C: A with v 2^N rounded to nearest even
      (IEEE P3109 v4.0 section 4.7.4, StochasticA, B, C).

    Args:
        mode: one of the eight names above.
        random_bits: N, 1..32; only for `stochastic`.
        variant: A, B or C; only for `stochastic`.

    Raises:
        FormatError: unknown mode or variant, `random_bits` out of range.
    """

    mode: Mode = "nearest_even"
    random_bits: int = 24
    variant: Variant = "A"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise FormatError(not_allowed("rounding", self.mode, MODES), "mode")
        if isinstance(self.random_bits, bool) or not isinstance(self.random_bits, int) or not 1 <= self.random_bits <= 32:
            raise FormatError(f"random_bits: got {self.random_bits!r}; allowed: a whole number from 1 to 32", "random_bits")
        if self.variant not in get_args(Variant):
            raise FormatError(not_allowed("variant", self.variant, get_args(Variant)), "variant")

    @property
    def is_stochastic(self) -> bool:
        """Whether random words decide."""
        return self.mode == "stochastic"

    @classmethod
    def parse(cls, given: Rounding | str | dict[str, Any]) -> Rounding:
        """A Rounding from itself, a name (`stochastic(8)` sets the random bits) or a mapping of the fields."""
        if isinstance(given, Rounding):
            return given
        if isinstance(given, str):
            call = re.fullmatch(r"stochastic\((\d+)\)", given)
            return cls("stochastic", int(call.group(1))) if call else cls(given)  # type: ignore[arg-type]
        if isinstance(given, dict):
            unknown = sorted(set(given) - {"mode", "random_bits", "variant"}, key=str)
            if unknown:
                raise FormatError(not_allowed("rounding", unknown[0], ("mode", "random_bits", "variant")), str(unknown[0]))
            return replace(cls(), **given)
        raise FormatError(f"rounding: got {given!r}; allowed: a name ({', '.join(MODES)}) or a mapping")

    def __str__(self) -> str:
        if not self.is_stochastic:
            return self.mode
        return f"stochastic({self.random_bits})" + (self.variant if self.variant != "A" else "")


@dataclass(frozen=True)
class Projection:
    """How a real number becomes a value of a format: everything about a conversion that is not the format.

    Overflow is judged after rounding with an unbounded exponent:

    - `saturate`: finite values and infinities become the largest value of their sign;
    - `propagate`: finite values saturate, infinities stay;
    - `infinity`: IEEE 754 section 7.4 (a directed mode that points inwards, and `to_odd`, give the largest value);
    - `nan`: overflow and infinities become NaN;
    - `wrap`: two's complement, modulo 2^bits; infinities follow the NaN rule.

    A NaN stays NaN where the format has one; elsewhere `nan` says what it becomes (`error` refuses it, `max` is the largest
    value, `zero` is +0). A negative zero becomes +0 where the format has none. Negative values beyond an unsigned format
    saturate to its smallest value, and become NaN under `infinity`.
    `flush_inputs` and `flush_outputs` replace subnormals (of the carrier; of the format) by a zero of the same sign.
    """

    rounding: Rounding = Rounding()
    overflow: Overflow = "saturate"
    nan: NanRule = "error"
    flush_inputs: bool = False
    flush_outputs: bool = False

    def __post_init__(self) -> None:
        if self.overflow not in OVERFLOWS:
            raise FormatError(not_allowed("overflow", self.overflow, OVERFLOWS), "overflow")
        if self.nan not in NAN_RULES:
            raise FormatError(not_allowed("nan", self.nan, NAN_RULES), "nan")
