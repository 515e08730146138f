"""The scales that a run keeps, by port: histories of delayed scaling, and scales that train as parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hwsim.casts import Cast, Scaling
from hwsim.errors import ConfigError
from hwsim.scales import Delayed, delayed_next, delayed_seen, delayed_start, gradients, trained_scale, trained_start

from . import common
from .calls import FIRST_EVALUATION

State = dict[str, Tensor]


class DelayedScale:
    """The scale of one port under delayed scaling."""

    def __init__(self, cast: Cast, state: State | None) -> None:
        self.cast = cast
        self._state = Delayed(**state) if state is not None else None

    def of(self, x: Tensor, call: int) -> Tensor:
        """The scale that the steps before gave; a tensor of training is remembered, one of evaluation is not."""
        if self._state is None:
            self._state = delayed_start(_scaling(self.cast), x.device)
        if call < FIRST_EVALUATION:
            self._state = delayed_seen(self._state, x)
        return self._state.scale

    @property
    def amax(self) -> Tensor | None:
        """The largest magnitude of the step so far."""
        return None if self._state is None else self._state.history[0]

    def advance(self, amax: Tensor) -> None:
        """A step ends, whose largest magnitude was `amax` on all ranks."""
        if self._state is not None:
            history = self._state.history.clone()
            history[0] = amax
            self._state = delayed_next(self._state._replace(history=history), _scaling(self.cast), self.cast.format)

    def state(self) -> State:
        """The history and the scale."""
        return {} if self._state is None else {key: x.clone() for key, x in self._state._asdict().items()}


class TrainedScale:
    """A scale that is a parameter of the run; that of an operand which needs no gradient stays where it starts."""

    def __init__(self, cast: Cast, parameter: nn.Parameter | None, join: Callable[[nn.Parameter], None]) -> None:
        self.cast = cast
        self.parameter = parameter
        self._join = join

    def of(self, x: Tensor, call: int) -> Tensor:
        """The scale; the first tensor sets where it starts."""
        if self.parameter is None:
            start = trained_start(self.cast, x)
            self.parameter = nn.Parameter(common.first(start) if call < FIRST_EVALUATION else start)
            self._join(self.parameter)
        return trained_scale(self.cast, self.parameter)

    def add(self, gradient: Tensor) -> None:
        """Add to the parameter's gradient."""
        if self.parameter is not None:
            grad = gradient.detach().to(self.parameter.dtype)
            self.parameter.grad = grad if self.parameter.grad is None else self.parameter.grad + grad


class Scales:
    """Every kept scale of a run, the same on all ranks of a data-parallel one.

    A new parameter joins the optimizer as a group of its own, with the optimizer's defaults but without weight decay where the
    rule is `learned`; when the run's block ends the groups are taken out again.
    """

    def __init__(self, optimizer: Optimizer | None) -> None:
        self.optimizer = optimizer
        self.joined: list[Callable[[str, nn.Parameter], None]] = []
        self._delayed: dict[str, DelayedScale] = {}
        self._trained: dict[str, TrainedScale] = {}
        self._parameters: dict[str, nn.Parameter] = {}
        self._saved: dict[str, State] = {}
        self._groups: list[dict[str, Any]] = []
        self._shared: set[str] = set()

    def of(self, site: str, cast: Cast) -> DelayedScale | TrainedScale:
        """The kept scale of a port; a loaded state is taken up."""
        if _scaling(cast).trains:
            if site not in self._trained:
                decays = _scaling(cast).rule != "learned"
                self._trained[site] = TrainedScale(cast, self._parameters.get(site), lambda p: self._join(site, p, decays))
            return self._trained[site]
        if site not in self._delayed:
            self._delayed[site] = DelayedScale(cast, self._saved.pop(site, None))
        return self._delayed[site]

    def share(self, optimizer: Optimizer) -> None:
        """Average the gradients of the scales that the optimizer is about to read over all ranks; a new scale is rank 0's.

        DistributedDataParallel averages those of the model's own parameters only.
        """
        if self.optimizer is None or optimizer not in (self.optimizer, getattr(self.optimizer, "base", None)):
            return
        sites = sorted(self._parameters)
        parameters = [self._parameters[site] for site in sites]
        for site in sites:
            if site not in self._shared:
                self._shared.add(site)
                self._parameters[site].data.copy_(common.first(self._parameters[site].detach().clone()))
        for parameter, mean in zip(parameters, common.means([p.grad for p in parameters], parameters), strict=True):
            parameter.grad = mean

    def advance(self) -> None:
        """A training step ends."""
        used = {site: amax for site, scale in sorted(self._delayed.items()) if (amax := scale.amax) is not None}
        for site, amax in zip(used, common.largest(list(used.values())), strict=True):
            self._delayed[site].advance(amax)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The scales that train, by port, in the order in which they joined."""
        return dict(self._parameters)

    def state_dict(self) -> dict[str, State]:
        """Every kept scale, those that were loaded and have not run yet among them."""
        trained = {site: {"parameter": p.detach().clone()} for site, p in self._parameters.items()}
        return trained | {site: state for site, scale in self._delayed.items() if (state := scale.state())} | self._saved

    def load_state_dict(self, state: dict[str, State]) -> None:
        """Go on from saved scales; those that train join the optimizer, in the order in which they did before.

        Raises:
            ConfigError: scales are in use already.
        """
        if self._delayed or self._trained:
            raise ConfigError("load_state_dict: scales are in use; allowed: right after the block is entered")
        for site, kept in state.items():
            if "parameter" in kept:
                self._join(site, nn.Parameter(kept["parameter"].clone()), decays=True)
            else:
                self._saved[site] = dict(kept)

    def release(self) -> None:
        """Take the parameters out of the optimizer."""
        if self.optimizer is not None:
            own = {id(group) for group in self._groups}
            self.optimizer.param_groups[:] = [group for group in self.optimizer.param_groups if id(group) not in own]
            for parameter in self._parameters.values():
                self.optimizer.state.pop(parameter, None)

    def _join(self, site: str, parameter: nn.Parameter, decays: bool) -> None:
        self._parameters[site] = parameter
        for tell in self.joined:
            tell(site, parameter)
        if self.optimizer is not None:
            fixed = {} if decays or "weight_decay" not in self.optimizer.defaults else {"weight_decay": 0.0}
            self.optimizer.add_param_group({"params": [parameter], **fixed})
            self._groups.append(self.optimizer.param_groups[-1])


def through(cast: Cast, kept: DelayedScale | TrainedScale | None, x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of a cast's operand, given that of its result; a scale that trains gets its own."""
    with torch.no_grad():
        scale = kept.of(x, FIRST_EVALUATION) if kept is not None else None
        if scale is None and cast.scaling is not None and cast.scaling.rule == "fixed":
            scale = torch.full((), cast.scaling.value or 1.0, device=x.device)
        result, own = gradients(cast, x, grad, scale)
        if own is not None and isinstance(kept, TrainedScale):
            kept.add(own)
    return result


def _scaling(cast: Cast) -> Scaling:
    if cast.scaling is None:
        raise ConfigError(f"scaling: {cast} has none")
    return cast.scaling
