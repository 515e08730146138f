"""`emulate`: runs whatever its block runs on a declared machine, and leaves everything as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from hwsim.datapaths import Datapath
from hwsim.datapaths import datapath as datapath_of
from hwsim.errors import ConfigError, not_allowed

from .engine import Engine, UnknownOps
from .machine import Machine
from .mode import EmulatorMode
from .observing import Observer
from .origins import Stored, mark_data, origin_of
from .phases import Phase
from .ports import Converter, Draws
from .records import Records, node_creation_hook
from .scales import Scales
from .watch import Watch

RECURRENT_BACKENDS: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
"""Whose recurrent layers are one operation with all GEMMs inside."""

WITHOUT_GEMM = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)
"""Modules whose weights select rows or multiply element by element."""


@contextmanager
def emulate(
    model: nn.Module,
    datapath: Datapath | str | Path | Mapping[str, Any],
    optimizer: Optimizer | None = None,
    seed: int = 0,
    unknown_ops: UnknownOps = "error",
    rank: int = 0,
    statistics: bool = False,
    converters: Mapping[str, Converter] | None = None,
    observer: Observer | None = None,
    watch: bool = False,
) -> Iterator[Machine]:
    """Run everything inside the block on a machine: forward, loss, backward and optimizer steps of `model`, unchanged.

    On entry the parameters are rounded to the datapath's weight format: the state that a run starts from. A run that goes on
    enters the block, loads its state inside it (model, machine, optimizer), and then trains; what it loads into a parameter is
    rounded too, which leaves stored weights as they are unless their scales are rounded themselves (NVFP4). Scaled dot-product
    attention runs as matrix products, recurrent layers and attention modules without fused kernels; the flags are restored.

    Args:
        model: the network; its modules name the sites.
        datapath: a Datapath, a name, the path of a YAML file, or a mapping.
        optimizer: whose steps count as training steps (those of its `base` where it wraps one, as PARQ does); without one
            those of every optimizer do.
        seed: of all stochastic rounding.
        unknown_ops: what an operation that the emulator does not know becomes: an `error`, or it may `pass` unrounded.
        rank: the data-parallel rank, for the random words of activations and gradients.
        statistics: whether ports keep count of what they do to the numbers (slower).
        converters: by the name of a port (`SITE/GEMM/ROLE`, `LAYER/vector`, `PARAMETER/weight`, ...), how it casts; all other
            ports pass tensors, and `SITE/GEMM/accumulator` keeps a unit. By default every port casts as declared.
        observer: is shown every GEMM.
        watch: whether to remember where NaN and infinity first appear in each step (`machine.not_finite`; slower).

    Raises:
        ConfigError: the datapath does not fit the model, or another block is active.
    """
    if unknown_ops not in ("error", "pass"):
        raise ConfigError(not_allowed("unknown_ops", unknown_ops, ("error", "pass")))
    if any(isinstance(mode, EmulatorMode) for mode in _get_current_dispatch_mode_stack()):
        raise ConfigError("emulate: a block is active already; allowed: one at a time")
    declared = datapath_of(datapath)
    _check_parameters(model)
    declared.check_layers([path for path, _ in model.named_modules() if path])
    declared = declared.placed(_gemm_layers(model))
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    records = Records(hooked=node_creation_hook is not None)
    engine = Engine(
        declared,
        Draws(seed, rank),
        unknown_ops,
        names,
        statistics,
        records,
        converters,
        observer,
        Scales(optimizer),
        Watch() if watch else None,
    )
    mode = EmulatorMode(engine)
    with ExitStack() as stack:
        _hold_weights(engine, model)
        stack.callback(engine.optimizer.release)
        stack.callback(engine.scales.release)
        _open_fused_kernels(stack)
        _follow_modules(stack, engine, mode, model)
        _follow_steps(stack, engine, mode, optimizer)
        if declared.optimizer.accumulate is not None:
            _follow_gradients(stack, engine, mode, names)
        if records.hooked:
            stack.enter_context(node_creation_hook(engine.clock.node_made))
        stack.enter_context(mode)
        yield Machine(engine, mode.rest)


def _gemm_layers(model: nn.Module) -> list[str]:
    """The modules that own a GEMM's matrix, in the model's own order.

    A matrix is called a weight or a projection, or is a stack of matrices; tokens, position tables and scales of channels are
    added or multiply element by element, and embeddings select rows.
    """
    return [
        path
        for path, module in model.named_modules()
        if not isinstance(module, WITHOUT_GEMM)
        and any(_is_matrix(f"{path.rpartition('.')[2]}.{name}", p) for name, p in module.named_parameters(recurse=False))
    ]


def _is_matrix(name: str, p: Tensor) -> bool:
    named = "weight" in name or "proj" in name.rpartition(".")[2]
    return p.dim() > 1 if named else p.dim() == 3 and min(p.shape) > 1


def _check_parameters(model: nn.Module) -> None:
    for name, p in model.named_parameters():
        if type(p.data) is not Tensor:
            raise ConfigError(
                f"model: parameter {name} is a {type(p.data).__name__}, whose operations the emulator does not see; allowed: "
                "plain tensors, and DistributedDataParallel for several processes (fully_shard is not emulated)"
            )


def _hold_weights(engine: Engine, model: nn.Module) -> None:
    owners: dict[nn.Parameter, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if p.is_floating_point():
            owners.setdefault(p, []).append(name)
    for p, paths in owners.items():
        weight = Stored("weight", paths[0], p, tuple(paths))
        engine.optimizer.hold(p, weight)
        engine.optimizer.enter(weight)


def _open_fused_kernels(stack: ExitStack) -> None:
    stack.enter_context(sdpa_kernel(SDPBackend.MATH))
    stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
    torch.backends.mha.set_fastpath_enabled(False)


def _follow_modules(stack: ExitStack, engine: Engine, mode: EmulatorMode, model: nn.Module) -> None:
    """Keep the module stack; recurrent layers run without the fused kernels of mkldnn and cuDNN."""
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ConfigError(
                f"model: {path or 'it'} is compiled TorchScript, whose modules cannot be followed; allowed: nn.Module"
            )
        _follow_module(stack, engine, mode, module, path)

    def data(_: nn.Module, args: Any, kwargs: Any) -> None:
        mark_data(args)
        mark_data(kwargs)

    stack.callback(model.register_forward_pre_hook(_hook(stack, data), with_kwargs=True).remove)


class _Hook:
    """A hook of a module: one with copies of the module, at rest after the block, and nothing where the module is saved."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[..., None] | None = None) -> None:
        self.run = run

    def __call__(self, *given: Any) -> None:
        if self.run is not None:
            self.run(*given)

    def __deepcopy__(self, memo: object) -> _Hook:
        return self

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()

    def rest(self) -> None:
        """The block has ended."""
        self.run = None


def _hook(stack: ExitStack, run: Callable[..., None]) -> _Hook:
    hook = _Hook(run)
    stack.callback(hook.rest)
    return hook


def _follow_module(stack: ExitStack, engine: Engine, mode: EmulatorMode, module: nn.Module, path: str) -> None:
    clock, layer = engine.clock, engine.sites.layer(path)
    flags: list[list[bool]] = []

    def enter(module: nn.Module, _: Any) -> None:
        if not all(p is None or isinstance(origin_of(p), Stored) for p in module._parameters.values()):
            with mode.rest():
                engine.optimizer.recall(module._parameters.values())
        clock.enter(layer, module.training)

    def leave(_: nn.Module, __: Any, ___: Any) -> None:
        clock.leave()

    def open_kernels(_: nn.Module, __: Any) -> None:
        flags.append([backend.enabled for backend in RECURRENT_BACKENDS])
        _enable(False, False)

    def close_kernels(_: nn.Module, __: Any, ___: Any) -> None:
        _enable(*flags.pop())

    if isinstance(module, nn.RNNBase):
        stack.callback(module.register_forward_pre_hook(_hook(stack, open_kernels)).remove)
        stack.callback(module.register_forward_hook(_hook(stack, close_kernels), always_call=True).remove)
    stack.callback(module.register_forward_pre_hook(_hook(stack, enter), prepend=True).remove)
    stack.callback(module.register_forward_hook(_hook(stack, leave), always_call=True).remove)


def _enable(*enabled: bool) -> None:
    for backend, value in zip(RECURRENT_BACKENDS, enabled, strict=True):
        backend.enabled = value


def _follow_gradients(stack: ExitStack, engine: Engine, mode: EmulatorMode, names: Mapping[Tensor, str]) -> None:
    """Round each parameter's gradient whenever a backward pass has added to it."""

    def added(p: Tensor) -> None:
        call = engine.clock.call(f"{names[p]}/accumulate", Phase.BACKWARD)
        with mode.rest():
            engine.accumulate(p, names[p], call)

    for p in names:
        if p.is_floating_point() or p.is_complex():
            needed = p.requires_grad
            p.requires_grad_()  # torch takes no hook of a frozen parameter, which may thaw inside the block
            stack.callback(p.register_post_accumulate_grad_hook(added).remove)  # type: ignore[no-untyped-call]
            p.requires_grad_(needed)


def _follow_steps(stack: ExitStack, engine: Engine, mode: EmulatorMode, optimizer: Optimizer | None) -> None:
    def read(stepping: Optimizer) -> None:
        with mode.rest():
            engine.scales.share(stepping)
            engine.loss.divide(stepping)
            engine.optimizer.read(stepping)

    def begin(
        stepping: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        engine.clock.begin_step()
        with mode.rest():
            engine.optimizer.begin(stepping)
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            read(stepping)
            return None

        def evaluated() -> Any:
            engine.loss.renew(stepping)
            loss = closure()
            read(stepping)
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": evaluated}
        return (args[0], evaluated, *args[2:]), kwargs

    def end(stepping: Optimizer, *_: Any) -> None:
        with mode.rest():
            engine.optimizer.end()
            engine.loss.stepped(stepping)
        engine.clock.end_step()
        if optimizer is None or stepping is getattr(optimizer, "base", optimizer):
            engine.draws.step += 1
            engine.clock.next_step()
            engine.copies.clear()
            engine.loss.end_step()
            with mode.rest():
                engine.scales.advance()

    stack.callback(register_optimizer_step_pre_hook(begin).remove)
    stack.callback(register_optimizer_step_post_hook(end).remove)
