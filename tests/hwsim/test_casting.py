"""Casts at work: scales, elements, codes."""

import json
from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch

import hwsim
from hwsim.casting import apply, elements, magnitude_max, scale_of
from hwsim.casts import Cast, Scaling
from hwsim.errors import ConfigError, FormatError
from hwsim.formats import Draw
from hwsim.formats.scaled import PER_TENSOR, ScaleLayout


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_quantize_rounds_to_the_nearest_value_with_ties_to_even() -> None:
    x = torch.tensor([1.0625, 1.1875, -0.0, 1e9, float("nan"), float("-inf")])
    assert hwsim.quantize(x, "fp8_e4m3fn").tolist()[:4] == [1.0, 1.25, 0.0, 448.0]
    assert hwsim.quantize(x, "fp8_e4m3fn")[4].isnan()
    assert hwsim.quantize(x, "fp8_e4m3fn")[5] == -448


ABSMAX = {
    "tensor": ({"rule": "absmax"}, lambda x: x.abs().amax()),
    "channel": ({"rule": "absmax", "granularity": {"channel": 0}}, lambda x: x.abs().amax(dim=1)),
    "group": ({"rule": "absmax", "granularity": {"group": 4}}, lambda x: x.reshape(6, 2, 4).abs().amax(dim=2)),
}


@pytest.mark.parametrize("case", ABSMAX)
def test_an_absmax_scale_is_amax_over_the_largest_value(case: str) -> None:
    scaling, amax = ABSMAX[case]
    x = tensor(6, 8)
    scale, _ = scale_of(x, Scaling(**scaling), hwsim.format("int8"))
    assert torch.equal(scale, (amax(x).double() / 127).float())


def test_a_short_last_group_has_its_own_scale() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0, 40.0]])
    scale, layout = scale_of(x, Scaling(rule="absmax", granularity={"group": 4}), hwsim.format("int8"))
    assert scale.shape == (1, 2)
    assert layout.size == 4
    assert hwsim.quantize(x, "int8", scaling={"rule": "absmax", "granularity": {"group": 4}})[0, 4] == 40


@pytest.mark.parametrize(("amax", "expected"), [(127.0, 1.0), (127.5, 2.0), (63.5, 0.5), (1.0, 2.0**-6), (3e38, 2.0**121)])
def test_a_power_of_two_scale_is_the_smallest_that_clips_nothing(amax: float, expected: float) -> None:
    scale, _ = scale_of(torch.tensor([amax, -amax / 3]), Scaling(rule="power_of_two"), hwsim.format("int8"))
    assert scale == expected


@pytest.mark.parametrize("special", [float("nan"), float("inf"), float("-inf")])
def test_a_scale_looks_at_finite_values_only(special: float) -> None:
    scale, _ = scale_of(torch.tensor([special, 254.0]), Scaling(rule="absmax"), hwsim.format("int8"))
    assert scale == 2


@pytest.mark.parametrize("special", [float("nan"), float("inf"), float("-inf")])
def test_a_mean_square_scale_looks_at_finite_values_only(special: float) -> None:
    x, mse = tensor(64), Scaling(rule="mse")
    expected, _ = scale_of(x, mse, hwsim.format("int4"))
    assert expected != 1
    assert scale_of(torch.cat([x, torch.tensor([special])]), mse, hwsim.format("int4"))[0] == expected


EACH = {"channel": {"channel": -1}, "group": {"group": 4}, "tile": {"tile": [2, 2]}}


@pytest.mark.parametrize("rule", ["absmax", "power_of_two", "mse"])
@pytest.mark.parametrize("granularity", EACH)
def test_a_scalar_is_scaled_as_one_element(granularity: str, rule: str) -> None:
    scaling, x = {"rule": rule, "granularity": EACH[granularity]}, torch.tensor(3.3)
    assert hwsim.quantize(x, "int4", scaling=scaling) == hwsim.quantize(x.reshape(1), "int4", scaling=scaling)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 3)])
@pytest.mark.parametrize("granularity", EACH)
def test_an_empty_tensor_stays_one(granularity: str, shape: tuple[int, ...]) -> None:
    scaling = {"rule": "absmax", "granularity": EACH[granularity]}
    assert hwsim.quantize(torch.empty(shape), "int4", scaling=scaling).shape == shape


def test_a_tensor_of_zeros_has_scale_one() -> None:
    scale, _ = scale_of(torch.zeros(3), Scaling(rule="absmax"), hwsim.format("int8"))
    assert scale == 1


def test_a_scale_that_underflows_is_the_smallest_positive_value_of_its_format() -> None:
    scale, _ = scale_of(torch.tensor([1e-45]), Scaling(rule="absmax"), hwsim.format("fp8_e4m3fn"))
    assert scale == 2.0**-149


def test_the_parts_are_exact_and_give_the_values_back() -> None:
    x = tensor(5, 7)
    q = hwsim.quantize(x, "int8", scaling={"rule": "absmax", "granularity": {"channel": 0}}, return_parts=True)
    assert torch.equal(hwsim.format("int8").decode(q.codes), q.elements)
    assert torch.equal(hwsim.format("fp32").decode(q.scale_codes), q.scale)
    assert torch.equal((q.elements.double() * q.scale.double()[:, None]).float(), q.values)


def test_elements_and_scales_are_what_apply_multiplies() -> None:
    x = tensor(5, 7)
    cast = Cast(format="int4", scaling={"rule": "absmax", "granularity": {"channel": 0}}, rounding="stochastic")
    values, scale = elements(cast, x, Draw(3), axis=1)
    assert torch.equal(values * scale, apply(cast, x, Draw(3), axis=1))


def test_a_scale_along_the_contracted_axis_cannot_leave_the_sum() -> None:
    cast = Cast(format="int4", scaling={"rule": "absmax", "granularity": {"group": 2}})
    with pytest.raises(ConfigError, match=r"scaling: got a scale per group along the axis that the unit sums over"):
        elements(cast, tensor(2, 4), axis=1)


def test_a_fixed_scale_divides_and_multiplies() -> None:
    assert hwsim.quantize(torch.tensor([0.3, 0.6]), "int4", scaling={"rule": "fixed", "value": 0.25}).tolist() == [0.25, 0.5]


def test_the_result_keeps_the_inputs_dtype_where_that_holds_the_format() -> None:
    assert hwsim.quantize(torch.ones(2, dtype=torch.bfloat16), "fp4").dtype == torch.bfloat16
    assert hwsim.quantize(torch.ones(2, dtype=torch.bfloat16), "fp16").dtype == torch.float32
    assert hwsim.quantize(torch.ones(2), "int32").dtype == torch.float64


@pytest.mark.parametrize(
    ("fmt", "scaling", "x", "passes"),
    [
        ("fp8_e4m3fn", None, [1.0, 460.0, -449.0, 448.0, 0.0], [1, 0, 0, 1, 1]),
        ("uint8", None, [-0.1, 3.0, 255.5], [0, 1, 0]),
        ("int8", {"rule": "fixed", "value": 0.5}, [63.0, 64.0, -64.0, -64.5], [1, 0, 1, 0]),
        ("mxfp4", None, [7.9, -7.9, 6.0, 0.1], [0, 0, 1, 1]),
        ("nf4", None, [1.0, -1.01, 0.3], [1, 0, 1]),
    ],
)
def test_the_gradient_goes_straight_through_or_by_choice_not_where_a_number_is_clipped(
    fmt: str, scaling: Any, x: list[float], passes: list[float]
) -> None:
    given, weights = torch.tensor(x, requires_grad=True), torch.arange(1.0, len(x) + 1)
    values = {}
    for gradient, expected in (("pass", torch.ones(len(x))), ("clip", torch.tensor(passes))):
        values[gradient] = hwsim.quantize(given, fmt, scaling=scaling, gradient=gradient)  # type: ignore[arg-type]
        (found,) = torch.autograd.grad((values[gradient] * weights).sum(), given)
        assert torch.equal(found, expected * weights)
    assert torch.equal(values["pass"], values["clip"])


WRONG = {
    "gradient": ({"gradient": "clipp"}, r"gradient: got 'clipp'; allowed: .*did you mean 'clip'\?"),
    "rounding": ({"rounding": "nearest"}, r"rounding: got 'nearest'; allowed: .*nearest_even"),
    "overflow": ({"overflow": "infinity"}, r"overflow: got 'infinity' for int8, which has no infinity; allowed: saturate"),
    "scaling": ({"scaling": "absmx"}, r"scaling: got 'absmx'; allowed: .*; did you mean 'absmax'\?"),
    "backend": ({"backend": "nunba"}, r"backend: got 'nunba'; allowed: .*; did you mean 'numba'\?"),
    "a list": ({"scaling": ["absmax"]}, r"scaling: "),
    "seed": ({"seed": -1}, r"seed: got -1; allowed: a whole number from 0 to 2\^63 - 1"),
    "a word as seed": ({"seed": "a"}, r"seed: got 'a'; allowed: a whole number from 0 to 2\^63 - 1"),
    "step": ({"step": -1}, r"step: got -1; allowed: a whole number from 0 to 2\^32 - 1"),
    "site": ({"site": 3}, r"site: got 3; allowed: text"),
    "site of a stochastic rounding": ({"site": None, "rounding": "stochastic"}, r"site: got None; allowed: text"),
    "axis": ({"axis": 7}, r"axis: got 7 for a tensor of shape \(2,\); allowed: -1 to 0"),
    "axis from the end": ({"axis": -2}, r"axis: got -2 for a tensor of shape \(2,\); allowed: -1 to 0"),
    "axis of groups": ({"axis": 1, "scaling": {"rule": "absmax", "granularity": {"group": 2}}}, r"axis: got 1 for .*: -1 to 0"),
    "a word as axis": ({"axis": "0"}, r"axis: got '0' for a tensor of shape \(2,\); allowed: -1 to 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_told_what_is_allowed(case: str) -> None:
    arguments, message = WRONG[case]
    with pytest.raises((ConfigError, FormatError), match=message):
        hwsim.quantize(torch.ones(2), "int8", **arguments)


NO_TENSOR: dict[str, tuple[Any, str]] = {
    "list": ([1.0], "a list"),
    "None": (None, "a NoneType"),
    "array": (np.ones(2), "a ndarray"),
    "integers": (torch.ones(2, dtype=torch.int64), "a tensor of torch.int64, torch.strided"),
    "codes": (torch.ones(2).to(torch.float8_e4m3fn), "a tensor of torch.float8_e4m3fn, torch.strided"),
    "complex": (torch.ones(2, dtype=torch.complex64), "a tensor of torch.complex64, torch.strided"),
    "sparse": (torch.eye(2).to_sparse(), "a tensor of torch.float32, torch.sparse_coo"),
}


@pytest.mark.parametrize("fmt", ["fp4", "int8", "mxfp4"])
@pytest.mark.parametrize("case", NO_TENSOR)
def test_what_is_no_dense_floating_tensor_is_refused(case: str, fmt: str) -> None:
    x, given = NO_TENSOR[case]
    scaling = None if fmt == "mxfp4" else "absmax"
    with pytest.raises(FormatError, match=f"^x: got {given}; allowed: a dense floating tensor: torch.float16, torch.bfloat16"):
        hwsim.quantize(x, fmt, scaling=scaling)


def test_a_scalar_has_one_axis() -> None:
    for axis in (0, -1):
        assert hwsim.quantize(torch.tensor(1.1), "fp4", axis=axis) == 1
    with pytest.raises(FormatError, match=r"axis: got 1 for a tensor of shape \(\); allowed: -1 to 0"):
        hwsim.quantize(torch.tensor(1.1), "fp4", axis=1)


def test_a_nan_that_a_format_cannot_hold_is_refused_unless_said() -> None:
    x = torch.tensor([1.0, float("nan")])
    with pytest.raises(FormatError, match=r"NaN"):
        hwsim.quantize(x, "int8")
    assert hwsim.quantize(x, "int8", nan="max").tolist() == [1, 127]
    assert hwsim.quantize(x, "int8", nan="zero").tolist() == [1, 0]


@pytest.mark.parametrize(
    ("cast", "dtype", "kept"),
    [
        ({"format": "fp32", "overflow": "infinity"}, torch.float32, True),
        ("fp32", torch.float32, False),
        ({"format": "fp32", "overflow": "infinity", "flush_outputs": True}, torch.float32, False),
        ("fp64", torch.float32, True),
        ("bf16", torch.float16, False),
    ],
)
def test_a_cast_keeps_a_dtype_where_it_changes_none_of_its_values(cast: Any, dtype: torch.dtype, kept: bool) -> None:
    assert Cast.model_validate(cast if isinstance(cast, dict) else {"format": cast}).keeps(dtype) is kept


def test_a_saturating_operand_clips_the_infinities_of_its_own_dtype() -> None:
    layer, x = torch.nn.Linear(2, 1, bias=False), torch.tensor([[torch.inf, -1.0]])
    torch.nn.init.constant_(layer.weight, 2.0**-100)
    with hwsim.emulate(layer, {"gemm": {"output": {"input": "fp32"}}}), torch.no_grad():
        assert layer(x).item() == pytest.approx(torch.finfo(torch.float32).max * 2.0**-100)


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
@pytest.mark.parametrize(
    ("fmt", "scaling"),
    [
        ("fp4", None),
        ("nvfp4", None),
        ("int8", "absmax"),
        ("int8", "power_of_two"),
        ("int8", "mse"),
        ("int8", {"rule": "absmax", "granularity": {"channel": 0}}),
        ("nf4", {"rule": "absmax", "granularity": {"group": 4}}),
    ],
)
def test_a_mapped_quantize_scales_and_rounds_every_sample_as_a_loop_does(fmt: str, scaling: Any, rounding: str) -> None:
    x = tensor(3, 4, 8)

    def rounded(v: torch.Tensor) -> torch.Tensor:
        result = hwsim.quantize(v, fmt, rounding, scaling=scaling)
        assert isinstance(result, torch.Tensor)
        return result

    assert torch.equal(torch.func.vmap(rounded)(x), torch.stack([rounded(v) for v in x]))


MAGNITUDES = torch.tensor(
    [[1.0, -2.0, 0.5, -0.0], [nan, 3.0, -inf, -1e-40], [nan, inf, nan, -inf], [0.0, 0.0, -0.0, 0.0]], dtype=torch.float64
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (PER_TENSOR, 3.0),
        (ScaleLayout(0), [2.0, 3.0, 0.0, 0.0]),
        (ScaleLayout(1), [1.0, 3.0, 0.5, -1e-40]),
        (ScaleLayout(-1, 2), [[2.0, 0.5], [3.0, -1e-40], [0.0, 0.0], [0.0, 0.0]]),
        (ScaleLayout(-1, 3), [[2.0, 0.0], [3.0, -1e-40], [0.0, 0.0], [0.0, 0.0]]),
        (ScaleLayout(0, 2), [[1.0, 3.0, 0.5, -1e-40], [0.0, 0.0, 0.0, 0.0]]),
    ],
    ids=str,
)
def test_the_largest_magnitude_is_that_of_finite_elements(dtype: torch.dtype, layout: ScaleLayout, expected: Any) -> None:
    for x in (MAGNITUDES.to(dtype), MAGNITUDES.to(dtype).T.contiguous().T):
        found = magnitude_max(x, layout)
        assert torch.equal(found, torch.tensor(expected, dtype=torch.float64).to(dtype).to(found.dtype).abs())


@pytest.mark.parametrize(
    "given",
    [
        {"fmt": "fp8_e4m3fn"},
        {"fmt": "int8", "scaling": {"rule": "absmax", "granularity": {"channel": 0}}},
        {"fmt": hwsim.format("nf4"), "scaling": "absmax"},
        {"fmt": "nvfp4", "axis": 0},
        {"fmt": {"kind": "float", "exponent_bits": 4, "mantissa_bits": 2}, "rounding": "stochastic", "seed": 3, "site": "here"},
    ],
    ids=str,
)
def test_quantize_in_a_compiled_graph_is_one_operator_with_the_same_bits_and_gradient(given: dict[str, Any]) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return hwsim.quantize(x * 2, **given) + 1

    x, graphs = tensor(16, 32).requires_grad_(), list[torch.fx.GraphModule]()

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    found = torch.compile(f, backend=backend, fullgraph=True)(x)
    found.sum().backward()
    assert torch.equal(found, f(x))
    assert torch.equal(x.grad, torch.full_like(x, 2))
    (graph,) = graphs
    assert [str(node.target) for node in graph.graph.nodes if "hwsim" in str(node.target)] == ["hwsim.cast"]


# opcheck itself looks at .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("x", [tensor(4, 6).requires_grad_(), tensor(6, 4).T], ids=["trains", "transposed"])
def test_the_operator_of_a_graph_passes_torch_s_own_checks(x: torch.Tensor) -> None:
    cast = Cast(format="int8", scaling={"rule": "absmax", "granularity": {"channel": 0}})
    declared = json.dumps([cast.model_dump(mode="json"), [0, "", 0, 0, 0, 0]])
    torch.library.opcheck(torch.ops.hwsim.cast.default, (x, declared, -1, torch.float32))


@pytest.mark.parametrize("given", [{"return_parts": True}, {"backend": "torch"}, {"gradient": "clip"}], ids=str)
def test_what_a_graph_cannot_hold_is_refused_when_it_is_compiled(given: dict[str, Any]) -> None:
    (name, value) = next(iter(given.items()))
    compiled = torch.compile(lambda x: hwsim.quantize(x, "fp8_e4m3fn", **given), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=f"{name}: got {value!r} inside torch.compile; allowed:"):
        compiled(torch.ones(3))
