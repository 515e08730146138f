"""Random words as a function of what is rounded: Philox-4x32-10 (Salmon et al., SC 2011), with hwsim's counter layout."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from .errors import FormatError

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Draw:
    """Which random words a stochastic rounding takes: all that they depend on besides the element's index.

    Args:
        seed: 0 <= seed < 2^63.
        site: the place in the machine; its crc32 is part of the key.
        step: the training step, 0 <= step < 2^32.
        call: how often the site has run in this step, 0 <= call < 2^16.
        rank: data-parallel rank, 0 <= rank < 2^16; 0 for weights and optimizer states.
        offset: index of the tensor's first element in the logical tensor.

    Raises:
        FormatError: a number out of range, or a site that is no text.
    """

    seed: int = 0
    site: str = ""
    step: int = 0
    call: int = 0
    rank: int = 0
    offset: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.site, str):
            raise FormatError(f"site: got {self.site!r}; allowed: text, such as 'layer1.0.conv1'", "site")
        for name, limit in (("seed", 63), ("step", 32), ("call", 16), ("rank", 16), ("offset", 63)):
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < 1 << limit:
                raise FormatError(f"{name}: got {given!r}; allowed: a whole number from 0 to 2^{limit} - 1", name)

    @property
    def key(self) -> tuple[int, int]:
        """(seed mod 2^32, crc32(site) xor seed div 2^32)."""
        return self.seed & MASK, zlib.crc32(self.site.encode()) ^ (self.seed >> 32)

    @property
    def counter_high(self) -> tuple[int, int]:
        """The counter's third and fourth word: (step, call 2^16 + rank)."""
        return self.step, (self.call << 16) + self.rank

    @cached_property
    def numbers(self) -> tuple[int, int, int, int, int]:
        """What kernels are given: the key, the upper half of the counter, the offset."""
        return *self.key, *self.counter_high, self.offset


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox-4x32-10 of one counter: ten rounds of two 32 x 32 -> 64 bit products, xor, and a Weyl step of the key."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def word(index: int, draw: Draw) -> int:
    """The 32-bit random word of one element.

    With i = index + offset and b = 16 (i div 64) + i mod 16, it is output word (i div 16) mod 4 of the counter
    (b mod 2^32, b div 2^32, step, call 2^16 + rank): blocks of 64 elements take 16 counters, so that the ten rounds vectorise.
    """
    i = index + draw.offset
    b = 16 * (i // 64) + i % 16
    return philox((b & MASK, b >> 32, *draw.counter_high), draw.key)[(i // 16) % 4]


def words(count: int, numbers: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """The words (int64, 0 .. 2^32 - 1) of elements 0 .. count - 1 under the numbers of a Draw, vectorised on any device."""
    k0, k1, high0, high1, offset = numbers
    i = torch.arange(offset, offset + count, dtype=torch.int64, device=device)
    b = (i >> 6 << 4) + (i & 15)
    c0, c1, c2, c3 = b & MASK, b >> 32, torch.full_like(b, high0), torch.full_like(b, high1)
    for _ in range(ROUNDS):
        upper0, upper1 = _upper_half(c0, MULTIPLIERS[0]), _upper_half(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = upper1 ^ c1 ^ k0, c2 * MULTIPLIERS[1] & MASK, upper0 ^ c3 ^ k1, c0 * MULTIPLIERS[0] & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return torch.stack([c0, c1, c2, c3]).gather(0, ((i >> 4) & 3)[None])[0]


def _upper_half(a: torch.Tensor, b: int) -> torch.Tensor:
    """floor(a b / 2^32) of 32-bit numbers, within int64."""
    return ((a >> 16) * b + ((a & 0xFFFF) * b >> 16)) >> 16
