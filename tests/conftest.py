"""What has to be chosen before torch and Triton are first imported, and what tests of several packages share."""

import os
from collections.abc import Iterator

import pytest

# Workers share the cores out: threads of two workers that spin while they wait for one another slow both down twentyfold.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(cores // workers, 1)))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

# Where there is no GPU, Triton kernels run in Triton's interpreter.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compiled loops run in two threads, over tensors of any size but the smallest."""
    monkeypatch.setattr("hwsim.formats.backends.threads.THREADED", 1 << 10)
    monkeypatch.setattr("hwsim.formats.backends.threads.LEAST", 1 << 8)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
