"""Each GEMM of a linear layer and a convolution is, on every recipe, the unit's product of operands cast on their own."""

import pytest
import torch
from recipe_cases import PLAIN, SEED, everywhere, given, numbers, run_layer
from torch import Tensor, nn
from torch.nn import functional as F

from hwsim.casting import Quantized, apply
from hwsim.casts import Cast
from hwsim.datapaths import Datapath, GemmPath
from hwsim.formats import Block, Draw
from hwsim.hadamard import rotate, signs
from hwsim.layering import FIRST_USE, OUTER_FIRST
from hwsim.macs import matmul
from hwsim.macs.quantized import Scaled, transposed


def operand(machine: Datapath, gemm: str, role: str, x: Tensor) -> Quantized | Tensor:
    """An operand in its canonical layout, rotated and cast as one GEMM's port does."""
    path: GemmPath = getattr(machine.gemm, gemm)
    cast = getattr(path, role)
    if cast is None:
        return x
    if not cast.requantize:
        gemm = FIRST_USE[role]
    axis = -1 if (gemm, role) in OUTER_FIRST else -2
    if cast.rotation:
        x = rotate(x, signs(cast.rotation, Draw(SEED, f"0/{gemm}/hadamard")), axis)
    return given(cast, x, f"0/{gemm}/{role}", axis)


def product(machine: Datapath, gemm: str, a: Quantized | Tensor, b: Quantized | Tensor) -> Tensor:
    path: GemmPath = getattr(machine.gemm, gemm)
    native = path.mac.is_native
    out = values(a) @ values(b) if native else matmul(a, b, path.mac, draw=Draw(SEED, f"0/{gemm}/mac"))
    return handed_on(path, gemm, out.float())


def handed_on(path: GemmPath, gemm: str, out: Tensor) -> Tensor:
    return out if path.result is None else apply(path.result, out, Draw(SEED, f"0/{gemm}/result"))


def values(x: Quantized | Tensor) -> Tensor:
    return x.values if isinstance(x, Quantized) else x


def flipped(x: Quantized | Tensor) -> Quantized | Tensor:
    return transposed(x)


@pytest.mark.parametrize("name", PLAIN)
def test_the_three_gemms_of_a_linear_layer(name: str) -> None:
    machine = everywhere(name)
    layer = nn.Linear(40, 24, bias=False)
    x, grad, weight = numbers(36, 40), numbers(36, 24, seed=1), layer.weight.detach()
    if machine.optimizer.weight is not None:
        weight = apply(machine.optimizer.weight, weight, Draw(SEED, "0.weight/weight"))
    y, grad_x, grad_w = run_layer(layer, x, grad, machine)
    a, w = operand(machine, "output", "input", x), operand(machine, "output", "weight", weight)
    assert torch.equal(y, product(machine, "output", a, flipped(w)))
    g, w = operand(machine, "grad_input", "grad_output", grad), operand(machine, "grad_input", "weight", weight)
    assert torch.equal(grad_x, product(machine, "grad_input", g, w))
    g, a = operand(machine, "grad_weight", "grad_output", grad), operand(machine, "grad_weight", "input", x)
    assert torch.equal(grad_w, product(machine, "grad_weight", flipped(g), a))


STRIDE, PADDING, KERNEL, GROUPS = 2, 1, 3, 2
GEOMETRY = {"stride": STRIDE, "padding": PADDING, "groups": GROUPS}


def rows_of(x: Tensor) -> Tensor:
    """(groups, samples positions, channels)."""
    n, c, h, w = x.shape
    return x.reshape(n, GROUPS, c // GROUPS, h * w).permute(1, 0, 3, 2).reshape(GROUPS, n * h * w, -1)


def image_of(rows: Tensor, n: int, h: int, w: int) -> Tensor:
    """The way back."""
    return rows.reshape(GROUPS, n, h * w, -1).permute(1, 0, 3, 2).reshape(n, -1, h, w)


def kernels_of(w: Tensor) -> Tensor:
    """(groups, kernel, kernel, outputs, inputs)."""
    return w.reshape(GROUPS, -1, *w.shape[1:]).permute(0, 3, 4, 1, 2)


def weight_of(kernels: Tensor) -> Tensor:
    return kernels.permute(0, 3, 4, 1, 2).flatten(0, 1)


def taps(rows: Tensor, n: int, h: int, stride: int, before: int, after: int, fill: float) -> Tensor:
    """For each output position the row (kernel position, channel) of what the kernel covers: slices of the padded image."""
    image = F.pad(image_of(rows, n, h, h), (before, after, before, after), value=fill)
    size = (image.shape[2] - KERNEL) // stride + 1
    covered = [
        rows_of(image[:, :, i : i + stride * size : stride, j : j + stride * size : stride])
        for i in range(KERNEL)
        for j in range(KERNEL)
    ]
    return torch.cat(covered, dim=-1)


def block_parts(q: Quantized, axis: int, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """Elements filled with zeros to whole blocks along an axis, one scale for each of its blocks, and the tensor's scale."""
    short = -q.elements.shape[axis] % block
    elements = F.pad(q.elements, (0, short) if axis == -1 else (0, 0, 0, short))
    scale = q.scale
    if q.block is not None and q.block.tile is not None:
        outer = -3 - axis
        scale = scale.repeat_interleave(q.block.tile[0], outer).narrow(outer, 0, q.elements.shape[outer])
    whole = torch.ones(()) if q.tensor_scale is None else q.tensor_scale
    return elements, scale.float(), whole


def blocked(cast: Cast | None) -> bool:
    return cast is not None and cast.blocked


BY_CHANNEL = ("a100_int8", "a100_int8_stochastic")
EMULATED = [name for name in PLAIN if not everywhere(name).gemm.output.mac.is_native and name not in BY_CHANNEL]


@pytest.mark.parametrize("name", EMULATED)
def test_the_three_gemms_of_a_strided_padded_grouped_convolution_on_a_unit(name: str) -> None:
    machine = everywhere(name)
    layer, n, h = nn.Conv2d(36, 8, KERNEL, bias=False, **GEOMETRY), 1, 5
    x, grad, weight = numbers(n, 36, h, h), numbers(n, 8, 3, 3, seed=1), layer.weight.detach()
    y, grad_x, grad_w = run_layer(layer, x, grad, machine)

    def on_unit(gemm: str, left: list, right: list, whole: tuple[Tensor, ...]) -> Tensor:
        path = getattr(machine.gemm, gemm)
        scaled = len(left) == 2
        a, b = (Scaled(*left), Scaled(*right)) if scaled else (left[0], right[0])
        out = matmul(a, b, path.mac, draw=Draw(SEED, f"0/{gemm}/mac"))
        return out * (whole[0] * whole[1])

    def split(cast, x: Tensor, gemm: str, role: str, axis: int) -> tuple[list, Tensor]:
        """Elements, and scales where there are blocks, beside the scale of the whole tensor."""
        q = given(cast, x, f"0/{gemm}/{role}", axis)
        if not blocked(cast):
            return [q.elements], torch.ones(()) if q.scale is None else q.scale
        elements, scale, whole = block_parts(q, axis, getattr(machine.gemm, gemm).mac.scales.block)
        return [elements, scale], whole

    path = machine.gemm.output
    a, a_scale = split(path.input, x if not blocked(path.input) else rows_of(x), "output", "input", -1)
    w, w_scale = split(path.weight, weight if not blocked(path.weight) else kernels_of(weight), "output", "weight", -1)
    a = a if blocked(path.input) else [rows_of(a[0])]
    w = w if blocked(path.weight) else [kernels_of(w[0])]
    left = [taps(part, n, h, STRIDE, PADDING, PADDING, float(i)) for i, part in enumerate(a)]
    right = [part.permute(0, 1, 2, 4, 3).flatten(1, 3) for part in w]
    out = on_unit("output", left, right, (a_scale, w_scale))
    assert torch.equal(y, handed_on(path, "output", image_of(out, n, 3, 3)))

    path = machine.gemm.grad_input
    whole = rows_of(grad) if blocked(path.grad_output) else grad
    g, g_scale = split(path.grad_output, whole, "grad_input", "grad_output", -1)
    w, w_scale = split(path.weight, weight if not blocked(path.weight) else kernels_of(weight), "grad_input", "weight", -2)
    g = g if blocked(path.grad_output) else [rows_of(g[0])]
    w = w if blocked(path.weight) else [kernels_of(w[0])]
    left = []
    for fill, part in enumerate(g):
        image = image_of(part, n, 3, 3)
        spread = torch.full((n, image.shape[1], 5, 5), float(fill))
        spread[:, :, ::STRIDE, ::STRIDE] = image
        left.append(taps(rows_of(spread), n, 5, 1, KERNEL - 1 - PADDING, KERNEL - 1 - PADDING, float(fill)))
    right = [part.flip(1, 2).flatten(1, 3) for part in w]
    out = on_unit("grad_input", left, right, (g_scale, w_scale))
    assert torch.equal(grad_x, handed_on(path, "grad_input", image_of(out, n, h, h)))

    path = machine.gemm.grad_weight
    patches, rows = taps(rows_of(x), n, h, STRIDE, PADDING, PADDING, 0.0), rows_of(grad).mT
    if blocked(path.input):
        turn = signs(path.input.rotation, Draw(SEED, "0/grad_weight/hadamard")) if path.input.rotation else None
        if turn is not None:
            rows, patches = rotate(rows, turn, -1), rotate(patches, turn, -2)
        q = given(path.grad_output, rows, "0/grad_weight/grad_output", -1)
        p = given(path.input, patches.mT, "0/grad_weight/input", -1)
        out = matmul(q, transposed(p), path.mac, draw=Draw(SEED, "0/grad_weight/mac"))
    else:
        q, p = given(path.grad_output, grad, "0/grad_weight/grad_output", 0), given(path.input, x, "0/grad_weight/input", 0)
        patches, rows = taps(rows_of(p.elements), n, h, STRIDE, PADDING, PADDING, 0.0), rows_of(q.elements).mT
        scale = 1 if q.scale is None or p.scale is None else q.scale * p.scale
        out = matmul(rows, patches, path.mac, draw=Draw(SEED, "0/grad_weight/mac")) * scale
    out = out.reshape(8, KERNEL, KERNEL, -1).permute(0, 3, 1, 2)
    assert torch.equal(grad_w, handed_on(path, "grad_weight", out))


@pytest.mark.parametrize("name", BY_CHANNEL)
def test_the_three_gemms_of_a_strided_padded_grouped_convolution_with_a_scale_a_channel_on_integers(name: str) -> None:
    machine, n, h = everywhere(name), 2, 5
    layer = nn.Conv2d(36, 8, KERNEL, bias=False, **GEOMETRY)
    x, grad, weight = numbers(n, 36, h, h), numbers(n, 8, 3, 3, seed=1), layer.weight.detach()
    y, grad_x, grad_w = run_layer(layer, x, grad, machine)

    def split(gemm: str, role: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whole numbers and their scales in double precision, as a sum of 32 bits is handed on."""
        q = given(getattr(getattr(machine.gemm, gemm), role), x, f"0/{gemm}/{role}", -1)
        return q.elements.double(), q.scale.double()

    def check(found: Tensor, gemm: str, sums: Tensor, scale: Tensor) -> None:
        assert torch.equal(found, handed_on(getattr(machine.gemm, gemm), gemm, (sums * scale).float()))

    (a, of_x), (w, of_channel) = split("output", "input", x), split("output", "weight", weight)
    check(y, "output", F.conv2d(a, w, **GEOMETRY), of_x * of_channel.reshape(-1, 1, 1))
    (g, of_g), (w, of_w) = split("grad_input", "grad_output", grad), split("grad_input", "weight", weight)
    check(grad_x, "grad_input", torch.nn.grad.conv2d_input(x.shape, w, g, **GEOMETRY), of_g * of_w)
    (g, of_g), (a, of_x) = split("grad_weight", "grad_output", grad), split("grad_weight", "input", x)
    check(grad_w, "grad_weight", torch.nn.grad.conv2d_weight(a, weight.shape, g, **GEOMETRY), of_g * of_x)


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in EMULATED and name not in BY_CHANNEL])
def test_the_three_gemms_of_a_strided_padded_grouped_convolution_are_torchs_own_on_cast_operands(name: str) -> None:
    machine = everywhere(name)
    layer, n, h = nn.Conv2d(36, 8, KERNEL, bias=False, **GEOMETRY), 2, 5
    x, grad, weight = numbers(n, 36, h, h), numbers(n, 8, 3, 3, seed=1), layer.weight.detach()
    if machine.optimizer.weight is not None:
        weight = apply(machine.optimizer.weight, weight, Draw(SEED, "0.weight/weight"))
    y, grad_x, grad_w = run_layer(layer, x, grad, machine)

    def cast(gemm: str, role: str, x: Tensor) -> Tensor:
        declared = getattr(getattr(machine.gemm, gemm), role)
        if declared is None:
            return x
        gemm = gemm if declared.requantize else FIRST_USE[role]
        axis = -1 if (gemm, role) in OUTER_FIRST else -2
        if not declared.blocked:
            return given(declared, x, f"0/{gemm}/{role}", axis).values
        if role == "weight":
            return weight_of(given(declared, kernels_of(x), f"0/{gemm}/{role}", axis).values)
        return image_of(given(declared, rows_of(x), f"0/{gemm}/{role}", axis).values, len(x), *x.shape[2:])

    path = machine.gemm.output
    out = F.conv2d(cast("output", "input", x), cast("output", "weight", weight), **GEOMETRY)
    assert torch.equal(y, handed_on(path, "output", out))
    leaf = x.clone().requires_grad_()
    out = F.conv2d(leaf, cast("grad_input", "weight", weight), **GEOMETRY)
    (expected,) = torch.autograd.grad(out, leaf, cast("grad_input", "grad_output", grad))
    assert torch.equal(grad_x, handed_on(machine.gemm.grad_input, "grad_input", expected))
    path = machine.gemm.grad_weight
    if path.input is not None and path.input.rotation:
        turn = signs(path.input.rotation, Draw(SEED, "0/grad_weight/hadamard"))
        rows = rotate(rows_of(grad).mT, turn, -1)
        patches = rotate(taps(rows_of(x), n, h, STRIDE, PADDING, PADDING, 0.0), turn, -2)
        g = given(path.grad_output, rows, "0/grad_weight/grad_output", -1).values
        a = given(path.input, patches.mT, "0/grad_weight/input", -1).values
        expected = (g @ a.mT).reshape(8, KERNEL, KERNEL, -1).permute(0, 3, 1, 2)
    else:
        leaf = weight.clone().requires_grad_()
        out = F.conv2d(cast("grad_weight", "input", x), leaf, **GEOMETRY)
        (expected,) = torch.autograd.grad(out, leaf, cast("grad_weight", "grad_output", grad))
    assert torch.equal(grad_w, handed_on(path, "grad_weight", expected))


def test_a_block_format_of_a_weight_has_the_same_blocks_in_both_orientations() -> None:
    machine, weight = everywhere("nvfp4"), numbers(24, 40)
    forward, backward = (operand(machine, gemm, "weight", weight) for gemm in ("output", "grad_input"))
    assert isinstance(machine.gemm.output.weight.format, Block)
    assert torch.equal(forward.values, backward.values)
