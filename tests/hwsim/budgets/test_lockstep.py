"""Two machines in lock step: the first difference is named where it arises, and the dot product shown is the one that ran."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import hwsim
from hwsim.budgets.dots import Taken
from hwsim.budgets.lockstep import Divergence, first_difference
from hwsim.datapaths import Datapath, datapath
from hwsim.emulator import emulate
from hwsim.emulator.observing import Product


class Attention(nn.Module):
    """One head, whose two products have operands of one role each."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 3 * 32)

    def forward(self, x: Tensor) -> Tensor:
        return scaled_dot_product_attention(*self.qkv(x).chunk(3, -1))


class Products(nn.Module):
    """The forms of a matrix product: with vectors, in place, and with factors of its addend and product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        squares = (x @ self.weight).reshape(2, 4, 6)
        batched = torch.baddbmm(torch.ones(4, 4), squares, squares.mT, beta=0.3, alpha=0.7)
        vector = self.weight @ x[0]
        dot, added = torch.dot(vector, x[1]), torch.ones(8, 6).addmm_(x, self.weight)
        return batched.sum() + torch.addmv(x[1], self.weight, vector).sum() + dot + added.sum()


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(40, 6), nn.ReLU(), nn.Linear(6, 3))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(6, 4, (2, 3), dilation=(2, 1), padding=(2, 0)),
        nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (linear, (5, 40)),
    "convolutions": (convolutions, (2, 4, 7, 6)),
    "attention": (Attention, (2, 4, 6)),
    "products": (Products, (8, 6)),
}
FP8 = {"format": "fp8_e4m3fn", "scaling": "absmax"}
CHANNELS = {"format": "int4", "scaling": {"rule": "absmax", "granularity": {"channel": 0}}}
SEQUENTIAL = {"order": "sequential", "accumulator": {"format": "fp12_e6m5"}}
STOCHASTIC = {"order": {"chunked": 4}, "accumulator": {"format": "fp12_e6m5", "rounding": "stochastic(13)"}}
GEMMS: dict[str, dict[str, Any]] = {
    "plain": {"all": {"input": "bf16", "mac": SEQUENTIAL}},
    "scale of a tensor": {"all": {"input": FP8, "weight": FP8, "grad_output": FP8, "mac": SEQUENTIAL}},
    "scales of channels": {"output": {"weight": CHANNELS, "input": FP8, "mac": SEQUENTIAL}},
    "blocks": {
        "all": {"input": "mxfp8_e4m3", "weight": "mxfp8_e4m3", "grad_output": "mxfp8_e5m2", "mac": "nvidia_blackwell_mxfp8"}
    },
    "blocks and a scale of the tensor": {
        "all": {"input": "nvfp4", "weight": "nvfp4", "grad_output": "nvfp4", "mac": "nvidia_blackwell_nvfp4"}
    },
    "blocks of one operand": {"output": {"weight": "mxfp8_e4m3", "input": "fp8_e5m2", "mac": "nvidia_blackwell_mxfp8"}},
    "formats of a unit": {"output": {"weight": "fp8_e5m2", "input": "fp8_e5m2", "mac": "nvidia_blackwell_fp8"}},
    "rotated": {"all": {"input": {"format": "bf16", "transform": "hadamard_16"}, "mac": SEQUENTIAL}},
    "stochastic": {"all": {"input": "bf16", "mac": STOCHASTIC}},
}


def case(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    make, shape = MODELS[name]
    return make(), torch.randn(shape)


def mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.05)


def between(
    model: nn.Module, x: Tensor, a: Mapping[str, Any], b: Mapping[str, Any], make: Callable[..., Any] = sgd, steps: int = 1
) -> Divergence:
    machines: list[Datapath] = [datapath({"name": name, **machine}) for name, machine in (("a", a), ("b", b))]
    found = first_difference(model, make, mean_square, [(x, torch.tensor(0.25))] * steps, *machines)
    assert found is not None
    return found


def result_of(text: str) -> float:
    """The result of a printed dot product."""
    (found,) = re.findall(r"^result (\S+)$", text, re.MULTILINE)
    return float(found)


class Traced:
    """Traces some elements of every GEMM: the first, the last, and two in between."""

    def __init__(self) -> None:
        self.gemms: list[str] = []

    def product(self, product: Product) -> None:
        assert product.dots is not None
        taken, out = Taken.of(product.dots), product.out
        for flat in {0, out.numel() // 3, 2 * out.numel() // 3, out.numel() - 1}:
            element = tuple(int(n) for n in torch.unravel_index(torch.tensor(flat), out.shape)) if out.dim() else ()
            dot = taken.dot(out, element, None)
            assert result_of(dot.text(0.0)) == float(out[element]), (product.site.name, product.gemm, element)
        self.gemms.append(product.gemm)

    def tensor(self, *_: object) -> None:
        pass

    def node(self, *_: object) -> None:
        pass


# A channel's scale of a convolution's weight is refused on an emulated unit.
CASES = [(name, gemm) for name in MODELS for gemm in GEMMS if (name, gemm) != ("convolutions", "scales of channels")]


@pytest.mark.parametrize(("name", "gemm"), CASES)
def test_the_trace_of_an_element_gives_that_element_in_every_gemm(name: str, gemm: str) -> None:
    model, x = case(name)
    own = {key: GEMMS[gemm].get("all", {"mac": SEQUENTIAL}) | GEMMS[gemm].get(key, {}) for key in ("grad_input", "grad_weight")}
    machine = {"name": "traced", "gemm": {**own, "output": GEMMS[gemm].get("all", {}) | GEMMS[gemm].get("output", {})}}
    traced = Traced()
    with emulate(model, machine, observer=traced):
        model(x).square().mean().backward()
    assert set(traced.gemms) == {"output", "grad_input", "grad_weight"}


@pytest.mark.parametrize(
    ("name", "gemm", "site"),
    [
        ("linear", "plain", "0"),
        ("linear", "scale of a tensor", "0"),
        ("linear", "stochastic", "0"),
        ("convolutions", "scale of a tensor", "0"),
        ("convolutions", "stochastic", "0"),
        ("attention", "plain", "qkv"),
    ],
)
def test_the_dot_product_of_the_first_difference_is_the_one_that_ran_on_each_machine(name: str, gemm: str, site: str) -> None:
    model, x = case(name)
    path = GEMMS[gemm]["all"]
    wider = path["mac"] | {"accumulator": path["mac"]["accumulator"] | {"format": "fp16"}}
    found = between(model, x, {"gemm": {"output": path}}, {"gemm": {"output": path | {"mac": wider}}})
    assert (found.step, found.site, found.gemm, found.tensor) == (0, site, "output", "result")
    for dot, value in zip(found.dots, (found.a, found.b), strict=True):
        assert dot is not None
        assert result_of(dot.text(value)) == value
    assert found.a != found.b


def test_a_product_of_two_activations_has_its_own_operands_named_and_its_dot_product_shown() -> None:
    model, x = case("attention")
    products = {"overrides": {"qkv": {"gemm": {"all": {"input": None, "mac": "native"}}}}}
    units = [{"gemm": {"output": {"mac": SEQUENTIAL | {"accumulator": {"format": fmt}}}}} for fmt in ("fp12_e6m5", "fp16")]
    found = between(model, x, units[0] | products, units[1] | products)
    assert (found.site, found.gemm, found.tensor) == ("(model):bmm.0", "output", "result")
    assert len(found.row) == len(found.column) == 32
    assert [result_of(dot.text(0.0)) for dot in found.dots if dot is not None] == [found.a, found.b]
    casts = [{"gemm": {"output": {"input": fmt}}} for fmt in ("bf16", "fp16")]
    assert between(model, x, casts[0] | products, casts[1] | products).tensor == "left input"


def test_a_result_that_is_cast_shows_the_value_before_the_cast_and_the_one_handed_on() -> None:
    model, x = case("linear")
    casts = [{"gemm": {"output": {"mac": SEQUENTIAL, "result": fmt}}} for fmt in ("fp8_e4m3fn", "fp8_e5m2")]
    found = between(model, x, *casts)
    assert (found.site, found.gemm, found.tensor) == ("0", "output", "result")
    for dot, value, fmt in zip(found.dots, (found.a, found.b), ("fp8_e4m3fn", "fp8_e5m2"), strict=True):
        assert dot is not None
        text = dot.text(value)
        assert float(hwsim.quantize(torch.tensor([result_of(text)]), fmt)) == value != result_of(text)
        assert text.splitlines()[-1] == f"handed on {value!r}, after its cast to {fmt}"


def test_torchs_own_product_has_no_dot_product_to_show() -> None:
    model, x = case("linear")
    found = between(model, x, {}, {"gemm": {"output": {"mac": SEQUENTIAL}}})
    assert found.tensor == "result"
    assert found.dots[0] is None
    assert found.dots[1] is not None


CAST = {"format": "fp8_e4m3fn"}
PLACES: list[tuple[dict[str, Any], tuple[str, str, str]]] = [
    ({"overrides": {"2": {"gemm": {"output": {"result": CAST}}}}}, ("2", "output", "result")),
    ({"overrides": {"2": {"gemm": {"grad_input": {"result": CAST}}}}}, ("2", "grad_input", "result")),
    ({"overrides": {"0": {"gemm": {"grad_weight": {"result": CAST}}}}}, ("0", "grad_weight", "result")),
    ({"overrides": {"1": {"vector": CAST}}}, ("1:sigmoid.0", "", "vector")),
    ({"optimizer": {"gradient": CAST}}, ("0.weight", "", "gradient")),
    ({"optimizer": {"momentum": CAST}}, ("0.weight/exp_avg", "", "momentum")),
    ({"optimizer": {"variance": {"format": "bf16"}}}, ("0.weight/exp_avg_sq", "", "variance")),
    ({"optimizer": {"update": CAST}}, ("optimizer:sqrt.0", "", "update")),
    ({"optimizer": {"weight": CAST}}, ("0.weight", "", "weights")),
]


@pytest.mark.parametrize(("machine", "place"), PLACES, ids=lambda value: "" if isinstance(value, dict) else " ".join(value))
def test_the_first_difference_is_named_where_it_arises(machine: dict[str, Any], place: tuple[str, str, str]) -> None:
    torch.manual_seed(3)
    model, x = nn.Sequential(nn.Linear(40, 6), nn.Sigmoid(), nn.Linear(6, 3)), torch.randn(5, 40)
    found = between(model, x, {}, machine, adam)
    assert (found.step, found.site, found.gemm, found.tensor) == (0, *place)
    fmt = "bf16" if "variance" in str(machine) else "fp8_e4m3fn"
    assert found.b == float(hwsim.quantize(torch.tensor([found.a]), fmt)) != found.a


def test_a_vector_unit_can_differ_in_the_backward_pass_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.5)
    x = torch.full((2, 4), 0.5)
    # The activation 1.5 is a value of e5m2; half the loss's gradient 3.5 - 0.25 is not.
    found = between(model, x, {}, {"overrides": {"1": {"vector": "fp8_e5m2"}}})
    assert (found.site, found.tensor, found.a, found.b) == ("1/backward:threshold_backward.0", "vector", 1.625, 1.5)


def test_weights_and_states_are_rounded_once_a_step_as_in_a_run_that_is_not_stopped_at_each() -> None:
    """NVFP4's scales are rounded: what is stored in it changes where it is rounded again."""
    cast = {"format": "nvfp4", "rounding": "stochastic"}
    machine = datapath({"optimizer": {"weight": cast, "momentum": cast}})
    x, seen = torch.randn(5, 40, generator=torch.Generator().manual_seed(1)), []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(outputs.detach())
        return outputs.square().mean()

    def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    torch.manual_seed(0)
    model = linear()
    batches = [(x, x)] * 4
    assert first_difference(model, optimizer_of, loss, batches, machine, machine) is None
    stepped, seen = seen[::2], []
    optimizer = optimizer_of(model)
    with emulate(model, machine, optimizer):
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(stepped, seen, strict=True))
