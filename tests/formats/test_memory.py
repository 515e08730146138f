"""Room for large results: huge pages are asked for within the tensor, and only there; it lies where no loop is held up."""

from __future__ import annotations

import pytest
import torch

from hwsim.formats.backends import memory

Asked = list[tuple[int, int, int]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the system is asked for."""
    calls: Asked = []
    monkeypatch.setattr(memory, "_advise", lambda: lambda *call: calls.append(call) or 0)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_large_result_asks_for_huge_pages_within_itself(asked: Asked, dtype: torch.dtype) -> None:
    x = torch.empty(memory.LARGE // 4 + 5).to(dtype)
    out = memory.empty_like(x, torch.float32)
    [(start, size, advice)] = asked
    assert advice == memory.MADV_HUGEPAGE
    assert start % memory.PAGESIZE == size % memory.PAGESIZE == 0
    assert out.data_ptr() <= start < out.data_ptr() + memory.PAGESIZE
    assert out.nbytes - 2 * memory.PAGESIZE < size <= out.data_ptr() + out.nbytes - start


def test_others_ask_for_nothing(asked: Asked) -> None:
    memory.empty_like(torch.empty(memory.LARGE // 4 - 1))
    memory.empty_like(torch.empty(memory.LARGE // 4, device="meta"))
    assert not asked


@pytest.mark.parametrize("system", [None, lambda *_: -1])
def test_a_system_without_them_gives_small_ones(system: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_advise", lambda: system)
    x = torch.empty(4, memory.LARGE // 16).mT
    out = memory.empty_like(x)
    assert (out.shape, out.stride(), out.dtype) == (x.shape, x.stride(), x.dtype)


@pytest.mark.parametrize(
    ("apart", "expected"),
    [(0, True), (320, True), (511, True), (512, False), (-64, False), (1 << 28, True), ((1 << 30) + 64, True), (1 << 27, False)],
)
def test_addresses_are_mistaken_just_beyond_multiples_of_the_period(apart: int, expected: bool) -> None:
    assert memory.mistaken(1 << 40, (1 << 40) + apart) is expected


def test_a_large_result_at_a_mistaken_address_gets_another_place(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[int] = []
    monkeypatch.setattr(memory, "mistaken", lambda source, result: places.append(result) or True)
    out = memory.empty_like(torch.empty(memory.LARGE // 4))
    assert len(places) == 1
    assert out.data_ptr() != places[0]
