"""The vector unit's inner steps, bit for bit as a slow reference does them one number at a time."""

import pytest
import torch
from emulator_cases import input_of, model_of, optimizer_of, same, tensors_of, train
from step_reference import Row, Unit, rows_of, transposed
from torch import Tensor, nn
from torch.nn import functional as F

from hwsim.datapaths import datapath
from hwsim.emulator import emulate
from hwsim.emulator.norms import rms_norm, rms_norm_backward
from hwsim.emulator.stepping import Stepping
from hwsim.errors import ConfigError

FORMATS = {"exp": "fp16", "log": "bf16", "sum": "fp32", "mean": "tf32", "variance": "bf16", "rsqrt": "fp16"}
UNITS = {
    "sequential": ({**FORMATS, "sum": "bf16"}, "sequential"),
    "pairwise": ({**FORMATS, "sum": "fp16"}, "pairwise"),
    "chunked": (FORMATS, 3),
    "some": ({"exp": "bf16", "sum": "tf32"}, 2),
}


def unit_and_machine(name: str) -> tuple[Unit, dict]:
    """The reference and the datapath of a unit that writes bfloat16."""
    formats, order = UNITS[name]
    declared = {"chunked": order} if isinstance(order, int) else order
    steps = {**formats, "sum": {"format": formats["sum"], "order": declared}}
    return Unit({**formats, "out": "bf16"}, order), {"vector": {"format": "bf16", "steps": steps}}


def numbers(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


class Apply(nn.Module):
    def __init__(self, expression) -> None:
        super().__init__()
        self.expression = expression

    def forward(self, x: Tensor) -> Tensor:
        return self.expression(x)


def run(model: nn.Module, x: Tensor, grad: Tensor, machine: dict) -> tuple[Tensor, Tensor]:
    """Output and input gradient, as (rows, elements)."""
    x = x.clone().requires_grad_()
    with emulate(model, machine):
        y = model(x)
        y.backward(grad)
    return y.detach(), x.grad


def equal(x: Tensor, expected: list) -> bool:
    return x.tolist() == expected


X, G = numbers(4, 7), numbers(4, 7, seed=6)


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize(("dim", "shape"), [(-1, (4, 7)), (0, (7, 4)), (1, (2, 7, 2))])
def test_softmax(name: str, dim: int, shape: tuple[int, ...]) -> None:
    unit, machine = unit_and_machine(name)
    x, g = numbers(*shape), numbers(*shape, seed=6)
    y, grad = (r.movedim(dim, -1).reshape(-1, 7) for r in run(Apply(lambda x: x.softmax(dim)), x, g, machine))
    rows, gs = rows_of(x.movedim(dim, -1).reshape(-1, 7)), rows_of(g.movedim(dim, -1).reshape(-1, 7))
    assert equal(y, [unit.softmax(row) for row in rows])
    assert equal(grad, [unit.softmax_backward(a, b) for a, b in zip(gs, rows_of(y), strict=True)])


@pytest.mark.parametrize("name", UNITS)
def test_log_softmax(name: str) -> None:
    unit, machine = unit_and_machine(name)
    y, grad = run(Apply(lambda x: x.log_softmax(-1)), X, G, machine)
    assert equal(y, [unit.log_softmax(row) for row in rows_of(X)])
    assert equal(grad, [unit.log_softmax_backward(a, b) for a, b in zip(rows_of(G), rows_of(y), strict=True)])


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_with_class_weights_and_ignored_labels(name: str, reduction: str) -> None:
    unit, machine = unit_and_machine(name)
    labels, weights = torch.tensor([3, -100, 0, 6]), torch.arange(1.0, 8.0) / 3
    loss, grad = run(Apply(lambda x: F.cross_entropy(x, labels, weights, reduction=reduction)), X, torch.tensor(1.0), machine)
    w = rows_of(weights.unsqueeze(0))[0]
    log = [[unit.r(v, "out") for v in map(_exact, unit.log_softmax(row))] for row in rows_of(X)]
    terms = [unit.r(-log[i][c] * w[c]) if c >= 0 else _exact(0) for i, c in enumerate(labels.tolist())]
    whole = unit.sum([w[c] if c >= 0 else _exact(0) for c in labels.tolist()])
    total = unit.sum(terms)
    assert loss.item() == unit.out([unit.r(total / whole, "mean") if reduction == "mean" else total])[0]
    assert bool(grad[1].eq(0).all())
    assert bool(grad[[0, 2, 3]].ne(0).all())


def _exact(x: float):
    return rows_of(torch.tensor([[x]]))[0][0]


def norm_rows(kind: str, x: Tensor) -> Tensor:
    """The rows that a norm's moments are over, of (3, 4, 6)."""
    return {"layer": x.reshape(12, 6), "group": x.reshape(6, 12), "batch": x.transpose(0, 1).reshape(4, 18)}[kind]


def norm_back(kind: str, rows: Tensor) -> Tensor:
    return rows.reshape(4, 3, 6).transpose(0, 1) if kind == "batch" else rows.reshape(3, 4, 6)


NORMS = {"layer": lambda: nn.LayerNorm(6), "group": lambda: nn.GroupNorm(2, 4), "batch": lambda: nn.BatchNorm1d(4)}


def fresh_norm(kind: str) -> nn.Module:
    layer = NORMS[kind]()
    with torch.no_grad():
        layer.weight.copy_(numbers(len(layer.weight), seed=1))
        layer.bias.copy_(numbers(len(layer.bias), seed=2))
    return layer


def spread_out(kind: str, parameter: Tensor) -> Tensor:
    return (parameter if kind == "layer" else parameter.unsqueeze(1)).expand(3, 4, 6)


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("kind", NORMS)
def test_layer_group_and_batch_norm(kind: str, name: str) -> None:
    unit, machine = unit_and_machine(name)
    layer, x, g = fresh_norm(kind), numbers(3, 4, 6), numbers(3, 4, 6, seed=6)
    y, grad = run(layer, x, g, machine)

    def rows(t: Tensor) -> list[Row]:
        return rows_of(norm_rows(kind, t))

    weight, bias = (rows(spread_out(kind, p.detach())) for p in (layer.weight, layer.bias))
    moments = [unit.moments(row, layer.eps) for row in rows(x)]
    normal = [unit.normal(row, m) for row, m in zip(rows(x), moments, strict=True)]
    assert equal(norm_rows(kind, y), [unit.affine(*three) for three in zip(normal, weight, bias, strict=True)])
    inverse = [m[1] for m in moments]
    expected = [unit.norm_backward(*four) for four in zip(rows(g), normal, weight, inverse, strict=True)]
    assert equal(norm_rows(kind, grad), expected)
    products = torch.tensor([list(map(float, unit.products(*two))) for two in zip(rows(g), normal, strict=True)])
    for parameter, terms in ((layer.weight, norm_back(kind, products)), (layer.bias, g)):
        own = transposed(rows_of(terms.reshape(12, 6))) if kind == "layer" else rows_of(norm_rows("batch", terms))
        assert equal(parameter.grad, unit.out([unit.sum(row) for row in own]))


def test_batch_norm_s_running_statistics_and_evaluation() -> None:
    unit, machine = unit_and_machine("pairwise")
    layer, x = fresh_norm("batch"), numbers(3, 4, 6)
    with emulate(layer, machine):
        layer(x)
        y = layer.eval()(x)
    for c, row in enumerate(rows_of(norm_rows("batch", x))):
        mean = unit.mean(row)
        squares = unit.sum([unit.r(d * d) for d in (unit.r(v - mean) for v in row)])
        variance = unit.r(unit.r(squares / 18, "variance") * unit.r(_exact(18 / 17)))
        expected = [
            unit.r(unit.r(_exact(old) * _single(0.9)) + unit.r(new * _single(0.1))) for old, new in ((0, mean), (1, variance))
        ]
        assert [layer.running_mean[c].item(), layer.running_var[c].item()] == unit.out(expected)
        kept = [unit.r(v, "out") for v in expected]
        moments = kept[0], unit.rsqrt(kept[1], layer.eps)
        weight, bias = ([_exact(p[c].item())] * 18 for p in (layer.weight, layer.bias))
        assert equal(norm_rows("batch", y)[c], unit.affine(unit.normal(row, moments), weight, bias))


def _single(x: float):
    return _exact(torch.tensor(x, dtype=torch.float32).item())


@pytest.mark.parametrize("name", UNITS)
def test_rms_norm_in_one_operation(name: str) -> None:
    unit, machine = unit_and_machine(name)
    x, g, w = numbers(4, 7), numbers(4, 7, seed=6), numbers(7, seed=1)
    steps = Stepping(datapath(machine).vector.steps)
    y, inverse = rms_norm(steps, x, [7], w, 1e-5)
    into, own = rms_norm_backward(steps, g, x, [7], inverse, w, [True, True])
    weight = rows_of(w.unsqueeze(0))[0]
    products = []
    for i, (row, grad) in enumerate(zip(rows_of(x), rows_of(g), strict=True)):
        mean = unit.r(unit.sum(unit.products(row, row)) / 7, "variance")
        r = unit.rsqrt(mean, 1e-5)
        normal = [unit.r(v * r) for v in row]
        assert equal(y[i], _floats(unit.products(normal, weight)))
        scaled = unit.products(grad, weight)
        slope = unit.mean(unit.products(scaled, normal))
        assert equal(into[i], _floats([unit.r(unit.r(a - unit.r(n * slope)) * r) for a, n in zip(scaled, normal, strict=True)]))
        products.append(unit.products(grad, normal))
    assert equal(own, _floats([unit.sum(column) for column in transposed(products)]))


class WrittenOut(nn.Module):
    """RMS norm as Llama's module writes it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


class Multiplied(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)


RMS_NORMS = {"torch": lambda: nn.RMSNorm(7, eps=1e-5), "Llama": WrittenOut, "multiplied": Multiplied}


@pytest.mark.parametrize("form", RMS_NORMS)
@pytest.mark.parametrize("name", UNITS)
def test_rms_norm_written_out_in_operations_takes_the_same_steps(name: str, form: str) -> None:
    unit, machine = unit_and_machine(name)
    layer, x = RMS_NORMS[form](), numbers(4, 7)
    with torch.no_grad(), emulate(layer, machine):
        y = layer(x)
    for i, row in enumerate(rows_of(x)):
        squares = [unit.r(v * v, "out") for v in row]
        variance = unit.r(unit.r(unit.sum(squares) / 7, "variance"), "out")
        r = unit.r(unit.rsqrt(unit.r(variance + _exact(1e-5), "out"), 0.0), "out")
        assert equal(y[i], unit.out([unit.r(v * r, "out") for v in row]))


def test_a_mean_of_what_is_no_square_any_more_is_a_mean() -> None:
    def expression(x: Tensor) -> Tensor:
        return x.pow(2).add_(1.0).mean(-1)

    unit, machine = unit_and_machine("chunked")
    x = numbers(4, 7)
    with torch.no_grad(), emulate(nn.Identity(), machine):
        y = expression(x)
    for found, row in zip(y.tolist(), rows_of(x), strict=True):
        added = [unit.r(unit.r(v * v, "out") + 1, "out") for v in row]
        assert found == unit.out([unit.mean(added)])[0]


def _floats(row: Row) -> list[float]:
    return [float(x) for x in row]


@pytest.mark.parametrize("name", UNITS)
def test_sums_means_and_losses_add_in_the_declared_order(name: str) -> None:
    unit, machine = unit_and_machine(name)
    x, y = numbers(4, 7), numbers(4, 7, seed=6)
    with torch.no_grad(), emulate(Apply(lambda x: x), machine):
        sums, means, loss = x.sum(1), x.mean(0), F.mse_loss(x, y, reduction="sum")
        out = torch.sum(x, 1, keepdim=True, out=torch.empty(4, 1))
    assert equal(sums, unit.out([unit.sum(row) for row in rows_of(x)]))
    assert torch.equal(out.squeeze(1), sums)
    assert equal(means, unit.out([unit.mean(column) for column in transposed(rows_of(x))]))
    squares = [
        unit.r(d * d)
        for a, b in zip(rows_of(x), rows_of(y), strict=True)
        for d in (unit.r(p - q) for p, q in zip(a, b, strict=True))
    ]
    assert loss.item() == unit.out([unit.sum(squares)])[0]


def test_a_convolution_s_bias_gradient_is_a_sum_of_the_unit() -> None:
    unit, machine = unit_and_machine("sequential")
    layer, g = nn.Conv2d(2, 3, 1), numbers(2, 3, 2, 2)
    with emulate(layer, machine):
        layer(numbers(2, 2, 2, 2)).backward(g)
    assert equal(layer.bias.grad, unit.out([unit.sum(row) for row in rows_of(g.transpose(0, 1).reshape(3, 8))]))


def test_an_override_gives_a_layer_a_unit_of_its_own() -> None:
    steps = {"format": "fp32", "steps": {"exp": "fp8_e5m2"}}
    model, x = nn.Sequential(nn.Softmax(-1), nn.Softmax(-1)), numbers(3, 5)
    with torch.no_grad(), emulate(model, {"overrides": {"1": {"vector": steps}}}) as machine:
        y = model(x)
    assert torch.equal(model[0](x), x.softmax(-1))
    assert not torch.equal(y, x.softmax(-1).softmax(-1))
    casts = {row.site: row.cast for row in machine.audit() if row.role == "vector"}
    assert casts == {"0": "none", "1": "fp32 (exp fp8_e5m2)"}


@pytest.mark.parametrize(("name", "order"), [("digits_cnn", "pairwise"), ("transformer", "chunked(4)")])
def test_steps_of_float32_in_any_order_stay_close_to_torch_s_own(name: str, order: str) -> None:
    def run(machine) -> dict[str, Tensor]:
        model = model_of(name)
        optimizer = optimizer_of("sgd", model)
        with emulate(model, machine, optimizer=optimizer) as emulated:
            train(model, input_of(name), optimizer, steps=1)
        assert emulated.coverage() == {"operations": 1.0, "flops": 1.0}
        return tensors_of(model)

    plain = run("fp32")
    stepped = run({"vector": {"format": "fp32", "steps": {"sum": {"format": "fp32", "order": order}}}})
    assert same(plain, stepped) != []
    for key, x in plain.items():
        assert torch.allclose(x.double(), stepped[key].double(), rtol=1e-4, atol=1e-6), key


def test_what_stays_torch_s_own_inside_the_unit_is_named() -> None:
    model = nn.Sequential(nn.Softmax(-1), nn.AvgPool1d(2))
    reasons = {}
    for vector in ("bf16", {"format": "bf16", "steps": {"exp": "bf16"}}, {"format": "bf16", "steps": {"sum": "fp32"}}):
        with torch.no_grad(), emulate(model, {"vector": vector}) as machine:
            model(numbers(1, 2, 4))
        rows = [row for row in machine.unemulated() if row.role == "steps"]
        reasons[str(machine.audit()[0].cast)] = {row.op: row.reason for row in rows}
    pool = "it sums inside by torch's own kernel, which the vector unit's steps do not reach"
    assert list(reasons.values()) == [
        {
            "_softmax": "the datapath declares no steps of the vector unit: they are torch's own, in the carrier",
            "avg_pool2d": pool,
        },
        {"_softmax": "the datapath declares no `sum`: the order of its sums is torch's own", "avg_pool2d": pool},
        {"avg_pool2d": pool},
    ]


WRONG = {
    "an unknown step": ("{exps: fp16}", r"vector\.steps\.exps: unknown key; allowed: exp, log, .*; did you mean 'exp'\?"),
    "a block format": ("{exp: mxfp4}", r"vector\.steps\.exp: got mxfp4; allowed inside the vector unit: formats without scales"),
    "a scale": (
        "{mean: {format: int8, scaling: absmax}}",
        r"vector\.steps\.mean: got int8 absmax per tensor; allowed inside the vector unit: formats without scales",
    ),
    "a stochastic step": (
        "{rsqrt: {format: bf16, rounding: stochastic}}",
        r"vector\.steps\.rsqrt: rounding: got stochastic\(24\); allowed inside the vector unit: deterministic roundings",
    ),
    "an unknown order": (
        "{sum: {format: fp32, order: pairwse}}",
        r"vector\.steps\.sum\.order: got 'pairwse'; .*; did you mean 'pairwise'\?",
    ),
    "a native order": (
        "{sum: {format: fp32, order: native}}",
        r"vector\.steps\.sum: order: got 'native'; allowed: sequential, pairwise",
    ),
    "a stochastic sum": (
        "{sum: {format: bf16, rounding: stochastic}}",
        r"vector\.steps\.sum: rounding: got stochastic\(24\); allowed",
    ),
    "a sum that has no sign": ("{sum: e8m0fnu}", r"vector\.steps\.sum\.format: got e8m0fnu; allowed: a signed float"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_steps_are_refused_before_anything_runs(case: str, tmp_path) -> None:
    text, message = WRONG[case]
    path = tmp_path / "d.yaml"
    path.write_text(f"datapath:\n  vector:\n    format: bf16\n    steps: {text}\n")
    with pytest.raises(ConfigError, match=rf"d\.yaml:4: datapath\.{message}"):
        datapath(path)
