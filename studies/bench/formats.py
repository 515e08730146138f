"""How long rounding takes beside one streaming pass `out = x * c` over the same tensor, and beside other implementations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec

import torch
from torch import Tensor

import hwsim
from hwsim.formats import Projection, Rounding
from hwsim.formats.backends import backends
from hwsim.formats.blocks import quantize_blocks
from hwsim.formats.operators import quantize_tensor

from .measurement import Case, Measurement, measured

COUNT = 1 << 24
SHARE = 16
"""What is many times slower than the reference gets this fraction of the tensor."""
REFERENCE = "x * c"
COMPARISONS = (
    ("fp8_e4m3fn nearest", "QPyTorch e4m3 nearest", 15.0),
    ("fp8_e4m3fn stochastic", "QPyTorch e4m3 stochastic", 30.0),
)


def measure(rounds: int) -> Measurement:
    """All cases on 16 Mi float32; like the reference, each makes its result anew."""
    x = torch.randn(COUNT, generator=torch.Generator().manual_seed(0))
    title = f"rounding of {COUNT >> 20} Mi float32, {torch.get_num_threads()} threads"
    return measured(title, REFERENCE, cases(x), rounds, COMPARISONS)


def cases(x: Tensor) -> dict[str, Case]:
    """The reference, hwsim's conversions with what is promised of them, and the peers that are installed."""
    return {REFERENCE: Case(lambda: x * 1.5), **_own(x), **_peers(x)}


def _own(x: Tensor) -> dict[str, Case]:
    e4m3, e5m2, bf16, int8 = (hwsim.format(name) for name in ("fp8_e4m3fn", "fp8_e5m2", "bf16", "int8"))
    nearest, stochastic = Projection(), Projection(Rounding("stochastic"))
    scale, rows = torch.tensor(0.0123), x.view(64, -1)
    absmax = {"rule": "absmax", "granularity": {"channel": 0}}
    codes = {name: _packing(x, name) for name in ("fp8_e4m3fn", "fp4_e2m1fn", "int8")}
    return {
        "fp8_e4m3fn nearest": Case(lambda: quantize_tensor(x, e4m3, nearest), 1.2),
        "fp8_e5m2 nearest": Case(lambda: quantize_tensor(x, e5m2, nearest), 1.2),
        "bf16 nearest": Case(lambda: quantize_tensor(x, bf16, nearest), 1.2),
        "int8 nearest, a given scale": Case(lambda: quantize_tensor(x, int8, nearest, scale), 1.2),
        "fp8_e4m3fn stochastic": Case(lambda: quantize_tensor(x, e4m3, stochastic), 4.0),
        "bf16 stochastic": Case(lambda: quantize_tensor(x, bf16, stochastic), 4.0),
        "int8 stochastic, a given scale": Case(lambda: quantize_tensor(x, int8, stochastic, scale), 4.0),
        **{f"{name} blocks": Case(_block(x, name), 2.5) for name in ("mxfp8_e4m3", "mxfp4", "mxint8", "nvfp4")},
        "int8 absmax a channel": Case(lambda: hwsim.quantize(rows, int8, scaling=absmax), 2.5),
        "fp8_e4m3fn absmax a channel": Case(lambda: hwsim.quantize(rows, e4m3, scaling=absmax), 2.5),
        **{f"{name} to packed codes": Case(run, 2.0) for name, run in codes.items()},
    }


def _packing(x: Tensor, name: str) -> Callable[[], object]:
    fmt = hwsim.format(name)
    values = quantize_tensor(x, fmt)
    return lambda: fmt.encode_packed(values)


def _block(x: Tensor, name: str) -> Callable[[], object]:
    fmt = hwsim.format(name)
    return lambda: quantize_blocks(x, fmt)  # type: ignore[arg-type]


def _peers(x: Tensor) -> Mapping[str, Case]:
    few = x[: x.numel() // SHARE].clone()
    cases = {"torch's cast to float8_e4m3fn and back": Case(lambda: x.to(torch.float8_e4m3fn).to(torch.float32))}
    cases["torch's cast to bfloat16 and back"] = Case(lambda: x.to(torch.bfloat16).to(torch.float32))
    if backends()["qtorch"] == "available":
        from qtorch.quant import float_quantize

        for rounding in ("nearest", "stochastic"):
            run = lambda rounding=rounding: float_quantize(few, 4, 3, rounding)  # noqa: E731
            cases[f"QPyTorch e4m3 {rounding}"] = Case(run, size=1 / SHARE)
    if find_spec("ml_dtypes"):
        import ml_dtypes

        array = few.numpy()
        cases["ml_dtypes cast to float8_e4m3fn and back"] = Case(
            lambda: array.astype(ml_dtypes.float8_e4m3fn).astype("float32"), size=1 / SHARE
        )
    if find_spec("gfloat"):
        import gfloat
        from gfloat.formats import format_info_ocp_e4m3

        cases["gfloat e4m3"] = Case(lambda: gfloat.round_ndarray(format_info_ocp_e4m3, few.numpy(), sat=True), size=1 / SHARE)
    return cases
