"""PARQ wraps any optimizer: its limits are known methods, its schedules are normalised, and its state resumes bit for bit."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from math import inf
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.nn.functional import cross_entropy

import hwsim
from hwsim.errors import ConfigError
from hwsim.fields import format_mapping, format_record
from hwsim.formats import Integer
from hwsim.training import (
    LSBQ,
    PAR,
    PARQ,
    Aprox,
    BinaryRelax,
    FormatLevels,
    Glm,
    Hard,
    LevelQuantizer,
    Linear,
    Parq,
    ProxMap,
    ProxQuant,
    Sigmoid,
    Soft,
    Ternary,
    Uniform,
    aprox,
    learned_codebook,
    split_parameters,
)

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
Y = torch.randint(4, (64,), generator=torch.Generator().manual_seed(2))
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "adam_foreach": lambda p: torch.optim.Adam(p, lr=1e-2, foreach=True),
}


@dataclass(frozen=True)
class Constant(Linear):
    """A slope that does not move."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))


def wrapped(model: nn.Module, base: str = "sgd", prox_map: ProxMap | None = None, **options: object) -> PARQ:
    weights, others = split_parameters(model)
    quantizer = options.pop("quantizer", LSBQ(2))
    return PARQ(OPTIMIZERS[base]([{"params": weights}, {"params": others}]), [quantizer, None], prox_map, **options)  # type: ignore[list-item, arg-type]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, x: torch.Tensor = X) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(x), Y).backward()
        optimizer.step()


SIZES = [(LSBQ(1), 2), (Ternary(), 3), (LSBQ(2), 4), (LSBQ(3), 8), (LSBQ(4), 16), (Uniform(1), 2), (Uniform(2), 4),
         (Uniform(3), 8), (Uniform(4), 16), (Uniform(3, "max", zero=True), 7), (FormatLevels(format_record("fp4_e2m1")), 15),
         (FormatLevels(format_record("nf4")), 16)]  # fmt: skip
"""Quantizers with the number of their levels."""


class TestWrapper:
    @pytest.mark.parametrize("base", OPTIMIZERS)
    def test_with_the_hard_map_is_the_straight_through_estimator_bit_for_bit(self, base: str) -> None:
        model, straight = network(), network()
        train(model, optimizer := wrapped(model, base, Hard(), quantizer=LSBQ(1), period=1), 12)
        latent = OPTIMIZERS[base]([{"params": split_parameters(straight)[0]}, {"params": split_parameters(straight)[1]}])
        layers = (straight[0], straight[2])
        for step in range(12):
            latent.zero_grad()
            drawn = [w if step == 0 else sign_of(w.detach()).requires_grad_() for w in (layer.weight for layer in layers)]
            hidden = torch.relu(nn.functional.linear(X, drawn[0], layers[0].bias))
            cross_entropy(nn.functional.linear(hidden, drawn[1], layers[1].bias), Y).backward()
            for layer, w in zip(layers, drawn, strict=True):
                layer.weight.grad = w.grad
            latent.step()
        for layer, (w, u) in zip(layers, optimizer.latents(), strict=True):
            assert torch.equal(u, layer.weight)
            assert torch.equal(w, sign_of(layer.weight))

    @pytest.mark.parametrize("base", OPTIMIZERS)
    @pytest.mark.parametrize("quantizer", [LSBQ(2), Uniform(3)], ids=str)
    def test_with_the_hard_map_and_levels_of_a_period_it_is_that_estimator_too(
        self, quantizer: LevelQuantizer, base: str
    ) -> None:
        model, straight, period = network(), network(), 3
        train(model, optimizer := wrapped(model, base, Hard(), quantizer=quantizer, period=period), 8)
        latent = OPTIMIZERS[base]([{"params": split_parameters(straight)[0]}, {"params": split_parameters(straight)[1]}])
        layers, levels = (straight[0], straight[2]), []
        drawn = [layer.weight.detach().clone() for layer in layers]
        for step in range(8):
            latent.zero_grad()
            leaves = [w.clone().requires_grad_() for w in drawn]
            hidden = torch.relu(nn.functional.linear(X, leaves[0], layers[0].bias))
            cross_entropy(nn.functional.linear(hidden, leaves[1], layers[1].bias), Y).backward()
            for layer, w in zip(layers, leaves, strict=True):
                layer.weight.grad = w.grad
            latent.step()
            if step % period == 0:
                levels = [quantizer.levels(layer.weight.detach().reshape(1, -1))[0] for layer in layers]
            drawn = [nearest_by_comparison(layer.weight.detach(), q) for layer, q in zip(layers, levels, strict=True)]
        for layer, expected, (w, u) in zip(layers, drawn, optimizer.latents(), strict=True):
            assert torch.equal(u, layer.weight)
            assert torch.equal(w, expected)

    def test_with_proxquant_each_step_starts_from_the_weights_and_not_from_the_latent_ones(self) -> None:
        model, plain, schedule, rate = network(), network(), Linear(2, 7), 4e-3
        optimizer = PARQ(torch.optim.SGD(model.parameters(), lr=0.1), LSBQ(2), ProxQuant(rate, schedule), period=1)
        for step in range(9):
            train(model, optimizer, 1)
            plain.zero_grad()
            cross_entropy(plain(X), Y).backward()
            for p in plain.parameters():
                u = p.data - 0.1 * p.grad
                level = nearest_by_comparison(u, LSBQ(2).levels(u.reshape(1, -1))[0])
                moved = level + (u - level).sign() * ((u - level).abs() - rate * max(step - 2, 0)).clamp(min=0)
                p.data = level if step >= 7 else moved
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-6)
        assert all(torch.equal(u, w) for w, u in optimizer.latents())

    def test_with_the_aprox_map_it_is_aprox(self) -> None:
        """On one observation, so that the batch drawn is always the same; w starts from 0 there and here."""
        d, strength, par = 8, 1.0, PAR((0, 0.5, 1), (0.2, 0.7, inf))
        design = torch.randn(1, 1, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        glm = Glm(design, torch.tensor([[2.0]], dtype=torch.float64))
        w = nn.Parameter(torch.zeros(1, d, dtype=torch.float64))
        optimizer = PARQ(torch.optim.SGD([w], lr=0.05), Fixed((-1.0, -0.5, 0.0, 0.5, 1.0)), Aprox(par, strength))
        for t in range(1, 21):
            optimizer.zero_grad()
            glm.loss(w).backward()
            optimizer.step()
            expected = aprox(glm, par, strength, lambda _: 0.05, t).last
            torch.testing.assert_close(w.detach(), expected, rtol=0, atol=1e-12)
        assert 0 < int((w == 0).sum()) < d

    def test_draws_each_group_to_its_own_bits_with_its_own_granularity(self) -> None:
        model = network()
        groups = [{"params": [model[0].weight]}, {"params": [model[2].weight]}, {"params": [model[0].bias, model[2].bias]}]
        options = {"granularity": ["tensor", {"channel": 0}, "tensor"], "period": 2}
        optimizer = PARQ(torch.optim.SGD(groups, lr=0.1), [LSBQ(1), LSBQ(3), None], Parq(Sigmoid(0, 6)), **options)
        train(model, optimizer, 8)
        assert optimizer.levels_of(model[0].weight)[0].shape == (1, 2)
        assert optimizer.levels_of(model[2].weight)[0].shape == (4, 8)
        assert model[0].weight.unique().numel() == 2
        for row, levels in zip(model[2].weight, optimizer.levels_of(model[2].weight)[0], strict=True):
            assert bool(torch.isin(row, levels).all())
        assert model[2].weight.unique().numel() > 8
        with pytest.raises(ConfigError, match=r"levels: got a parameter of shape \(24,\) that has none"):
            optimizer.levels_of(model[0].bias)

    def test_parq_tends_to_the_straight_through_estimator_as_its_slope_falls(self) -> None:
        hard = network()
        train(hard, wrapped(hard), 8)
        distances = []
        for slope in (0.5, 0.05, 1e-6):
            soft = network()
            train(soft, wrapped(soft, prox_map=Parq(Constant(0, 1, slope))), 8)
            distances.append((hard[0].weight - soft[0].weight).abs().mean().item())
        assert distances[0] > distances[1] > distances[2] == 0

    @pytest.mark.parametrize("granularity", ["tensor", {"channel": 0}, {"channel": 1}, {"group": 8}], ids=str)
    @pytest.mark.parametrize("quantizer", [LSBQ(2), Uniform(3), FormatLevels(Integer(4))], ids=str)
    def test_ends_with_every_weight_on_the_levels_of_its_row(self, quantizer: object, granularity: object) -> None:
        model = network()
        train(model, optimizer := wrapped(model, prox_map=Parq(Sigmoid(0, 6)), quantizer=quantizer, granularity=granularity), 8)
        assert optimizer.slope == 0
        for weight, _ in optimizer.latents():
            levels, _ = optimizer.levels_of(weight)
            assert bool(torch.isin(weight, levels).all())

    @pytest.mark.parametrize("base", OPTIMIZERS)
    @pytest.mark.parametrize(
        "prox_map",
        [Hard(), Parq(Sigmoid(2, 14)), BinaryRelax(Linear(2, 14)), ProxQuant(1e-3, Linear(2, 14)), Soft(Sigmoid(2, 14)),
         Aprox(PAR((0, 1, 3), (0.5, 1, inf)), 0.3)],
        ids=lambda m: type(m).__name__,
    )  # fmt: skip
    def test_resumes_bit_for_bit(self, prox_map: ProxMap, base: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
        share = {"channel": 0} if isinstance(prox_map, Soft | Aprox) else "tensor"
        options = {"warmup": 2, "period": 4, "anneal_weight_decay": 0.5, "granularity": share}
        whole, first, second = network(), network(), network()
        train(whole, wrapped(whole, base, prox_map, **options), 16)
        train(first, optimizer := wrapped(first, base, prox_map, **options), 9)
        torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
        saved = torch.load(tmp_path / "state.pt", weights_only=True)
        second.load_state_dict(saved["model"])
        resumed = wrapped(second, base, prox_map, **options)
        resumed.load_state_dict(saved["optimizer"])
        train(second, resumed, 7)
        for a, b in zip(whole.parameters(), second.parameters(), strict=True):
            assert torch.equal(a, b)

    @pytest.mark.parametrize(("quantizer", "count"), SIZES, ids=str)
    @pytest.mark.parametrize("granularity", ["tensor", {"channel": 0}], ids=str)
    def test_each_layer_holds_exactly_the_values_of_the_level_set_after_training(
        self, quantizer: LevelQuantizer, count: int, granularity: object
    ) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 4))
        for layer in (model[0], model[2], model[4]):
            nn.init.normal_(layer.weight, std=0.2)
        options = {"quantizer": quantizer, "granularity": granularity, "period": 3}
        train(model, optimizer := wrapped(model, prox_map=Parq(Sigmoid(0, 6)), **options), 7)
        for weight, _ in optimizer.latents():
            levels, _ = optimizer.levels_of(weight)
            assert levels.shape[1] == count
            rows = weight.reshape(1, -1) if granularity == "tensor" else weight
            for row, values in zip(rows.tolist(), levels.tolist(), strict=True):
                assert set(row) <= set(values)
                if len(row) == 3600:
                    # The one largest magnitude, on one side, may have set the outermost levels of both.
                    assert set(row) >= set(values[1:-1])
                if len(row) >= 60 and count <= 4:
                    assert set(row) == set(values)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("quantizer", [LSBQ(2), Uniform(3), Ternary(), FormatLevels(Integer(4))], ids=str)
    def test_in_half_precision_draws_each_weight_to_its_nearest_level_and_resumes_bit_for_bit(
        self, quantizer: LevelQuantizer, dtype: torch.dtype
    ) -> None:
        def trained(steps: int, state: dict[str, Any] | None = None) -> tuple[nn.Module, PARQ]:
            model = network().to(dtype)
            optimizer = wrapped(model, prox_map=Hard(), quantizer=quantizer, granularity={"channel": 0}, warmup=1, period=3)
            if state is not None:
                model.load_state_dict(state["model"])
                optimizer.load_state_dict(state["optimizer"])
            train(model, optimizer, steps, X.to(dtype))
            return model, optimizer

        whole, optimizer = trained(8)
        for weight, latent in optimizer.latents():
            assert weight.dtype == latent.dtype == dtype
            levels, _ = optimizer.levels_of(weight)
            for w, u, row in zip(weight.double(), latent.double(), levels.double(), strict=True):
                assert bool(torch.isin(w, row).all())
                least = (u[:, None] - row).abs().amin(-1)
                # A middle of two levels is rounded to the weights' precision.
                assert bool(((u - w).abs() <= least + torch.finfo(dtype).eps * row.abs().max()).all())
        begun, before = trained(5)
        file = BytesIO()
        torch.save({"model": begun.state_dict(), "optimizer": before.state_dict()}, file)
        file.seek(0)
        resumed, after = trained(3, torch.load(file, weights_only=True))
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(optimizer.latents(), after.latents(), strict=True))

    @pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
    def test_under_torchs_gradient_scaler_is_what_it_is_without_though_its_base_could_divide_itself(
        self, base: type[torch.optim.Optimizer]
    ) -> None:
        """A fused base reads the scale from an attribute that the scaler would set on the wrapper."""

        def trained(scaler: torch.amp.GradScaler) -> list[torch.Tensor]:
            model = network()
            weights, others = split_parameters(model)
            fused = base([{"params": weights}, {"params": others}], lr=0.1, fused=True)
            optimizer = PARQ(fused, [LSBQ(2), None], Parq(Sigmoid(0, 6)), period=2)
            for _ in range(4):
                optimizer.zero_grad()
                scaler.scale(cross_entropy(model(X), Y)).backward()
                scaler.step(optimizer)
                scaler.update()
            return [*model.parameters(), *(u for _, u in optimizer.latents())]

        plain, scaled = (trained(torch.amp.GradScaler("cpu", 2.0**12, enabled=on)) for on in (False, True))
        assert all(torch.equal(a, b) for a, b in zip(plain, scaled, strict=True))

    def test_is_the_base_optimizer_during_the_warmup(self) -> None:
        plain, model = network(), network()
        train(plain, OPTIMIZERS["sgd"](plain.parameters()), 5)
        train(model, wrapped(model, warmup=5), 5)
        assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))

    def test_updates_the_levels_once_a_period(self) -> None:
        model, seen = network(), []
        optimizer = wrapped(model, period=3)
        for _ in range(7):
            train(model, optimizer, 1)
            seen.append(optimizer.levels_of(model[0].weight)[0].clone())
        assert [torch.equal(a, b) for a, b in pairwise(seen)] == [True, True, False, True, True, False]

    def test_anneals_the_weight_decay_with_the_slope(self) -> None:
        model = network()
        optimizer = wrapped(model, prox_map=Parq(Linear(0, 4)), anneal_weight_decay=0.5)
        decays = []
        for _ in range(5):
            train(model, optimizer, 1)
            decays.append(optimizer.param_groups[0]["weight_decay"] / 1e-3)
        assert decays == pytest.approx([1.0, 0.875, 0.75, 0.625, 0.5])
        assert optimizer.param_groups[1]["weight_decay"] == 1e-3

    def test_serves_schedulers_clipping_and_closures_as_any_optimizer(self) -> None:
        model = network()
        optimizer = wrapped(model)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        assert {p for g in optimizer.param_groups for p in g["params"]} == set(model.parameters())

        def closure() -> float:
            optimizer.zero_grad()
            loss = cross_entropy(model(X), Y)
            loss.backward()
            nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
            return loss.item()

        assert optimizer.step(closure) > 0
        scheduler.step()
        assert optimizer.base.param_groups[0]["lr"] == 0.05

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda b: PARQ("sgd", LSBQ(2)), "base: got str; allowed: a torch optimizer"),
            (
                lambda b: PARQ(torch.optim.LBFGS(b.param_groups[0]["params"]), LSBQ(2)),
                "base: got LBFGS, whose step needs a closure; allowed: an optimizer that steps on gradients already there",
            ),
            (lambda b: PARQ(b, LSBQ(2), period=0), "got warmup 0, period 0.*allowed: warmup >= 0, period >= 1"),
            (lambda b: PARQ(b, [LSBQ(2), LSBQ(1)]), "quantizer: got 2 for 1 parameter groups; allowed: one, or one a group"),
            (lambda b: PARQ(b, [None]), "got None for every group; allowed: a quantizer for at least one"),
            (lambda b: PARQ(b, LSBQ(2), granularity="row"), "granularity: got 'row'; allowed: 'tensor'"),
            (
                lambda b: PARQ(torch.optim.SGD([{"params": []}, *b.param_groups], lr=1), LSBQ(2)),
                "group 0: got no parameters that take",
            ),
        ],
    )
    def test_refuses_what_it_cannot_wrap(self, make, message: str) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(ConfigError, match=message):
            make(torch.optim.SGD(network().parameters(), lr=0.1))

    def test_refuses_groups_that_do_not_divide(self) -> None:
        model = network()
        with pytest.raises(ConfigError, match=r"got group 5 for shape \(24, 16\); allowed: a divisor of the last axis"):
            train(model, wrapped(model, granularity={"group": 5}), 1)

    def test_refuses_a_foreign_state(self) -> None:
        optimizer = wrapped(network())
        with pytest.raises(ConfigError, match="got one without its part, or of other groups"):
            optimizer.load_state_dict(optimizer.base.state_dict())

    @pytest.mark.parametrize(
        ("layers", "granularity", "message"),
        [((16, 20), "tensor", r"PARQ state of group 0: got weights of shapes \[\(20, 16\)\]; allowed: \[\(24, 16\)\]"),
         ((16, 24), {"channel": 0}, r"PARQ state of group 0: got levels of \[24\] rows; allowed: \[1\], as the granularity has")],
    )  # fmt: skip
    def test_refuses_the_state_of_other_weights_or_rows_and_stays_as_it_was(
        self, layers: tuple[int, int], granularity: object, message: str
    ) -> None:
        def optimizer_of(model: nn.Module, share: object) -> PARQ:
            return PARQ(torch.optim.SGD(model.parameters(), lr=0.1), LSBQ(2), granularity=share)

        other, model = nn.Linear(*layers, bias=False), nn.Linear(16, 24, bias=False)
        for p in (other.weight, model.weight):
            p.grad = torch.ones_like(p)
        theirs, ours = optimizer_of(other, granularity), optimizer_of(model, "tensor")
        theirs.step()
        before = ours.state_dict()["parq"]["groups"][0]["latents"][0].clone()
        with pytest.raises(ConfigError, match=message):
            ours.load_state_dict(theirs.state_dict())
        assert ours.steps_done == 0
        assert torch.equal(ours.state_dict()["parq"]["groups"][0]["latents"][0], before)


@dataclass(frozen=True)
class Fixed:
    """The same levels for every row."""

    values: tuple[float, ...]

    def levels(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.new_tensor(self.values).expand(len(rows), -1)


def nearest_by_comparison(w: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """The level above whose lower midpoint a weight lies, and not above the upper one."""
    result = levels[0].expand_as(w).clone()
    for low, high in pairwise(levels):
        result = torch.where(w > (low + high) / 2, high, result)
    return result


def sign_of(w: torch.Tensor) -> torch.Tensor:
    scale = w.abs().mean()
    return torch.where(w > 0, scale, -scale)


def test_weights_are_the_matrices_of_layers_and_not_embeddings_norms_or_biases() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.attention = nn.Embedding(5, 8), nn.MultiheadAttention(8, 2)
            self.norm, self.memory, self.head = nn.LayerNorm(8), nn.LSTM(8, 3), nn.Linear(8, 5, bias=False)
            self.head.weight = self.embedding.weight

    model = Net()
    names = {id(p): name for name, p in model.named_parameters()}
    weights, others = split_parameters(model)
    assert {names[id(w)] for w in weights} == {
        "embedding.weight", "attention.in_proj_weight", "attention.out_proj.weight", "memory.weight_ih_l0", "memory.weight_hh_l0",
    }  # fmt: skip
    assert len(weights) + len(others) == len(names)
    assert "attention.in_proj_weight" not in {names[id(w)] for w in split_parameters(model, ["attention"])[0]}


def test_the_levels_that_a_run_learned_are_a_codebook_in_yaml() -> None:
    model = network()
    train(model, optimizer := wrapped(model, prox_map=Parq(Sigmoid(0, 6)), quantizer=LSBQ(3)), 8)
    weight = model[0].weight
    levels, _ = optimizer.levels_of(weight)
    learned = learned_codebook(levels)
    written = yaml.safe_dump(format_mapping(learned))
    fmt = hwsim.format(yaml.safe_load(written))
    assert fmt == learned
    assert fmt.bits == 3
    assert torch.equal(hwsim.quantize(weight.detach(), fmt), weight)
    with pytest.raises(ConfigError, match=r"levels: got shape \(24, 8\); allowed: one row"):
        learned_codebook(torch.zeros(24, 8))
