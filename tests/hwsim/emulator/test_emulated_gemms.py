"""Each GEMM of a layer is the unit's product of operands that were cast on their own."""

from typing import Any

import pytest
import torch
from emulator_cases import input_of, model_of
from torch import Tensor, nn
from torch.nn import functional as F

from hwsim.casting import apply, elements
from hwsim.casts import Cast
from hwsim.datapaths import datapath
from hwsim.emulator import emulate
from hwsim.errors import ConfigError
from hwsim.formats import Draw
from hwsim.macs import mac, matmul
from hwsim.quantizing import quantize

UNIT = {
    "product": "exact",
    "accumulator": {"format": {"kind": "float", "exponent_bits": 8, "mantissa_bits": 9}, "rounding": "toward_zero"},
    "order": "sequential",
}
UNITS = {
    "output": UNIT,
    "grad_input": {"product": "exact", "accumulator": {"format": "fp16", "rounding": "to_odd"}, "order": "pairwise"},
    "grad_weight": {"product": {"format": "bf16"}, "accumulator": {"format": "bf16"}, "order": "chunked(3)"},
}
OPERANDS = {"input": "fp8_e4m3fn", "weight": "fp6_e3m2fn", "grad_output": "fp8_e5m2"}
OWN = {"gemm": {gemm: {**OPERANDS, "mac": unit} for gemm, unit in UNITS.items()}}
"""A machine with a unit for each GEMM."""


def machine_of(unit: Any, **casts: Any) -> dict[str, Any]:
    return {"gemm": {"all": {**OPERANDS, **casts, "mac": unit}}}


def cast(given: Any, x: Tensor, axis: int = -1, site: str = "") -> Tensor:
    record = datapath({"gemm": {"all": {"input": given}}}).gemm.output.input
    assert isinstance(record, Cast)
    return apply(record, x, Draw(site=site), axis)


def gradients(layer: nn.Module, x: Tensor, grad: Tensor, machine: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Output, input gradient and weight gradient of a layer on a machine."""
    x = x.clone().requires_grad_()
    with emulate(layer, machine, **options):
        y = layer(x)
        y.backward(grad)
    return y.detach(), x.grad, layer.weight.grad


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_each_gemm_of_a_linear_layer_is_the_product_of_its_own_unit() -> None:
    layer, x, grad = nn.Linear(7, 5, bias=False), numbers(6, 7), numbers(6, 5, seed=2)
    y, grad_x, grad_w = gradients(layer, x, grad, OWN)
    a, w, g = cast(OPERANDS["input"], x), cast(OPERANDS["weight"], layer.weight.detach()), cast(OPERANDS["grad_output"], grad)
    assert torch.equal(y, matmul(a, w.T, UNITS["output"]))
    assert torch.equal(grad_x, matmul(g, w, UNITS["grad_input"]))
    assert torch.equal(grad_w, matmul(g.T, a, UNITS["grad_weight"]))
    assert not torch.equal(y, a @ w.T)


@pytest.mark.parametrize("multiply", [torch.bmm, torch.matmul])
def test_each_gemm_of_a_batched_product_is_that_of_its_own_unit(multiply: Any) -> None:
    class Model(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return multiply(a, b)

    a, b, grad = numbers(3, 6, 7).requires_grad_(), numbers(3, 7, 5, seed=2).requires_grad_(), numbers(3, 6, 5, seed=3)
    model = Model()
    with emulate(model, OWN):
        y = model(a, b)
        y.backward(grad)
    x, z, g = cast(OPERANDS["input"], a.detach()), cast(OPERANDS["input"], b.detach()), cast(OPERANDS["grad_output"], grad)
    assert torch.equal(y, matmul(x, z, UNITS["output"]))
    assert torch.equal(a.grad, matmul(g, z.mT, UNITS["grad_input"]))
    assert torch.equal(b.grad, matmul(x.mT, g, UNITS["grad_input"]))


def test_the_bias_joins_after_the_unit_s_sum_and_before_the_result_s_cast() -> None:
    layer, x = nn.Linear(7, 5), numbers(6, 7)
    y, _, _ = gradients(layer, x, numbers(6, 5, seed=2), machine_of(UNIT, result="bf16"))
    a, w = cast(OPERANDS["input"], x), cast(OPERANDS["weight"], layer.weight.detach())
    assert torch.equal(y, cast("bf16", matmul(a, w.T, mac(UNIT)) + layer.bias.detach()))


def test_scales_multiply_the_unit_s_sum() -> None:
    scaled = {"format": "fp8_e4m3fn", "scaling": "absmax"}
    channels = {"format": "fp8_e4m3fn", "scaling": {"rule": "absmax", "granularity": {"channel": 0}}}
    layer, x = nn.Linear(7, 5, bias=False), numbers(6, 7)
    paths = {"gemm": {"output": {"input": scaled, "weight": channels, "mac": UNIT}}}
    y, _, _ = gradients(layer, x, numbers(6, 5, seed=2), paths)
    declared = datapath(paths).gemm.output
    a, a_scale = elements(declared.input, x, Draw(), -1)
    w, w_scale = elements(declared.weight, layer.weight.detach(), Draw(), -1)
    assert torch.equal(y, matmul(a, w.T, mac(UNIT)) * (a_scale * w_scale.T))


def test_a_scale_that_varies_along_the_sum_is_refused_on_an_emulated_unit() -> None:
    channels = {"format": "fp8_e4m3fn", "scaling": {"rule": "absmax", "granularity": {"channel": 0}}}
    layer = nn.Linear(7, 5)
    with pytest.raises(ConfigError, match=r"gemm\.grad_input.*scales along the axis that this GEMM sums over"):
        gradients(layer, numbers(6, 7), numbers(6, 5), machine_of(UNIT, weight=channels))


@pytest.mark.parametrize(("fmt", "unit"), [("mxfp8_e4m3", "nvidia_blackwell_mxfp8"), ("nvfp4", "nvidia_blackwell_nvfp4")])
def test_block_scales_reach_a_unit_that_takes_them(fmt: str, unit: str) -> None:
    layer, x = nn.Linear(70, 5, bias=False), numbers(6, 70)
    paths = {"gemm": {"output": {"input": fmt, "weight": fmt, "mac": unit}}}
    y, _, _ = gradients(layer, x, numbers(6, 5, seed=2), paths)
    a = quantize(x, fmt, return_parts=True)
    w = quantize(layer.weight.detach().T, fmt, axis=0, return_parts=True)
    assert torch.equal(y, matmul(a, w, unit))


def test_channel_scales_of_a_weight_are_its_output_features_however_it_is_stored() -> None:
    channels = {"format": "int4", "scaling": {"rule": "absmax", "granularity": {"channel": 0}}}
    stored = model_of("conv1d_layer")
    x = input_of("conv1d_layer")
    with emulate(stored, {"gemm": {"output": {"weight": channels}}}):
        y = stored(x)
    assert torch.equal(y, torch.addmm(stored.bias, x, cast(channels, stored.weight.detach().T).T))


GEOMETRIES = [
    {"stride": 2, "padding": 1, "groups": 2},
    {"stride": (2, 1), "padding": (2, 0), "dilation": (1, 2)},
    {"stride": 3, "padding": 2},
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("machine", [OWN, machine_of("native")], ids=["emulated", "native"])
def test_the_three_gemms_of_a_convolution_are_products_of_separately_cast_operands(
    geometry: dict[str, Any], machine: dict[str, Any]
) -> None:
    layer, x = nn.Conv2d(4, 6, 3, bias=False, **geometry), numbers(2, 4, 9, 8)
    grad = numbers(*layer(x).shape, seed=2)
    y, grad_x, grad_w = gradients(layer, x, grad, machine)
    a = cast(OPERANDS["input"], x).requires_grad_()
    w = cast(OPERANDS["weight"], layer.weight.detach()).requires_grad_()
    g = cast(OPERANDS["grad_output"], grad)
    if machine is not OWN:
        plain = F.conv2d(a, w, **geometry)
        assert torch.equal(y, plain)
        assert torch.equal(grad_x, torch.autograd.grad(plain, a, g, retain_graph=True)[0])
        assert torch.equal(grad_w, torch.autograd.grad(plain, w, g)[0])
        return
    with torch.no_grad():
        expected_y, expected_x, expected_w = by_loops(a, w, g, layer)
    assert torch.equal(y, expected_y)
    assert torch.equal(grad_x, expected_x)
    assert torch.equal(grad_w, expected_w)


def by_loops(x: Tensor, w: Tensor, g: Tensor, layer: nn.Conv2d) -> tuple[Tensor, Tensor, Tensor]:
    """A convolution and its gradients as dot products, each on its own unit, written out index by index."""
    (sh, sw), (ph, pw), (dh, dw) = layer.stride, layer.padding, layer.dilation
    outputs, per_group = w.shape[0] // layer.groups, w.shape[1]
    y, grad_x, grad_w = torch.empty_like(g), torch.empty_like(x), torch.empty_like(w)

    def at(t: Tensor, n: int, c: int, i: int, j: int) -> Tensor:
        inside = 0 <= i < t.shape[2] and 0 <= j < t.shape[3]
        return t[n, c, i, j] if inside else t.new_zeros(())

    def dot(gemm: str, left: list[Tensor], right: list[Tensor]) -> Tensor:
        return matmul(torch.stack(left)[None], torch.stack(right)[:, None], UNITS[gemm])[0, 0]

    for n, o, i, j in torch.cartesian_prod(*map(torch.arange, g.shape)).tolist():
        first = o // outputs * per_group
        taps = [(c, k, m) for k in range(w.shape[2]) for m in range(w.shape[3]) for c in range(per_group)]
        left = [at(x, n, first + c, i * sh + k * dh - ph, j * sw + m * dw - pw) for c, k, m in taps]
        y[n, o, i, j] = dot("output", left, [w[o, c, k, m] for c, k, m in taps])
    for n, c, i, j in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        group, inner = divmod(c, per_group)
        left, right = [], []
        for k in reversed(range(w.shape[2])):
            for m in reversed(range(w.shape[3])):
                for o in range(group * outputs, (group + 1) * outputs):
                    p, q = i + ph - k * dh, j + pw - m * dw
                    exact = p % sh == 0 and q % sw == 0
                    left.append(at(g, n, o, p // sh, q // sw) if exact else g.new_zeros(()))
                    right.append(w[o, inner, k, m])
        grad_x[n, c, i, j] = dot("grad_input", left, right)
    for o, c, k, m in torch.cartesian_prod(*map(torch.arange, w.shape)).tolist():
        places = [(n, i, j) for n in range(g.shape[0]) for i in range(g.shape[2]) for j in range(g.shape[3])]
        channel = o // outputs * per_group + c
        right = [at(x, n, channel, i * sh + k * dh - ph, j * sw + m * dw - pw) for n, i, j in places]
        grad_w[o, c, k, m] = dot("grad_weight", [g[n, o, i, j] for n, i, j in places], right)
    return y, grad_x, grad_w


CHANNELS = {"format": "int8", "scaling": {"rule": "absmax", "granularity": {"channel": 0}}}
CONVOLUTIONS = {
    "plain": lambda: (nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False), numbers(2, 4, 7, 6)),
    "transposed 1d": lambda: (nn.ConvTranspose1d(3, 5, 3, stride=2, padding=1, bias=False), numbers(2, 3, 6)),
    "transposed 1d, grouped": lambda: (nn.ConvTranspose1d(6, 4, 2, groups=2, bias=False), numbers(2, 6, 5)),
    "transposed 2d": lambda: (nn.ConvTranspose2d(3, 5, 2, stride=2, bias=False), numbers(2, 3, 4, 4)),
    "transposed 2d, grouped": lambda: (nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), numbers(2, 4, 4, 3)),
}


def by_feature(layer: Any, act: Any) -> Tensor:
    """What acts on the weight of each output feature alone, in the layer's own layout."""
    w, result = layer.weight.detach(), torch.empty_like(layer.weight)
    for group in range(layer.groups):
        if layer.transposed:
            rows = slice(group * w.shape[0] // layer.groups, (group + 1) * w.shape[0] // layer.groups)
            for feature in range(w.shape[1]):
                result[rows, feature] = act(w[rows, feature])
        else:
            for feature in range(group * w.shape[0] // layer.groups, (group + 1) * w.shape[0] // layer.groups):
                result[feature] = act(w[feature])
    return result


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_channel_scales_of_a_convolution_s_weight_are_its_output_features(kind: str) -> None:
    layer, x = CONVOLUTIONS[kind]()
    expected = type(layer)(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, groups=layer.groups, bias=False
    )
    with torch.no_grad():
        expected.weight.copy_(by_feature(layer, lambda w: cast({"format": "int8", "scaling": "absmax"}, w)))
    grad = numbers(*expected(x).shape, seed=2)
    y, grad_x, _ = gradients(layer, x, grad, {"gemm": {"all": {"weight": CHANNELS}}})
    leaf = x.clone().requires_grad_()
    plain = expected(leaf)
    plain.backward(grad)
    assert torch.equal(y, plain)
    assert torch.equal(grad_x, leaf.grad)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_channel_scales_of_a_convolution_s_weight_multiply_the_unit_s_sum(kind: str) -> None:
    layer, x = CONVOLUTIONS[kind]()
    with torch.no_grad(), emulate(layer, {"gemm": {"output": {"weight": CHANNELS, "mac": UNIT}}}):
        y = layer(x)
    scales = by_feature(layer, lambda w: (w.abs().max() / 127).expand(w.shape))
    first = range(0, len(scales), len(scales) // layer.groups)
    per_feature = [scales[i].flatten(1)[:, 0] for i in first] if layer.transposed else [scales.flatten(1)[:, 0]]
    with torch.no_grad():
        layer.weight.copy_((layer.weight / scales).round())
        with emulate(layer, {"gemm": {"output": {"mac": UNIT}}}):
            elements_only = layer(x)
    assert torch.equal(y, elements_only * torch.cat(per_feature).reshape(1, -1, *[1] * (x.dim() - 2)))


WIDE = {"product": "exact", "accumulator": {"format": "fp32"}, "order": "sequential"}


@pytest.mark.parametrize("name", ["strided", "digits_cnn", "written_out_attention", "lstm"])
def test_a_wide_unit_stays_close_to_torch_s_own_gradients(name: str) -> None:
    def grads(machine: Any) -> dict[str, Tensor]:
        model = model_of(name)
        with emulate(model, machine):
            model(input_of(name)).square().mean().backward()
        return {key: p.grad for key, p in model.named_parameters()}

    expected = grads("fp32")
    for key, grad in grads({"gemm": {"all": {"mac": WIDE}}}).items():
        torch.testing.assert_close(grad, expected[key], rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("two_threads")
def test_the_threads_do_not_change_an_emulated_unit() -> None:
    def run(threads: int) -> Tensor:
        torch.set_num_threads(threads)
        return gradients(nn.Linear(64, 300), numbers(80, 64), numbers(80, 300), machine_of(UNIT))[2]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = run(1)
        torch.manual_seed(0)
        assert torch.equal(first, run(2))


@pytest.mark.parametrize(
    "expression",
    [
        lambda a, b: torch.addmm(a[:, :5], a, b, beta=0.5, alpha=2.0),
        lambda a, b: torch.baddbmm(a[None, :, :5], a[None], b[None], alpha=0.5)[0],
        lambda a, b: a[:, :5].clone().addmm_(a, b),
        lambda a, b: torch.mm(a, b, out=torch.empty(6, 5)),
        lambda a, b: torch.addmv(a[:, 0], a, b[:, 1])[:, None],
        lambda a, b: (a @ b[:, 0])[:, None],
        lambda a, b: torch.dot(a[0], b[:, 0]).reshape(1, 1),
        lambda a, b: torch.einsum("nk,ko->no", a, b),
        lambda a, b: torch.tensordot(a, b, 1),
    ],
)
def test_every_form_of_a_product_runs_on_the_unit(expression) -> None:
    class Model(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return expression(a, b)

    a, b, model = numbers(6, 7), numbers(7, 5, seed=2), Model()
    with torch.no_grad(), emulate(model, {"gemm": {"all": {"mac": WIDE}}}) as machine:
        y = model(a, b)
    torch.testing.assert_close(y, expression(a, b))
    assert [row.mac for row in machine.audit() if row.gemm == "output"] == ["sequential"] * 3


@pytest.mark.parametrize("machine", ["bf16", "fp8_current", {"gemm": {"all": {"mac": WIDE}}}], ids=str)
def test_a_product_of_whole_numbers_is_the_program_s_own(machine: Any) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            ids = torch.arange(6).reshape(2, 3)
            return x + (ids @ ids.T).sum() + torch.bmm(ids[None], ids.T[None]).sum()

    model, ids = Model(), torch.arange(6).reshape(2, 3)
    with emulate(model, machine) as running:
        assert torch.equal(model(torch.zeros(2)), torch.full((2,), 2.0 * (ids @ ids.T).sum()))
    assert {(row.op, row.role) for row in running.audit() if row.op in ("mm", "bmm")} == {("mm", "move"), ("bmm", "move")}
    assert running.coverage() == {"operations": 1.0, "flops": 1.0}


def halved(x: Tensor) -> Tensor:
    return x.bfloat16().float()


FP8 = {role: {"format": fmt, "scaling": "absmax"} for role, fmt in OPERANDS.items()}
NVFP4 = {role: {"format": "nvfp4"} for role in OPERANDS}


@pytest.mark.parametrize("casts", [FP8, NVFP4], ids=["a scale a tensor", "blocks"])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_scaled_operands_of_half_precision_are_multiplied_in_float32(kind: str, casts: dict[str, Any]) -> None:
    layer: nn.Module = nn.Linear(64, 32) if kind == "linear" else nn.Conv2d(4, 6, 3, stride=2, padding=1)
    x = numbers(16, 64) if kind == "linear" else numbers(2, 4, 7, 7)
    leaf = x.clone().requires_grad_()
    with emulate(layer, {"gemm": {"all": casts}}), torch.autocast("cpu", torch.bfloat16):
        y = layer(leaf)
        grad = halved(numbers(*y.shape, seed=2))
        y.backward(grad.bfloat16())
    wide, own = x.clone(), nn.Linear(64, 32) if kind == "linear" else nn.Conv2d(4, 6, 3, stride=2, padding=1)
    with torch.no_grad():
        for p, q in zip(own.parameters(), layer.parameters(), strict=True):
            p.copy_(halved(q))
    other = halved(wide).requires_grad_()
    with emulate(own, {"gemm": {"all": casts}}):
        z = own(other)
        z.backward(grad)
    assert y.dtype is torch.bfloat16
    assert torch.equal(y.float(), halved(z))
    assert torch.equal(leaf.grad, halved(other.grad))
    assert torch.equal(layer.weight.grad, halved(own.weight.grad))


def test_a_linear_layer_under_autocast_is_the_product_of_its_quantized_operands() -> None:
    layer, x = nn.Linear(64, 32, bias=False), numbers(16, 64)
    with torch.no_grad(), emulate(layer, "fp8_current"), torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    a, w = (quantize(halved(t), "fp8_e4m3fn", scaling="absmax") for t in (x, layer.weight.detach()))
    assert torch.equal(y.float(), halved(matmul(a, w.T, "native")))


def test_groups_run_along_the_summed_axis() -> None:
    grouped = {"format": "int4", "scaling": {"rule": "absmax", "granularity": {"group": 4}}}
    layer, x, grad = nn.Linear(8, 4, bias=False), numbers(8, 8), numbers(8, 4, seed=2)
    y, grad_x, grad_w = gradients(layer, x, grad, {"gemm": {"all": dict.fromkeys(OPERANDS, grouped)}})
    w = layer.weight.detach()
    assert torch.equal(y, cast(grouped, x, 1) @ cast(grouped, w, 1).T)
    assert torch.equal(grad_x, cast(grouped, grad, 1) @ cast(grouped, w, 0))
    assert torch.equal(grad_w, cast(grouped, grad, 0).T @ cast(grouped, x, 0))


def test_stochastic_operands_are_keyed_by_site_gemm_role_step_and_call() -> None:
    stochastic = {"format": "fp8_e4m3fn", "rounding": "stochastic"}
    layer, x = nn.Sequential(nn.Linear(7, 7, bias=False)), numbers(6, 7)
    with emulate(layer, {"gemm": {"output": {"input": stochastic}}}, seed=5, rank=3), torch.no_grad():
        first, second = layer(x), layer(x)
    record = datapath({"gemm": {"output": {"input": stochastic}}}).gemm.output.input
    for call, y in enumerate((first, second)):
        a = apply(record, x, Draw(5, "0/output/input", 0, call, 3), -1)
        assert torch.equal(y, a @ layer[0].weight.detach().T)
