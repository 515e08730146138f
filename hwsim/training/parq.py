"""Training towards levels: a wrapper around any torch optimizer, with a quantizer and a prox map of one's choice."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any, overload

import torch
from torch import nn
from torch.optim import Optimizer

from hwsim.casts import Granularity
from hwsim.errors import ConfigError

from .level_quantizers import LevelQuantizer
from .loops import Loop, at_once
from .nearest import kernels_serve
from .proxmaps import Hard, Looped, Progress, ProxMap
from .rows import from_rows, granularity, to_rows

StateDict = dict[str, Any]


@dataclass
class _Drawn:
    """A parameter group that is drawn to levels: the network's weights w, the latent ones u that the base optimizer owns."""

    index: int
    quantizer: LevelQuantizer
    share: Granularity
    weights: list[nn.Parameter]
    latents: list[torch.Tensor]
    weight_decay: float
    travelled: float = 0.0
    levels: list[torch.Tensor] = field(default_factory=list)


class PARQ(Optimizer):
    """u <- base optimizer's step on the latent u with the gradient at w;  w <- prox map of u with the quantizer's levels.

    Momentum, Adam's moments and weight decay act on the latent weights; the network computes with w. Outside of `step` the
    parameter groups hold the network's parameters, so that schedulers, gradient scaling and clipping work as on any optimizer.

    Args:
        base: any optimizer that needs no closure; its groups say lr, weight decay and the rest.
        quantizer: one for all groups, or one a group, None for groups that stay as they are.
        prox_map: Hard(), Parq, BinaryRelax, ProxQuant, Soft, Aprox, or one's own.
        granularity: what shares levels: "tensor", {"channel": axis}, {"group": size}; or one a group.
        warmup: steps of the base optimizer alone.
        period: steps between updates of the levels.
        anneal_weight_decay: the share of weight decay that falls with the prox map's slope, 0..1.

    Raises:
        ConfigError: a base that needs a closure, an empty group, lists that do not fit the groups, numbers out of range.

    Source: Jin et al. 2025 (arXiv 2503.15748), algorithm 1.
    """

    # torch.amp.GradScaler hands its scale to an optimizer that divides by it; a fused base would look for it at itself, in vain.
    _step_supports_amp_scaling = False

    def __init__(
        self,
        base: Optimizer,
        quantizer: LevelQuantizer | Sequence[LevelQuantizer | None],
        prox_map: ProxMap | None = None,
        *,
        granularity: Any = "tensor",
        warmup: int = 0,
        period: int = 10,
        anneal_weight_decay: float = 0.0,
    ) -> None:
        # Optimizer.__init__ would make parameter groups of its own; these and the hooks are the base optimizer's.
        if not isinstance(base, Optimizer):
            raise ConfigError(f"PARQ base: got {type(base).__name__}; allowed: a torch optimizer")
        if signature(base.step).parameters["closure"].default is Parameter.empty:
            given = f"{type(base).__name__}, whose step needs a closure"
            raise ConfigError(f"PARQ base: got {given}; allowed: an optimizer that steps on gradients already there")
        if warmup < 0 or period < 1 or not 0 <= anneal_weight_decay <= 1:
            given = f"warmup {warmup}, period {period}, anneal_weight_decay {anneal_weight_decay}"
            raise ConfigError(f"PARQ: got {given}; allowed: warmup >= 0, period >= 1, anneal_weight_decay 0 to 1")
        self.base, self.prox_map = base, prox_map or Hard()
        self.warmup, self.period, self.anneal_weight_decay = warmup, period, anneal_weight_decay
        self.steps_done = 0
        self._drawn = _drawn_groups(base, quantizer, granularity)
        for group in self._drawn:
            for weight, latent in zip(group.weights, group.latents, strict=True):
                if weight in base.state:
                    base.state[latent] = base.state.pop(weight)

    def __getattr__(self, name: str) -> Any:
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)

    def __repr__(self) -> str:
        return f"PARQ({self.base!r}, {self.prox_map!r}, {[group.quantizer for group in self._drawn]!r})"

    @property
    def slope(self) -> float:
        """How free the weights are after the last step: 1 not quantized, 0 on the levels."""
        step = self.steps_done - 1
        return 1.0 if step < self.warmup else self.prox_map.slope(Progress(step, self._drawn[0].travelled))

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step; a closure is evaluated once, at the network's weights w.

        A step whose gradients the base optimizer's hooks drop, as loss scaling does where they are not finite, changes nothing.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        fused = {id(latent): loop for group in self._drawn for latent, loop in self._fused(group)}
        with self._latents_in_groups(without=fused):
            self.base.step()
            dropped = any(w.grad is not None and u.grad is None for w, u in self.latents())
        if dropped:
            return loss
        at_once(list(fused.values()))
        for group in self._drawn:
            self._draw(group, done=fused)
        self.steps_done += 1
        return loss

    def latents(self) -> Iterator[tuple[nn.Parameter, torch.Tensor]]:
        """Each drawn parameter with its latent weight."""
        for group in self._drawn:
            yield from zip(group.weights, group.latents, strict=True)

    def levels_of(self, weight: nn.Parameter) -> tuple[torch.Tensor, Granularity]:
        """The levels in use, (rows, levels), and what shares them.

        Raises:
            ConfigError: a parameter that is not drawn to levels, or not yet.
        """
        for group in self._drawn:
            for known, levels in zip(group.weights, group.levels, strict=False):
                if known is weight:
                    return levels, group.share
        given = f"a parameter of shape {tuple(weight.shape)} that has none"
        raise ConfigError(f"levels: got {given}; allowed: drawn parameters, after the warm-up")

    def state_dict(self) -> StateDict:
        """The base optimizer's state with the latent weights, levels and counters beside it; all tensors and numbers."""
        with self._latents_in_groups():
            state = self.base.state_dict()
        groups = [
            {"latents": g.latents, "levels": g.levels, "travelled": g.travelled, "weight_decay": g.weight_decay}
            for g in self._drawn
        ]
        return {**state, "parq": {"steps_done": self.steps_done, "groups": groups}}

    @torch.no_grad()
    def load_state_dict(self, state_dict: StateDict) -> None:
        """Continue, bit for bit, where `state_dict` was taken; the network's own state is loaded by itself.

        Raises:
            ConfigError: a state without PARQ's part, or of other groups, weights or granularities.
        """
        own = state_dict.get("parq")
        if own is None or len(own["groups"]) != len(self._drawn):
            raise ConfigError(
                "PARQ state: got one without its part, or of other groups; allowed: a PARQ state_dict of the same groups"
            )
        for group, saved in zip(self._drawn, own["groups"], strict=True):
            _check_state(group, saved)
        with self._latents_in_groups():
            self.base.load_state_dict({key: value for key, value in state_dict.items() if key != "parq"})
        self.steps_done = own["steps_done"]
        for group, saved in zip(self._drawn, own["groups"], strict=True):
            torch._foreach_copy_(group.latents, saved["latents"])
            group.levels = [levels.to(u.device).clone() for levels, u in zip(saved["levels"], group.latents, strict=False)]
            group.travelled, group.weight_decay = saved["travelled"], saved["weight_decay"]

    @contextmanager
    def _latents_in_groups(self, without: Container[int] = ()) -> Iterator[None]:
        for group in self._drawn:
            self.base.param_groups[group.index]["params"] = [u for u in group.latents if id(u) not in without]
            for weight, latent in zip(group.weights, group.latents, strict=True):
                latent.grad = weight.grad
        try:
            yield
        finally:
            for group in self._drawn:
                self.base.param_groups[group.index]["params"] = group.weights
                for latent in group.latents:
                    latent.grad = None

    def _updates_levels(self, group: _Drawn) -> bool:
        return (self.steps_done - self.warmup) % self.period == 0 or not group.levels

    def _fused(self, group: _Drawn) -> Iterator[tuple[torch.Tensor, Loop]]:
        """The latent weights of which base step and prox map are one pass, between updates of the levels, and the pass."""
        if self.steps_done < self.warmup or self._updates_levels(group) or not isinstance(self.prox_map, Looped):
            return
        from .fused import fused_step

        options = self.base.param_groups[group.index]
        progress = Progress(self.steps_done, group.travelled + float(options["lr"]))
        for weight, latent, levels in zip(group.weights, group.latents, group.levels, strict=True):
            rows, drawn = to_rows(latent, group.share), to_rows(weight.detach(), group.share)
            in_place = rows.data_ptr() == latent.data_ptr() and drawn.data_ptr() == weight.data_ptr()
            if in_place and kernels_serve(rows, drawn):
                draw = self.prox_map.loop(rows, levels, progress, drawn)
                loop = fused_step(self.base, options, latent, weight.grad, draw) if draw else None
                if loop:
                    yield latent, loop

    def _draw(self, group: _Drawn, done: Container[int]) -> None:
        options = self.base.param_groups[group.index]
        if self.steps_done < self.warmup:
            torch._foreach_copy_([w.data for w in group.weights], group.latents)
            return
        group.travelled += float(options["lr"])
        if self._updates_levels(group):
            group.levels = [group.quantizer.levels(to_rows(u, group.share)) for u in group.latents]
        progress = Progress(self.steps_done, group.travelled)
        for weight, latent, levels in zip(group.weights, group.latents, group.levels, strict=True):
            if id(latent) in done:
                continue
            rows, drawn = to_rows(latent, group.share), to_rows(weight.detach(), group.share)
            self.prox_map(rows, levels, progress, drawn)
            if drawn.data_ptr() != weight.data_ptr() or not weight.is_contiguous():
                weight.copy_(from_rows(drawn, weight.shape, group.share))
        if not self.prox_map.keeps_latent:
            torch._foreach_copy_(group.latents, [w.data for w in group.weights])
        if self.anneal_weight_decay:
            kept = 1 - self.anneal_weight_decay * (1 - self.prox_map.slope(progress))
            options["weight_decay"] = kept * group.weight_decay


def _check_state(group: _Drawn, saved: StateDict) -> None:
    given, shapes = ([tuple(u.shape) for u in latents] for latents in (saved["latents"], group.latents))
    if given != shapes:
        raise ConfigError(f"PARQ state of group {group.index}: got weights of shapes {given}; allowed: {shapes}")
    rows = [len(to_rows(u, group.share)) for u in group.latents]
    kept = [len(levels) for levels in saved["levels"]]
    if kept and kept != rows:
        raise ConfigError(
            f"PARQ state of group {group.index}: got levels of {kept} rows; allowed: {rows}, as the granularity has"
        )


def split_parameters(model: nn.Module, keep: Sequence[str] = ()) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(matrices that a layer names `weight` or `..._weight...`, all other parameters, and those of modules named in `keep`).

    Linear and convolution layers, the projections of attention and the matrices of recurrent layers are weights; embeddings
    (unless a layer shares them), normalisation and biases are not.

    Args:
        keep: beginnings of names of modules.
    """
    weights: dict[int, nn.Parameter] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) or any(name.startswith(prefix) for prefix in keep):
            continue
        for own, weight in module.named_parameters(recurse=False):
            if "weight" in own and weight.ndim >= 2:
                weights[id(weight)] = weight
    return [*weights.values()], [p for p in model.parameters() if id(p) not in weights]


def _drawn_groups(base: Optimizer, quantizer: LevelQuantizer | Sequence[LevelQuantizer | None], shares: Any) -> list[_Drawn]:
    count = len(base.param_groups)
    quantizers = list(quantizer) if isinstance(quantizer, Sequence) else [quantizer] * count
    granularities = list(shares) if isinstance(shares, list | tuple) else [shares] * count
    for name, given in (("quantizer", quantizers), ("granularity", granularities)):
        if len(given) != count:
            raise ConfigError(f"PARQ {name}: got {len(given)} for {count} parameter groups; allowed: one, or one a group")
    drawn = []
    for index, (options, rule, share) in enumerate(zip(base.param_groups, quantizers, granularities, strict=True)):
        if rule is None:
            continue
        weights = [p for p in options["params"] if p.requires_grad]
        if not weights:
            raise ConfigError(
                f"PARQ group {index}: got no parameters that take gradients; allowed: one or more, or quantizer None"
            )
        latents = [p.detach().clone() for p in weights]
        drawn.append(_Drawn(index, rule, granularity(share), weights, latents, options.get("weight_decay", 0.0)))
        options["params"] = weights
    if not drawn:
        raise ConfigError("PARQ quantizer: got None for every group; allowed: a quantizer for at least one")
    return drawn
