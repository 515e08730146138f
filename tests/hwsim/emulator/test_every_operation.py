"""What a network may be made of runs emulated: everything known, accounted for, and on the declared formats."""

import pytest
import torch
from emulator_cases import on_grid
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from hwsim.emulator import Machine, emulate

FP8 = {"format": "fp8_e4m3fn", "scaling": "absmax"}
BF16 = dict.fromkeys(("gradient", "momentum", "variance", "state", "update", "weight"), "bf16")
MACHINE = {
    "gemm": {"all": {"input": FP8, "weight": FP8, "grad_output": FP8, "result": "bf16"}},
    "vector": "bf16",
    "optimizer": BF16,
}


class Apply(nn.Module):
    """An expression of the input, and of a weight where it takes one."""

    def __init__(self, expression, *shape: int) -> None:
        super().__init__()
        self.expression = expression
        self.weight = nn.Parameter(torch.randn(*shape)) if shape else None

    def forward(self, x: Tensor) -> Tensor:
        return self.expression(x) if self.weight is None else self.expression(x, self.weight)


class First(nn.Module):
    """The first result of a module that has several."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)[0]


class Packed(First):
    def forward(self, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, torch.tensor([4, 2]), batch_first=True)
        return pad_packed_sequence(self.module(packed)[0], batch_first=True)[0]


class Experts(nn.Module):
    """A mixture of experts whose weights are one tensor: every token goes to its best expert."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 3)
        self.up, self.down = nn.Parameter(torch.randn(3, 6, 4)), nn.Parameter(torch.randn(3, 4, 6))

    def forward(self, x: Tensor) -> Tensor:
        share, best = self.router(x).softmax(-1).max(-1)
        chosen = F.one_hot(best, 3).to(x.dtype).T.unsqueeze(-1)
        y = torch.bmm(torch.bmm(x * chosen, self.up).relu(), self.down)
        return (y * chosen).sum(0) * share.unsqueeze(-1)


class Attend(nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.q, self.kv, self.options = nn.Linear(8, 8), nn.Linear(8, 8), options

    def forward(self, x: Tensor) -> Tensor:
        q, k = (f(x).view(2, 4, -1, 4).transpose(1, 2) for f in (self.q, self.kv))
        k = k[:, :1] if self.options.get("enable_gqa") else k
        return F.scaled_dot_product_attention(q, k, k, **self.options)


def shared() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(6, 6))


LINE, PLANE, SPACE, ROWS = (2, 4, 8), (2, 4, 8, 8), (2, 4, 4, 4, 4), (4, 6)
MASK = torch.tensor([[True, False, True, True]] * 4)
EXPRESSIONS = {
    "einsum": (lambda: Apply(lambda x, w: torch.einsum("bi,ijk->bjk", x, w), 6, 2, 3), ROWS),
    "einsum of activations": (lambda: Apply(lambda x: torch.einsum("bi,ci->bc", x, x.exp())), ROWS),
    "matmul that broadcasts": (lambda: Apply(lambda x, w: x.unsqueeze(1) @ w, 3, 1, 6, 5), ROWS),
    "baddbmm": (lambda: Apply(lambda x, w: torch.baddbmm(w[:, :1], x.view(2, 2, 6), w), 2, 6, 5), ROWS),
    "matrix and vector": (lambda: Apply(lambda x, w: torch.addmv(w[:4], x, w), 6), ROWS),
    "dot": (lambda: Apply(lambda x, w: torch.dot(x[0], w), 6), ROWS),
    "tensordot": (lambda: Apply(lambda x, w: torch.tensordot(x, w, 1), 6, 2, 3), ROWS),
    "experts in one tensor": (Experts, ROWS),
    "a module that runs twice": (shared, ROWS),
    "a residual": (lambda: Apply(lambda x, w: x + F.linear(x, w), 6, 6), ROWS),
    "a checkpointed function": (
        lambda: Apply(lambda x, w: checkpoint(lambda y: F.gelu(F.linear(y, w)), x, use_reentrant=False), 6, 6),
        ROWS,
    ),
    "causal attention": (lambda: Attend(is_causal=True), (2, 4, 8)),
    "attention with a mask": (lambda: Attend(attn_mask=MASK), (2, 4, 8)),
    "attention with dropout": (lambda: Attend(dropout_p=0.5), (2, 4, 8)),
    "grouped-query attention": (lambda: Attend(enable_gqa=True), (2, 4, 8)),
    "packed sequences": (lambda: Packed(nn.LSTM(6, 5, batch_first=True, bidirectional=True)), (2, 4, 6)),
    "an LSTM with projections": (lambda: First(nn.LSTM(6, 5, proj_size=3, num_layers=2)), (2, 4, 6)),
    "an RNN": (lambda: First(nn.RNN(6, 5, nonlinearity="relu")), (2, 4, 6)),
    "an LSTM cell": (lambda: First(nn.LSTMCell(6, 5)), ROWS),
    "a GRU cell": (lambda: nn.GRUCell(6, 5), ROWS),
    "multi-head attention": (lambda: First(Heads()), (2, 4, 8)),
    "batch norm 1d": (lambda: nn.BatchNorm1d(4), LINE),
    "batch norm 3d": (lambda: nn.BatchNorm3d(4), SPACE),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True), PLANE),
    "layer norm": (lambda: nn.LayerNorm(8), LINE),
    "group norm": (lambda: nn.GroupNorm(2, 4), PLANE),
    "rms norm": (lambda: nn.RMSNorm(8), LINE),
    "local response norm": (lambda: nn.LocalResponseNorm(2), PLANE),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), PLANE),
    "reflected padding": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), PLANE),
    "causal padding in 1 dimension": (lambda: nn.Conv1d(4, 4, 3, padding="same", groups=2), LINE),
    "pixel shuffle": (lambda: nn.Sequential(nn.Conv2d(4, 8, 1), nn.PixelShuffle(2)), PLANE),
    "bilinear upsampling": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), PLANE),
    "unfold and fold": (lambda: nn.Sequential(nn.Unfold(2, stride=2), nn.Fold((8, 8), 2, stride=2)), PLANE),
    "cosine similarity": (lambda: Apply(lambda x, w: F.cosine_similarity(x, w), 4, 6), ROWS),
    "logsumexp": (lambda: Apply(lambda x: x.logsumexp(1)), ROWS),
    "a positive power": (lambda: Apply(lambda x: x.abs() ** 1.5), ROWS),
}
EXPRESSIONS |= {
    f"{kind.__name__}{' grouped' * (groups > 1)}": (
        lambda kind=kind, groups=groups: kind(4, 4, 3, stride=2, groups=groups),
        shape,
    )
    for shape, kinds in (
        (LINE, (nn.Conv1d, nn.ConvTranspose1d)),
        (PLANE, (nn.Conv2d, nn.ConvTranspose2d)),
        (SPACE, (nn.Conv3d, nn.ConvTranspose3d)),
    )
    for kind in kinds
    for groups in (1, 2)
}
ACTIVATIONS = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.GLU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.LogSoftmax,
    nn.Mish,
    nn.PReLU,
    nn.RReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softmax,
    nn.Softmin,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
)
EXPRESSIONS |= {
    kind.__name__: (lambda kind=kind: kind(dim=1) if kind in (nn.Softmax, nn.Softmin, nn.LogSoftmax) else kind(), ROWS)
    for kind in ACTIVATIONS
}
EXPRESSIONS |= {
    f"{kind}{n}d": (lambda kind=kind, n=n: getattr(nn, f"{kind}{n}d")(2), shape)
    for n, shape in ((1, LINE), (2, PLANE), (3, SPACE))
    for kind in ("MaxPool", "AvgPool", "AdaptiveMaxPool", "AdaptiveAvgPool")
}
EXPRESSIONS |= {
    "LPPool2d": (lambda: nn.LPPool2d(2, 2), PLANE),
    "FractionalMaxPool2d": (lambda: nn.FractionalMaxPool2d(2, output_size=3), PLANE),
    "MaxUnpool2d": (lambda: Apply(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)), PLANE),
}
EXPRESSIONS |= {
    name: (lambda name=name: getattr(nn, name)(0.5), PLANE)
    for name in ("Dropout", "Dropout2d", "AlphaDropout", "FeatureAlphaDropout")
}


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.attention(x, x, x)


def account(machine: Machine) -> None:
    assert machine.coverage() == {"operations": 1.0, "flops": 1.0}
    assert {row.role for row in machine.unemulated()} <= {"random", "counter", "embedding", "steps"}
    assert all(row.reason for row in machine.unemulated())


def check(model: nn.Module, x: Tensor, loss_of) -> None:
    before = nn.Linear(x.shape[-1], x.shape[-1], bias=False)
    model = nn.ModuleList([before, model])
    with emulate(model, MACHINE) as machine:
        loss = loss_of(model[1](before(x)))
        loss.backward()
    account(machine)
    assert on_grid(loss.detach(), torch.bfloat16)
    assert [name for name, p in model.named_parameters() if p.grad is None or not on_grid(p.grad, torch.bfloat16)] == []
    phases = {row.phase for row in machine.audit() if row.role == "vector" or row.gemm}
    assert {"forward", "backward"} <= phases


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_part_of_a_network(name: str) -> None:
    torch.manual_seed(0)
    make, shape = EXPRESSIONS[name]
    check(make(), torch.randn(*shape), lambda y: y.square().mean())


POSITIVE, CLASSES = torch.rand(4, 6), torch.tensor([0, 2, 5, 1])
SIGNS = torch.tensor([1.0, -1.0, 1.0, -1.0])
LOSSES = {
    "L1Loss": lambda x: nn.L1Loss()(x, POSITIVE),
    "MSELoss": lambda x: nn.MSELoss()(x, POSITIVE),
    "CrossEntropyLoss": lambda x: nn.CrossEntropyLoss(label_smoothing=0.1)(x, CLASSES),
    "CrossEntropyLoss of shares": lambda x: nn.CrossEntropyLoss()(x, POSITIVE.softmax(1)),
    "CrossEntropyLoss of images": lambda x: nn.CrossEntropyLoss()(x.view(2, 3, 4), torch.tensor([[0, 1, 2, 0]] * 2)),
    "NLLLoss": lambda x: nn.NLLLoss(weight=POSITIVE[0])(x.log_softmax(1), CLASSES),
    "PoissonNLLLoss": lambda x: nn.PoissonNLLLoss(full=True)(x, POSITIVE),
    "GaussianNLLLoss": lambda x: nn.GaussianNLLLoss()(x, POSITIVE, POSITIVE + 1),
    "KLDivLoss": lambda x: nn.KLDivLoss(reduction="batchmean")(x.log_softmax(1), POSITIVE.softmax(1)),
    "BCELoss": lambda x: nn.BCELoss()(x.sigmoid(), POSITIVE),
    "BCEWithLogitsLoss": lambda x: nn.BCEWithLogitsLoss(pos_weight=POSITIVE[0])(x, POSITIVE),
    "MarginRankingLoss": lambda x: nn.MarginRankingLoss(0.1)(x[:, 0], x[:, 1], SIGNS),
    "HingeEmbeddingLoss": lambda x: nn.HingeEmbeddingLoss()(x[:, 0], SIGNS),
    "MultiLabelMarginLoss": lambda x: nn.MultiLabelMarginLoss()(x, torch.tensor([[0, 3, -1, 0, 0, 0]] * 4)),
    "HuberLoss": lambda x: nn.HuberLoss(delta=0.5)(x, POSITIVE),
    "SmoothL1Loss": lambda x: nn.SmoothL1Loss()(x, POSITIVE),
    "SoftMarginLoss": lambda x: nn.SoftMarginLoss()(x[:, 0], SIGNS),
    "MultiLabelSoftMarginLoss": lambda x: nn.MultiLabelSoftMarginLoss()(x, (POSITIVE > 0.5).float()),
    "CosineEmbeddingLoss": lambda x: nn.CosineEmbeddingLoss()(x, POSITIVE, SIGNS),
    "MultiMarginLoss": lambda x: nn.MultiMarginLoss()(x, CLASSES),
    "TripletMarginLoss": lambda x: nn.TripletMarginLoss()(x, POSITIVE, x * 0.5),
    "TripletMarginWithDistanceLoss": lambda x: nn.TripletMarginWithDistanceLoss()(x, POSITIVE, x * 0.5),
    "CTCLoss": lambda x: nn.CTCLoss()(
        x.view(4, 1, 6).log_softmax(2), torch.tensor([[1, 2]]), torch.tensor([4]), torch.tensor([2])
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss(name: str) -> None:
    torch.manual_seed(0)
    check(nn.Linear(6, 6), torch.randn(4, 6), LOSSES[name])


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_an_embedding(kind: type[nn.Module]) -> None:
    model = kind(5, 4)
    with emulate(model, MACHINE) as machine:
        model(torch.tensor([[0, 3], [3, 3]])).square().sum().backward()
    account(machine)
    assert on_grid(model.weight.grad, torch.bfloat16)
    assert on_grid(model.weight, torch.bfloat16)


OPTIMIZERS = [
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (torch.optim.Adam, {"amsgrad": True}),
    (torch.optim.AdamW, {}),
]


@pytest.mark.parametrize("form", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=lambda form: "-".join(form))
@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS, ids=lambda x: getattr(x, "__name__", ""))
def test_an_optimizer_with_accumulated_clipped_scaled_gradients_under_autocast(kind, options, form) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6))
    optimizer = kind(model.parameters(), lr=0.01, **options, **form)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    casts = {**BF16, "weight": {"format": "bf16", "rounding": "stochastic(16)"}}
    if "fused" in form:
        del casts["update"]
    with emulate(model, {**MACHINE, "optimizer": casts}, optimizer=optimizer) as emulated:
        for _ in range(2):
            optimizer.zero_grad()
            for part in range(2):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = model(torch.randn(4, 6)).float().square().mean() * (part + 1)
                scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
    account(emulated)
    assert emulated.step == 2
    states = [x for state in optimizer.state.values() for key, x in state.items() if key != "step"]
    assert all(on_grid(x, torch.bfloat16) for x in (*model.parameters(), *states))
    written = {row.role for row in emulated.audit() if row.phase == "optimizer"}
    assert {"gradient", "weight", "momentum"} <= written
