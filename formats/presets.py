"""What real converters do, as projections by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .errors import FormatError, not_allowed
from .rounding import Projection, Rounding

PRESETS: Mapping[str, Projection] = MappingProxyType(
    {
        "nvidia": Projection(nan="max"),
        "ocp": Projection(),
        "p3109": Projection(overflow="propagate"),
        "qtorch": Projection(Rounding("nearest_away"), nan="max"),
    }
)
"""Projections by name. All but `qtorch` round to nearest even; what the format lacks (NaN, -0, infinities) decides the rest.

- `nvidia`: the converters of cuda_fp8.h, cuda_fp6.h and cuda_fp4.h under `__NV_SATFINITE`: overflow and infinities become the
  largest value of their sign, NaN stays NaN in E4M3 and E5M2 and becomes the positive largest value in FP6 and FP4.
- `ocp`: the saturating conversions of OCP OFP8 v1.0 and MX v1.0 (section 6.3): overflow and infinities become the largest value
  of their sign, NaN stays NaN; the specifications leave NaN in FP6 and FP4 to the implementation, so it is refused.
- `p3109`: IEEE P3109 v4.0 SatPropagate (section 4.7.5): finite values stay finite, infinities stay where the format has them.
- `qtorch`: QPyTorch's floats: ties away from zero, overflow, infinities and NaN become the largest value. Its formats have
  no -0 and count with the all-ones exponent: Float(e, m, specials="finite", negative_zero=False).
"""


def preset(name: str) -> Projection:
    """The projection of this name.

    Raises:
        FormatError: there is none.
    """
    if name not in PRESETS:
        raise FormatError(not_allowed("preset", name, PRESETS), "preset")
    return PRESETS[name]
