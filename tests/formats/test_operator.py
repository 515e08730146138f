"""hwsim::quantize as a torch operator, and quantize_tensor on tensors of every kind."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from rounding_cases import FORMATS, same
from torch.utils._python_dispatch import TorchDispatchMode

from hwsim.formats import Draw, FormatError, Projection, Rounding, operators
from hwsim.formats.backends import backends
from hwsim.formats.errors import NanError
from hwsim.formats.lowering import lower
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.scaled import ScaleLayout

E4M3 = FORMATS["e4m3fn"]
STOCHASTIC = Projection(Rounding("stochastic"))


def arguments(x: torch.Tensor, projection: Projection = Projection(), scale: torch.Tensor | None = None) -> tuple[Any, ...]:
    return x, lower(E4M3, projection).packed(), scale, [], list(Draw().numbers), x.dtype


# opcheck itself looks at .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("projection", [Projection(), STOCHASTIC], ids=["nearest_even", "stochastic"])
def test_operator_passes_opcheck(projection: Projection, requires_grad: bool) -> None:
    x = torch.randn(4, 6).requires_grad_(requires_grad)
    torch.library.opcheck(torch.ops.hwsim.quantize.default, arguments(x, projection))


def test_meta_tensors_have_shape_strides_and_dtype() -> None:
    x = torch.empty(2, 3, 4, device="meta").transpose(0, 2)
    y = quantize_tensor(x, FORMATS["fp64"])
    assert (y.shape, y.stride(), y.dtype, y.device.type) == (x.shape, x.stride(), torch.float64, "meta")


def test_gradient_passes_straight_through() -> None:
    x = torch.randn(5, requires_grad=True)
    weights = torch.randn(5)
    (quantize_tensor(x, E4M3, scale=torch.tensor(3.0)) * weights).sum().backward()
    assert torch.equal(x.grad, weights)


def test_gradient_has_the_input_dtype() -> None:
    x = torch.ones(3, dtype=torch.float16, requires_grad=True)
    y = quantize_tensor(x, FORMATS["bf16"])
    assert y.dtype == torch.float32
    y.sum().backward()
    assert x.grad.dtype == torch.float16


@pytest.mark.parametrize("backend", ["reference", "torch", "numba"])
@pytest.mark.parametrize("projection", [Projection(), STOCHASTIC], ids=["nearest_even", "stochastic"])
def test_strides_are_kept_and_the_index_is_row_major(projection: Projection, backend: str) -> None:
    x = torch.randn(4, 6, 5)
    expected = quantize_tensor(x, E4M3, projection, backend="reference")
    for view in (x.transpose(0, 2).contiguous().transpose(0, 2), x.repeat_interleave(2, 2)[..., ::2], x.flip(1).flip(1)):
        given = quantize_tensor(view, E4M3, projection, backend=backend)
        assert same(given, expected)
        assert given.stride() == torch.empty_like(view).stride()


@pytest.mark.parametrize("backend", ["reference", "torch", "numba"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,)])
def test_any_shape_is_rounded(shape: tuple[int, ...], backend: str) -> None:
    x = torch.full(shape, 1.06)
    for scale in (None, torch.tensor(1.0)):
        assert same(quantize_tensor(x, E4M3, scale=scale, backend=backend), torch.full(shape, 1.0))


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("e4m3fn", torch.float16, torch.float16),
        ("e4m3fn", torch.bfloat16, torch.bfloat16),
        ("fp16", torch.bfloat16, torch.float32),
        ("bf16", torch.float16, torch.float32),
        ("int8", torch.bfloat16, torch.bfloat16),
        ("int16", torch.bfloat16, torch.float32),
        ("int32", torch.float32, torch.float64),
        ("fp64", torch.float16, torch.float64),
        ("e4m3fn", torch.float64, torch.float64),
    ],
)
def test_result_has_the_input_dtype_where_that_holds_the_format(name: str, given: torch.dtype, expected: torch.dtype) -> None:
    for backend in ("reference", "torch", "numba", None):
        assert quantize_tensor(torch.ones(2, dtype=given), FORMATS[name], backend=backend).dtype == expected


@pytest.mark.parametrize("backend", ["reference", "torch", "numba", None])
@pytest.mark.parametrize("bad", [float("nan"), float("-nan")])
def test_nan_without_a_place_is_refused_with_its_index(bad: float, backend: str | None) -> None:
    x = torch.ones(3, 4)
    x[1, 2] = x[2, 0] = bad
    with pytest.raises(NanError, match="element 6 of x, nan" if backend == "reference" else r"x\[1, 2\]: got nan"):
        quantize_tensor(x, FORMATS["int8"], backend=backend)


@pytest.mark.parametrize("backend", ["torch", "numba", None])
def test_refusal_names_the_first_element(backend: str | None) -> None:
    x = torch.ones(3, 4)
    x[1, 2] = float("inf")
    with pytest.raises(FormatError, match=r"x\[1, 2\]: got inf, which becomes NaN"):
        quantize_tensor(x, FORMATS["int8"], Projection(overflow="wrap"), backend=backend)


def test_unknown_backend_and_dtype_are_refused() -> None:
    with pytest.raises(FormatError, match="did you mean 'numba'"):
        quantize_tensor(torch.ones(1), E4M3, backend="nunba")
    with pytest.raises(FormatError, match=r"dtype: got torch.int64; allowed: torch.float16"):
        quantize_tensor(torch.ones(1, dtype=torch.int64), E4M3)


def test_impossible_projection_is_refused() -> None:
    for backend in ("reference", "torch", "numba", None):
        with pytest.raises(FormatError, match="overflow: got 'infinity'"):
            quantize_tensor(torch.ones(1), E4M3, Projection(overflow="infinity"), backend=backend)


def test_backends_are_listed() -> None:
    assert backends()["reference"] == backends()["torch"] == backends()["numba"] == "available"


def test_compiled_graph_calls_the_operator() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return quantize_tensor(x * 2, E4M3) + 1

    x = torch.randn(7)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    assert torch.equal(torch.compile(f, backend=backend, fullgraph=True)(x), f(x))
    assert len(graphs) == 1


LARGE = 200_003


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("projection", [Projection(), STOCHASTIC, Projection(Rounding("to_odd"))], ids=str)
def test_result_does_not_depend_on_the_number_of_threads(projection: Projection) -> None:
    x = torch.randn(LARGE)
    scale = torch.rand(-(-LARGE // 32)) + 0.1
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        plain = quantize_tensor(x, E4M3, projection, draw=Draw(offset=13), backend="numba")
        results.append((plain, quantize_tensor(x, E4M3, projection, scale, ScaleLayout(0, 32), Draw(offset=13), "numba")))
    assert all(same(a, b) for result in results[1:] for a, b in zip(results[0], result, strict=True))
    assert same(results[0][0], quantize_tensor(x, E4M3, projection, draw=Draw(offset=13), backend="torch"))


@pytest.mark.parametrize("backend", ["reference", "torch", "numba"])
def test_a_split_tensor_with_offsets_gives_the_parts_of_the_whole(backend: str) -> None:
    x = torch.randn(300)
    whole = quantize_tensor(x, E4M3, STOCHASTIC, draw=Draw(seed=9, offset=1000), backend=backend)
    for at in (1, 64, 100, 257):
        parts = [
            quantize_tensor(part, E4M3, STOCHASTIC, draw=Draw(seed=9, offset=1000 + first), backend=backend)
            for first, part in ((0, x[:at]), (at, x[at:]))
        ]
        assert same(torch.cat(parts), whole)


@pytest.mark.usefixtures("two_threads")
def test_threads_of_python_may_call_at_once() -> None:
    x = torch.randn(LARGE)
    expected = quantize_tensor(x, E4M3, STOCHASTIC, backend="torch")
    start = threading.Barrier(4)

    def work(_: int) -> bool:
        start.wait()
        return all(same(quantize_tensor(x, E4M3, STOCHASTIC), expected) for _ in range(3))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


class _Rounded(torch.utils.data.Dataset[torch.Tensor]):
    """Rounds in two of the backend's threads; torch's own are left out, for OpenMP does not survive a fork."""

    given = torch.linspace(-3, 3, LARGE)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> torch.Tensor:
        torch.set_num_threads(2)
        rounded = quantize_tensor(self.given, E4M3, draw=Draw(call=i))
        torch.set_num_threads(1)
        return rounded


@pytest.mark.usefixtures("two_threads")
def test_forked_workers_of_a_data_loader_round() -> None:
    data = _Rounded()
    torch.set_num_threads(2)
    expected = [data[i] for i in range(4)]
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert all(same(a, b) for a, b in zip(loader, expected, strict=True))


def test_a_dispatch_mode_sees_the_operator() -> None:
    """Where nothing watches, CPU tensors are rounded past the dispatcher; where something does, they are not."""
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(function)
            return function(*args, **(kwargs or {}))

    x = torch.ones(3)
    with Watch():
        quantize_tensor(x, E4M3)
    assert torch.ops.hwsim.quantize.default in seen


def test_a_functional_transform_sees_the_operator() -> None:
    x = torch.randn(4)
    tangent = torch.func.grad(lambda v: (quantize_tensor(v, E4M3) * x).sum())(x)
    assert torch.equal(tangent, x)


SCALES: dict[str, tuple[tuple[int, ...] | None, ScaleLayout]] = {
    "no scale": (None, ScaleLayout()),
    "one scale": ((1,), ScaleLayout()),
    "channels of the last axis": ((6,), ScaleLayout(-1)),
    "channels of the first axis": ((5,), ScaleLayout(0)),
    "groups of the last axis": ((5, 2), ScaleLayout(-1, 4)),
    "groups of the first axis": ((3, 6), ScaleLayout(0, 2)),
}


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("projection", [Projection(), STOCHASTIC], ids=["nearest_even", "stochastic"])
@pytest.mark.parametrize("case", SCALES)
def test_a_mapped_function_rounds_every_sample_as_a_loop_does(case: str, projection: Projection, own: bool, axis: int) -> None:
    """In one call where that has the same bits, and without torch's warning of its own loop."""
    shape, layout = SCALES[case]
    x = torch.randn(4, 5, 6).movedim(0, axis)
    scales = None if shape is None else torch.rand((4, *shape) if own else shape) + 0.1

    def rounded(v: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        return quantize_tensor(v, E4M3, projection, scale, layout, Draw(7, offset=3))

    scale_axis = 0 if own and scales is not None else None
    given = torch.func.vmap(rounded, in_dims=(axis, scale_axis))(x, scales)
    each = [rounded(v, scales[n] if own and scales is not None else scales) for n, v in enumerate(x.unbind(axis))]
    assert same(given, torch.stack(each))
    shared = torch.func.vmap(rounded, in_dims=(None, 0))(x.select(axis, 0), scales) if scale_axis == 0 else None
    if shared is not None and scales is not None:
        assert same(shared, torch.stack([rounded(x.select(axis, 0), scale) for scale in scales]))


def test_deterministic_samples_take_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    kernel = operators.cpu_kernel()
    monkeypatch.setattr(operators, "cpu_kernel", lambda: lambda x, *rest: calls.append(x.shape) or kernel(x, *rest))
    torch.func.vmap(lambda v: quantize_tensor(v, E4M3))(torch.randn(3, 5))
    torch.func.vmap(lambda v: quantize_tensor(v, E4M3, STOCHASTIC))(torch.randn(3, 5))
    assert calls == [(3, 5), (5,), (5,), (5,)]


def test_mapped_functions_nest_and_pass_the_gradient() -> None:
    x = torch.randn(2, 3, 5)
    for projection in (Projection(), STOCHASTIC):
        each = torch.stack([torch.stack([quantize_tensor(v, E4M3, projection) for v in row]) for row in x])
        assert same(torch.func.vmap(torch.func.vmap(lambda v, p=projection: quantize_tensor(v, E4M3, p)))(x), each)
    gradients = torch.func.vmap(torch.func.grad(lambda v: (quantize_tensor(v, E4M3) * 2).sum()))(x[0])
    assert torch.equal(gradients, torch.full_like(x[0], 2))
    given = x[0].clone().requires_grad_()
    torch.func.vmap(lambda v: quantize_tensor(v, E4M3) * 3)(given).sum().backward()
    assert torch.equal(given.grad, torch.full_like(given, 3))


def test_no_samples_give_none() -> None:
    assert torch.func.vmap(lambda v: quantize_tensor(v, E4M3, STOCHASTIC))(torch.empty(0, 5)).shape == (0, 5)
