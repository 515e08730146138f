"""How long roundings take, as a ratio to torch's `x * c` of the same tensor: `python tests/benchmarks/formats.py`."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from hwsim.formats import Float, Integer, Projection, Rounding
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.scaled import ScaleLayout

COUNT = 1 << 24
THREADS = 2


def measure(rounds: int = 15) -> dict[str, float]:
    """The time of each rounding of 16 Mi float32 over that of torch's x * c, the least of interleaved rounds."""
    torch.set_num_threads(THREADS)
    x = torch.randn(COUNT, generator=torch.Generator().manual_seed(0))
    rows = x.view(4096, -1)
    e4m3, bf16, int8 = Float(4, 3, specials="fn"), Float(8, 7), Integer(8)
    nearest, random = Projection(), Projection(Rounding("stochastic"))
    scale = torch.tensor(0.0123)
    amax = rows.abs().amax(1) / 448
    groups = rows.reshape(-1, 32).abs().amax(1).view(4096, -1) / 448
    channel, group = ScaleLayout(axis=0), ScaleLayout(axis=1, size=32)
    cases: dict[str, Callable[[], object]] = {
        "x * c": lambda: x * 1.5,
        "e4m3fn nearest": lambda: quantize_tensor(x, e4m3, nearest),
        "bf16 nearest": lambda: quantize_tensor(x, bf16, nearest),
        "e4m3fn stochastic": lambda: quantize_tensor(x, e4m3, random),
        "bf16 stochastic": lambda: quantize_tensor(x, bf16, random),
        "int8 nearest, one scale": lambda: quantize_tensor(x, int8, nearest, scale),
        "e4m3fn nearest, one scale": lambda: quantize_tensor(x, e4m3, nearest, scale),
        "e4m3fn nearest, scale a channel": lambda: quantize_tensor(rows, e4m3, nearest, amax, channel),
        "e4m3fn nearest, scale a group of 32": lambda: quantize_tensor(rows, e4m3, nearest, groups, group),
        "int8 stochastic, one scale": lambda: quantize_tensor(x, int8, random, scale),
        "e4m3fn absmax a channel, scale and all": lambda: quantize_tensor(rows, e4m3, nearest, rows.abs().amax(1) / 448, channel),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, run in cases.items():
            start = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - start)
    base = min(times["x * c"])
    return {name: min(spent) / base for name, spent in times.items()}


if __name__ == "__main__":
    for name, ratio in measure().items():
        print(f"{ratio:6.2f}  {name}")
