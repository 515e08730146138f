"""How the compiled loops are spread over threads, and what memory they take."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import hwsim
from hwsim.formats.backends.threads import THREADED, in_threads

COUNT = 3 * THREADED + 17
KINDS = ("fp8_e4m3fn", "mxfp4", "nvfp4", "nf4")
ABSMAX = {"rule": "absmax", "granularity": {"channel": 0}}
QUARTER, WHOLE = 1 << 24, 1 << 26


@pytest.fixture(autouse=True)
def _own_number_of_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def with_threads(threads: int, run: Callable[[], Any]) -> Any:
    torch.set_num_threads(threads)
    return run()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_parts_are_done_once_each_in_as_many_threads_as_torch_uses(threads: int) -> None:
    together, seen, parts = threading.Barrier(threads), set[int](), list[tuple[int, int]]()

    def work(low: int, high: int) -> None:
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            together.wait(timeout=30)  # passes when all threads have begun
        parts.append((low, high))

    with_threads(threads, lambda: in_threads(work, COUNT, COUNT, granule=64))
    assert len(seen) == threads
    assert all(low % 64 == 0 for low, _ in parts)
    assert sorted(i for low, high in parts for i in range(low, high)) == list(range(COUNT))


def test_what_a_part_raises_reaches_the_caller() -> None:
    def work(low: int, high: int) -> None:
        if high == COUNT:
            raise ValueError(f"part {low}")

    with pytest.raises(ValueError, match="part"):
        with_threads(2, lambda: in_threads(work, COUNT, COUNT))


def rounded(x: torch.Tensor) -> list[torch.Tensor]:
    return [hwsim.quantize(x, kind, rounding=mode) for kind in KINDS for mode in ("nearest_even", "stochastic")]  # type: ignore[misc]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_results_are_the_same_in_any_number_of_threads_and_of_callers() -> None:
    x = torch.randn(COUNT)
    expected = with_threads(1, lambda: rounded(x))
    assert equal(with_threads(2, lambda: rounded(x)), expected)
    torch.set_num_threads(2)
    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(lambda _: equal(with_threads(2, lambda: rounded(x)), expected), range(3)))


def _in_a_child(x: torch.Tensor, answer: Any) -> None:
    answer.put([y.numpy() for y in with_threads(2, lambda: rounded(x))])


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
def test_a_forked_process_rounds_in_threads_of_its_own() -> None:
    x = torch.randn(COUNT)
    expected = with_threads(2, lambda: rounded(x * 1.0))  # torch's threads, and the loops in them, have run before the fork
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    child = context.Process(target=_in_a_child, args=(x, answer))
    child.start()
    found = [torch.from_numpy(y) for y in answer.get(timeout=60)]
    child.join(timeout=60)
    assert child.exitcode == 0
    assert equal(found, expected)


def memory(field: str) -> int:
    """Bytes of this process, from Linux's own account of it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


LARGE: dict[str, Callable[[torch.Tensor], Any]] = {
    "nearest": lambda x: hwsim.quantize(x, "fp8_e4m3fn"),
    "stochastic": lambda x: hwsim.quantize(x, "bf16", rounding="stochastic"),
    "absmax a channel": lambda x: hwsim.quantize(x.view(64, -1), "int8", scaling=ABSMAX),
    "stochastic, absmax": lambda x: hwsim.quantize(x, "int8", rounding="stochastic", scaling="absmax"),
    "mxfp8": lambda x: hwsim.quantize(x, "mxfp8_e4m3"),
    "nvfp4": lambda x: hwsim.quantize(x, "nvfp4"),
    "levels": lambda x: hwsim.quantize(x, "nf4"),
    "packed codes": lambda x: hwsim.format("fp4").encode_packed(x),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of the process")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", LARGE)
def test_no_temporary_of_the_tensors_size_is_made(case: str, dtype: torch.dtype) -> None:
    """Beyond the result, the peak stays below a quarter of the tensor; allocations of this size are never reused ones."""
    run, x = LARGE[case], torch.zeros(WHOLE // dtype.itemsize, dtype=dtype)
    x[:: 1 << 12] = 1.5
    run(x[: 4 * THREADED].clone())
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    result = run(x)
    assert memory("VmHWM") - before <= result.nbytes + QUARTER
