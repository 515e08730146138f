"""The block leaves everything as it was, and refuses what cannot be."""

import math
from contextlib import suppress
from typing import Any

import pytest
import torch
from emulator_cases import input_of, loss_of, model_of, optimizer_of, train
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import hwsim
from hwsim.emulator import emulate
from hwsim.emulator.meter import Meter
from hwsim.errors import ConfigError, FormatError


def flags() -> list[bool]:
    return [
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.cuda.cudnn_sdp_enabled(),
    ]


E8M0 = {"rule": "absmax", "format": "e8m0fnu"}


class Stop(Exception):
    pass


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("fast_path", [False, True])
def test_every_flag_is_restored(fails: bool, fast_path: bool) -> None:
    torch.backends.mha.set_fastpath_enabled(fast_path)
    try:
        before = flags()
        with suppress(Stop), emulate(model_of("encoder"), "bf16"):
            assert not torch.backends.mha.get_fastpath_enabled()
            assert not torch.backends.cuda.flash_sdp_enabled()
            if fails:
                raise Stop
        assert flags() == before
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_a_recurrent_layer_that_fails_restores_the_flags() -> None:
    model = model_of("lstm")
    before = flags()
    with emulate(model, "bf16"):
        with pytest.raises(RuntimeError):
            model(torch.ones(2, 3, 9))
        assert torch.backends.mkldnn.enabled
        model(input_of("lstm"))
    assert flags() == before


def test_opening_a_composite_operation_keeps_attention_in_the_open() -> None:
    model = model_of("encoder").eval()
    with emulate(model, "bf16") as machine:
        for context in (torch.inference_mode(), torch.no_grad()):
            with context:
                model(input_of("encoder"))
        assert not torch.backends.cuda.flash_sdp_enabled()
    assert "layer.self_attn:bmm.0" in {row.site for row in machine.audit()}


def test_hooks_and_notes_are_gone_after_the_block() -> None:
    model = model_of("residual")
    with emulate(model, "bf16"):
        loss_of(model(input_of("residual"))).backward()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any(hasattr(p.untyped_storage(), "hwsim_origin") for p in model.parameters())


def test_blocks_do_not_nest_but_follow_each_other() -> None:
    model = nn.Linear(2, 2)
    with emulate(model, "fp32"), pytest.raises(ConfigError, match="active already"), emulate(model, "bf16"):
        pass
    with emulate(model, "bf16") as machine:
        model(torch.ones(1, 2))
    assert machine.audit()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"unknown_ops": "ignore"}, "unknown_ops"),
        ({"datapath": {"overrides": {"heda.*": {"vector": "bf16"}}}}, "heda"),
        ({"datapath": "fp88"}, "fp88"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(options, text: str) -> None:
    with pytest.raises(ConfigError, match=text), emulate(nn.Linear(2, 2), **{"datapath": "fp32", **options}):
        pytest.fail("the block ran")


@pytest.mark.parametrize(
    ("layer", "shape", "place"),
    [
        (nn.Linear(40, 4), (2, 40), r"^0/output/input: remainder: axis 1 has 40 elements, blocks have 32"),
        (nn.Conv2d(8, 4, 1), (1, 8, 3, 3), r"^0/output/input: remainder: axis \d has 8 elements, blocks have 32"),
    ],
    ids=["linear", "convolution"],
)
@pytest.mark.parametrize("unit", ["native", {"accumulator": {"format": "fp32"}, "order": "sequential"}], ids=["native", "unit"])
def test_blocks_that_do_not_divide_an_operand_are_refused_at_their_port(layer, shape, place: str, unit) -> None:
    block = {"kind": "block", "element": "fp8_e4m3fn", "scale": "e8m0fnu", "size": 32, "remainder": "error"}
    scales = {} if unit == "native" else {"scales": {"block": 32, "format": "e8m0fnu", "applied": "product"}}
    mac = unit if unit == "native" else unit | scales
    machine = {"gemm": {"output": {"input": block, "weight": block, "mac": mac}}}
    with emulate(nn.Sequential(layer), machine), pytest.raises(FormatError, match=place):
        layer(torch.ones(*shape))


@pytest.mark.parametrize("name", ["mlp", "residual", "lstm", "transformer", "written_out_attention"])
def test_the_audit_accounts_for_every_flop_of_every_contraction(name: str) -> None:
    model = model_of(name)
    with emulate(model, "bf16") as machine:
        model(input_of(name)).square().mean().backward()
    reference = model_of(name)
    enabled, torch.backends.mkldnn.enabled = torch.backends.mkldnn.enabled, False
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            reference(input_of(name)).square().mean().backward()
    finally:
        torch.backends.mkldnn.enabled = enabled
    assert sum(row.flops for row in machine.audit() if row.gemm) == counter.get_total_flops()
    assert machine.coverage() == {"operations": 1.0, "flops": 1.0}


def test_the_three_gemms_of_a_grouped_or_transposed_convolution_cost_the_same() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2))
    with emulate(model, "bf16") as machine:
        model(torch.ones(1, 4, 5, 5)).sum().backward()
    work = {row.gemm: row.flops for row in machine.audit() if row.site == "1" and row.role == "result"}
    assert work == dict.fromkeys(("output", "grad_input", "grad_weight"), 2 * 5 * 5 * 4 * 3 * 3 * 3)


def test_audit_rows_are_frozen_and_name_every_place() -> None:
    model = model_of("digits_cnn")
    optimizer = optimizer_of("adam", model)
    with emulate(model, "bf16", optimizer=optimizer) as machine:
        train(model, input_of("digits_cnn"), optimizer)
    rows = machine.audit()
    assert all(row.phase and row.op and row.role and row.cast and row.count > 0 for row in rows)
    with pytest.raises(AttributeError):
        rows[0].count = 0
    (row,) = [r for r in rows if (r.site, r.gemm, r.role) == ("4", "grad_weight", "grad_output")]
    assert (row.phase, row.op, row.count, row.cast, row.mac) == ("backward", "convolution_backward", 2, "bf16", "native")


def test_what_stays_native_is_named_with_the_reason() -> None:
    model = model_of("mlp")
    optimizer = optimizer_of("adam", model)
    with emulate(model, {"gemm": {"all": {"weight": "bf16"}}}, optimizer=optimizer) as machine:
        train(model, input_of("mlp"), optimizer)
    native = machine.unemulated()
    assert {(row.site, row.role) for row in native} >= {
        ("0", "input"),
        ("0", "result"),
        ("1", "vector"),
        ("0.weight/exp_avg", "momentum"),
    }
    assert not any((row.site, row.role) == ("0", "weight") and row.phase == "forward" for row in native)
    assert all(row.reason for row in native)


def test_statistics_count_what_the_ports_do() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4)), torch.tensor([[1.0, 1 + 2**-9, 2.0**-30, 500.0]])
    paths = {"gemm": {"output": {"input": "fp8_e4m3fn"}}}
    with emulate(model, paths, statistics=True) as machine, torch.no_grad():
        model(x)
    (row,) = machine.statistics()
    assert (row.site, row.calls, row.elements, row.overflow, row.underflow) == ("0/output/input", 1, 4, 1, 1)
    assert row.bias == pytest.approx((-(2**-9) - 2**-30 - 52) / 4)


@pytest.mark.parametrize(
    ("cast", "x", "clipped"),
    [
        ("fp8_e4m3fn", [448.0, 463.0, 465.0, float("inf")], 2),
        ({"format": "int8", "scaling": {"rule": "fixed", "value": 0.01}}, [1.27, 1.274, 1.28, -1.29], 2),
        ({"format": "int8", "scaling": "absmax"}, [1.0, 2.0, 3.0, -128.0], 0),
        ({"format": "fp4_e2m1fn", "scaling": E8M0}, [8.0, 4.0, 1.0, 0.5], 1),
        ({"format": "int4", "scaling": E8M0 | {"granularity": {"group": 2}}}, [8.0, 7.6, -8.4, -8.6], 3),
        ("mxfp4", [7.5, 6.9, 1.0, 0.5], 1),
        ({"format": "int4", "scaling": "dorefa"}, [7.5, 6.9, 1.0, 0.5], 0),
    ],
)
def test_statistics_count_what_a_scale_clips_and_not_what_is_rounded(cast: Any, x: list[float], clipped: int) -> None:
    layer = nn.Linear(4, 4)
    with emulate(layer, {"gemm": {"output": {"input": cast}}}, statistics=True) as machine, torch.no_grad():
        layer(torch.tensor([x]))
    (row,) = machine.statistics()
    assert row.overflow == clipped


def test_statistics_of_any_layout_in_memory_are_those_of_its_elements() -> None:
    x = torch.randn(3, 5, 4, 6) * 300
    x[0, 0, 0, :3] = torch.tensor([torch.inf, torch.nan, -0.0])
    layouts = [x, x.contiguous(memory_format=torch.channels_last), x.transpose(1, 3).contiguous().transpose(1, 3)]
    layouts += [torch.stack([x, x], -1)[..., 0], x.expand(1, *x.shape)]
    rows = []
    for given in layouts:
        meter = Meter()
        meter.add(given, hwsim.quantize(given, "fp8_e4m3fn"), hwsim.format("fp8_e4m3fn"))
        rows.append(meter.row("site", "cast"))
    y = hwsim.quantize(x, "fp8_e4m3fn").double()
    finite = torch.isfinite(x)
    assert rows[0].bias == pytest.approx(float((y - x)[finite].sum()) / x.numel())
    assert rows[0].sqnr == pytest.approx(
        10 * math.log10(float(x[finite].double().square().sum() / (y - x)[finite].square().sum()))
    )
    assert rows[0].overflow == int((x.abs() > 464).sum())
    for row in rows[1:]:
        assert (row.bias, row.sqnr) == (pytest.approx(rows[0].bias), pytest.approx(rows[0].sqnr))
        assert (row.overflow, row.underflow) == (rows[0].overflow, rows[0].underflow)


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(6, 4, 1)], ids=["linear", "convolution"])
def test_statistics_are_the_same_on_an_emulated_unit(layer: nn.Module) -> None:
    x = torch.randn(2, 6, *[1] * (layer.weight.dim() - 2), requires_grad=True)
    scaled = {"format": "fp8_e4m3fn", "scaling": "absmax"}
    casts = {"input": scaled, "weight": "fp8_e4m3fn", "grad_output": "fp8_e5m2"}
    rows = []
    for unit in ("native", "nvidia_hopper_fp8"):
        with emulate(layer, {"gemm": {"all": {**casts, "mac": unit}}}, statistics=True) as machine:
            layer(x).sum().backward()
        rows.append(sorted(machine.statistics(), key=str))
    assert len(rows[0]) == 6
    assert rows[0] == rows[1]


def test_the_straight_through_estimator_needs_no_code() -> None:
    model, x = nn.Linear(3, 2, bias=False), torch.tensor([[0.3, 1.7, -0.9]], requires_grad=True)
    with emulate(model, {"gemm": {"output": {"input": "int4", "weight": "int4"}}}):
        model(x).sum().backward()
    assert torch.equal(x.grad, model.weight.detach().sum(0, keepdim=True))
    assert torch.equal(model.weight.grad, x.detach().expand(2, 3))
