"""Against torchao's released PARQ: equal step by step where it is right, and where it is not the defect is shown."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from hwsim.errors import ConfigError
from hwsim.formats import Integer
from hwsim.training import (
    LSBQ,
    PARQ,
    BinaryRelax,
    FormatLevels,
    Hard,
    LevelQuantizer,
    Linear,
    Parq,
    ProxMap,
    Sigmoid,
    Ternary,
    Uniform,
    to_hardware,
)
from hwsim.training.nearest import nearest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("torchao")
    from torchao.prototype.parq import optim as released
    from torchao.prototype.parq import quant
    from torchao.quantization import IntxUnpackedToInt8Tensor

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
Y = torch.randint(4, (64,), generator=torch.Generator().manual_seed(2))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))


def weights_after(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, inputs: torch.Tensor = X) -> list[torch.Tensor]:
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(inputs), Y).backward()
        optimizer.step()
        seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    return seen


def groups(model: nn.Module, **options: object) -> list[dict[str, object]]:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    return [{"params": matrices, **options}, {"params": [p for p in model.parameters() if p.ndim == 1]}]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    ("quantizer", "theirs", "bits"),
    [(LSBQ(1), quant.LSBQuantizer(), 1), (LSBQ(2), quant.LSBQuantizer(), 2), (Uniform(2), quant.UnifQuantizer(), 2),
     (Uniform(3), quant.UnifQuantizer(), 3), (Uniform(3, "max", zero=True), quant.MaxUnifQuantizer(), 3),
     (Ternary(), quant.LSBQuantizer(), 0)],
    ids=lambda v: str(v) if not isinstance(v, quant.Quantizer) else "",
)  # fmt: skip
@pytest.mark.parametrize(
    ("ours", "their_map"),
    [(Hard(), released.ProxHardQuant()), (Parq(Sigmoid(0, 8)), released.ProxPARQ(0, 8)),
     (BinaryRelax(Linear(0, 8)), released.ProxBinaryRelax(0, 8))],
    ids=["hard", "parq", "binary_relax"],
)  # fmt: skip
def test_trajectories_are_equal_step_by_step(
    quantizer: LevelQuantizer, theirs: object, bits: int, ours: ProxMap, their_map: object, per_channel: bool
) -> None:
    mine, other = network(), network()
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}
    share = {"channel": 0} if per_channel else "tensor"
    wrapped = PARQ(torch.optim.SGD(groups(mine), **options), [quantizer, None], ours, granularity=share, period=3)
    base = torch.optim.SGD(groups(other, quant_bits=bits), **options)
    peer = released.QuantOptimizer(base, theirs, their_map, quant_period=3, quant_per_channel=per_channel)
    for step, (a, b) in enumerate(zip(weights_after(mine, wrapped, 10), weights_after(other, peer, 10), strict=True)):
        # The peer sums its level from residues on update steps: it is off its own levels by a few roundings.
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6, msg=lambda m, step=step: f"step {step}: {m}")


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize(
    ("quantizer", "bits", "schedule", "warmup", "share"),
    [(LSBQ(2), 2, (0, 8), 2, "tensor"), (LSBQ(2), 2, (3, 8), 0, "tensor"), (Uniform(3), 3, (3, 9), 2, {"channel": 0}),
     (LSBQ(2), 2, (0, 8), 0, {"group": 8}), (Uniform(2), 2, (4, 8), 2, {"group": 8}), (LSBQ(3), 3, (2, 11), 0, "tensor")],
    ids=["warmup", "late_start", "both_by_channel", "groups", "all_with_groups", "three_bits_before_they_are_hard"],
)  # fmt: skip
def test_trajectories_are_equal_with_warm_up_late_starts_groups_and_adamw(
    base: type[torch.optim.Optimizer], quantizer: LevelQuantizer, bits: int, schedule: tuple[int, int], warmup: int, share: object
) -> None:
    mine, other = network(), network()
    options = {"lr": 0.05, "weight_decay": 1e-3} if base is torch.optim.SGD else {"lr": 1e-3, "weight_decay": 1e-2}
    wrapped = PARQ(
        base(groups(mine), **options), [quantizer, None], Parq(Sigmoid(*schedule)), granularity=share, period=3, warmup=warmup
    )
    blocks = {"quant_block_size": 8} if share == {"group": 8} else {}
    peer = released.QuantOptimizer(
        base(groups(other, quant_bits=bits, **blocks), **options),
        quant.LSBQuantizer() if isinstance(quantizer, LSBQ) else quant.UnifQuantizer(),
        released.ProxPARQ(*schedule),
        warmup_steps=warmup,
        quant_period=3,
        quant_per_channel=share != "tensor",
    )
    for step, (a, b) in enumerate(zip(weights_after(mine, wrapped, 10), weights_after(other, peer, 10), strict=True)):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6, msg=lambda m, step=step: f"step {step}: {m}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("share", ["tensor", {"channel": 0}, {"group": 8}], ids=str)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_trained_integer_weights_are_torchaos_tensors_with_our_codes_and_scales_bit_for_bit(
    bits: int, share: object, dtype: torch.dtype
) -> None:
    model = network().to(dtype)
    optimizer = PARQ(
        torch.optim.SGD(groups(model), lr=0.05), [FormatLevels(Integer(bits)), None], Hard(), granularity=share, period=1
    )
    weights_after(model, optimizer, 3, X.to(dtype))
    for name, stored in to_hardware(model, Integer(bits), share).items():
        weight = model.get_parameter(name).detach()
        rows = len(weight) if share != "tensor" else 1
        block = {"tensor": tuple(weight.shape), str({"channel": 0}): (1, weight.shape[1])}.get(str(share), (1, 8))
        scale = stored.scales.reshape(rows, -1)
        codes, zero = stored.elements().to(torch.int8), torch.zeros_like(scale, dtype=torch.int8)
        made = IntxUnpackedToInt8Tensor(codes, scale, zero, getattr(torch, f"int{bits}"), block, dtype, None)
        assert torch.equal(made.dequantize(), weight)
        assert torch.equal(stored.values(), weight)
        if not (dtype is torch.bfloat16 and bits == 8):
            assert torch.equal(requantized(weight, scale, block, bits).qdata, codes)


def requantized(weight: torch.Tensor, scale: torch.Tensor, block: tuple[int, ...], bits: int) -> IntxUnpackedToInt8Tensor:
    """What torchao makes of a weight with scales that are given."""
    return IntxUnpackedToInt8Tensor.from_hp(
        weight,
        block,
        getattr(torch, f"int{bits}"),
        intx_choose_qparams_algorithm=None,
        custom_scale=scale,
        custom_zero_point=torch.zeros_like(scale, dtype=torch.int8),
    )


class TestDefectsOfTheRelease:
    def test_hard_quantization_differs_between_update_steps_and_the_others(self) -> None:
        w = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
        q, levels = quant.LSBQuantizer().quantize(w[0], 4)
        elsewhere = (q - nearest(w, levels[None])[0]).abs() > 1e-4
        assert 0.05 < elsewhere.double().mean() < 0.2

    def test_the_optimal_ternary_levels_are_half_of_the_best(self) -> None:
        w = torch.randn(512, generator=torch.Generator().manual_seed(0))
        q, _ = quant.LSBQuantizer(optimal=True).quantize(w, 0)
        best = Ternary(optimal=True).levels(w[None])
        assert (q - w).square().mean() > 1.5 * (nearest(w[None], best) - w).square().mean()

    def test_the_optimal_two_bit_levels_of_channels_are_worse_than_greedy(self) -> None:
        w = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            q, _ = quant.LSBQuantizer(optimal=True).quantize(w, 2, dim=-1)
        errors = [(nearest(w, LSBQ(2, optimal).levels(w)) - w).square().mean() for optimal in (True, False)]
        assert errors[0] < errors[1] < (q - w).square().mean()

    def test_the_optimal_ternary_levels_of_channels_are_order_statistics_and_worse_than_the_best(self) -> None:
        w = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            q, levels = quant.LSBQuantizer(optimal=True).quantize(w, 0, dim=-1)
        assert bool(torch.isin(levels[:, 2] / 2, w.abs()).all())
        best = (nearest(w, Ternary(optimal=True).levels(w)) - w).square().sum(-1)
        theirs = (q - w).square().sum(-1)
        assert bool((best <= theirs).all())
        assert theirs.sum() > 1.02 * best.sum()

    def test_uniform_levels_break_ties_to_even_on_update_steps_and_downwards_on_the_others(self) -> None:
        w = torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5])
        q, levels = quant.UnifQuantizer().quantize(w, 2)
        assert levels.tolist() == [-1.5, -0.5, 0.5, 1.5]
        assert (q.tolist(), nearest(w[None], levels[None])[0].tolist()) == (
            [-1.5, -1.5, 0.5, 0.5, 1.5],
            [-1.5, -1.5, -0.5, 0.5, 1.5],
        )

    def test_the_ternary_levels_of_the_maximum_lose_more_than_twice_the_error_of_those_of_the_mean(self) -> None:
        from torchao.prototype.parq.quant.uniform import TernaryUnifQuantizer

        w = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
        q, _ = TernaryUnifQuantizer().quantize(w[0], 0)
        assert (q - w).square().mean() > 2 * (nearest(w, Ternary().levels(w)) - w).square().mean()

    def test_one_bit_of_the_integer_levels_divides_by_zero(self) -> None:
        q, _ = quant.MaxUnifQuantizer().quantize(torch.tensor([1.0, -2.0]), 1)
        assert not bool(q.isfinite().all())
        with pytest.raises(ConfigError, match="Uniform with zero bits: got 1; allowed: a whole number from 2 to 8"):
            Uniform(1, "max", zero=True)

    @pytest.mark.parametrize("center", [0.3, 0.7])
    def test_the_slope_schedule_is_normalised_for_one_centre_only(self, center: float) -> None:
        theirs = [released.parq.normalized_mirror_sigmoid(t, 0, 1000, 10, center) for t in (0, 999)]
        assert abs(theirs[0] - 1) > 0.005
        assert [Sigmoid(0, 1000, 10, center)(t) for t in (0, 1000)] == [1.0, 0.0]

    def test_asymmetric_levels_are_not_the_values_that_it_quantizes_to(self) -> None:
        w = torch.rand(1, 200, generator=torch.Generator().manual_seed(0)) + 3
        from torchao.prototype.parq.quant.uniform import AsymUnifQuantizer

        q, levels = AsymUnifQuantizer().quantize(w[0], 3)
        assert not torch.isin(q, levels).any()

    def test_eight_bit_codes_of_bfloat16_weights_move_when_they_are_quantized_again(self) -> None:
        """The reciprocal of the scale is rounded to 8 bits of significand, too few for 256 values."""
        scale = torch.tensor([[0.0017]], dtype=torch.bfloat16)
        weight = (torch.arange(-128.0, 128.0, dtype=torch.bfloat16) * scale).reshape(1, -1)
        theirs = requantized(weight, scale, (1, 256), 8)
        assert float((theirs.dequantize() != weight).double().mean()) > 0.02
        layer = nn.Linear(256, 1, bias=False).bfloat16()
        with torch.no_grad():
            layer.weight.copy_(weight)
        assert torch.equal(to_hardware(layer, Integer(8))["weight"].values(), weight)
