"""Which part of the training loop runs, and in which module, without any marking by the user."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import Enum
from typing import Any

import torch
import torch.utils.checkpoint
from torch.autograd.graph import Node

from hwsim.errors import ConfigError

from .calls import FIRST_EVALUATION, Calls, Region, Session
from .observing import Observer
from .origins import Stored, origin_of
from .records import KEY, GemmNote, Note, Records, last_number, metadata
from .sites import Layer, Sites


class Phase(Enum):
    """The parts of a training loop."""

    __hash__ = object.__hash__  # one of its kind, and hashed at every operation: Enum's own is in Python

    ENTRY = "entry"
    FORWARD = "forward"
    EVALUATION = "evaluation"
    LOSS = "loss"
    BACKWARD = "backward"
    RECOMPUTE = "recompute"
    CALLBACK = "callback"
    OPTIMIZER = "optimizer"
    OTHER = "other"


class Frame:
    """A running module, and how often each operation has run in it."""

    __slots__ = ("layer", "note", "ordinals", "task")

    def __init__(self, layer: Layer, task: int) -> None:
        self.layer = layer
        self.task = task
        self.note = Note(layer, None)
        self.ordinals: dict[str, int] = {}

    def ordinal(self, op: str) -> int:
        """The number of this occurrence of an operation, from 0."""
        number = self.ordinals.get(op, 0)
        self.ordinals[op] = number + 1
        return number

    def copy(self) -> Frame:
        """The frame as it is now."""
        frame = Frame(self.layer, self.task)
        frame.ordinals = dict(self.ordinals)
        return frame


class Clockwork:
    """Follows the training loop: the module stack, the phase, the notes on nodes and the call numbers."""

    def __init__(self, sites: Sites, records: Records, observer: Observer | None = None) -> None:
        self.sites = sites
        self.observer = observer
        self.records = records
        self.calls = Calls()
        self.frames: list[Frame] = []
        self.stepping: int | None = None
        self.evaluating = False
        self._outside = Frame(sites.base, -1)
        self._session: Session | None = None
        self._regions: dict[Hashable, Region] = {}

    def enter(self, layer: Layer, training: bool) -> None:
        """A module begins."""
        if not self.frames:
            self.evaluating = not training and not torch.is_grad_enabled()
        self.frames.append(Frame(layer, graph_task()))

    def leave(self) -> None:
        """The innermost module ends."""
        self.frames.pop()

    def begin_step(self) -> None:
        """The optimizer begins: outside of the backward pass, or in a hook of it."""
        self.stepping = graph_task()

    def end_step(self) -> None:
        """The optimizer has ended."""
        self.stepping = None

    def next_step(self) -> None:
        """A new training step: numbers start again."""
        self.calls.clear()
        self.records.clear()
        self._regions.clear()
        self._session = None
        self._outside.ordinals.clear()

    def state_dict(self) -> dict[str, dict[str, int]]:
        """The numbers that outlive a step: of calls and of operations outside of all modules since it ended."""
        return {"calls": self.calls.state_dict(), "outside": dict(self._outside.ordinals)}

    def load_state_dict(self, state: dict[str, dict[str, int]]) -> None:
        """Count on from saved numbers."""
        self.calls.load_state_dict(state["calls"])
        self._outside.ordinals = dict(state["outside"])

    def phase(self) -> Phase:
        """What runs now."""
        task = graph_task()
        if self.stepping is not None and self.stepping == task and not self.frames and not torch.is_grad_enabled():
            return Phase.OPTIMIZER
        if task != -1:
            if torch._C._current_autograd_node() is None:
                return Phase.CALLBACK
            recomputed = torch.is_grad_enabled() or (self.frames and self.frames[-1].task == task)
            return Phase.RECOMPUTE if recomputed else Phase.BACKWARD
        if self.frames:
            return Phase.EVALUATION if self.evaluating else Phase.FORWARD
        return Phase.LOSS if torch.is_grad_enabled() else Phase.OTHER

    def note(self) -> Note | None:
        """What the forward pass noted on the backward node that runs now."""
        node = torch._C._current_autograd_node()
        return self.records.of(node) if node is not None else None

    def frame(self, phase: Phase) -> Frame:
        """The module that runs now, or the place outside of all modules."""
        if phase is Phase.RECOMPUTE:
            session = self._recomputation()
            return self.frames[-1] if self.frames and self.frames[-1].task == graph_task() else session.frame
        return self.frames[-1] if self.frames else self._outside

    def layer(self, phase: Phase) -> Layer:
        """The layer that an operation other than a GEMM belongs to."""
        if phase is Phase.BACKWARD:
            note = self.note()
            return note.layer if note is not None else self._adding_up()
        return self.frame(phase).layer

    @property
    def accumulates(self) -> bool:
        """Whether the backward pass adds to a parameter's gradient now."""
        return hasattr(torch._C._current_autograd_node(), "variable")

    def _adding_up(self) -> Layer:
        """The layer of the parameter whose gradient is added up, in a node that may be older than the block."""
        parameter = getattr(torch._C._current_autograd_node(), "variable", None)
        known = None if parameter is None else origin_of(parameter)
        if isinstance(known, Stored) and known.owners:
            return self.sites.layer(known.owners[0].rpartition(".")[0])
        return self.sites.base

    def region(self, phase: Phase) -> Region | None:
        """The checkpointed region that the forward pass is in.

        Non-reentrant checkpointing packs saved tensors with a hook of its own for each region; reentrant checkpointing runs
        the region without gradients right after its own node was made.
        """
        if phase is not Phase.FORWARD:
            return None
        key: Hashable
        if torch.is_grad_enabled():
            hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
            if hooks is None:
                return None
            key = hooks[0]
        else:
            key = last_number()
        region = self._regions.get(key)
        if region is None:
            region = self._regions[key] = Region()
        region.enter(self.frames[-1], len(self.frames))
        return region

    def ordinal(self, op: str, phase: Phase) -> int:
        """The number of this occurrence of an operation in the running module."""
        self.region(phase)
        return self.frame(phase).ordinal(op)

    def call(self, site: str, phase: Phase) -> int:
        """The call number of a site that runs now in the forward pass, the loss or a recomputation."""
        if phase is Phase.RECOMPUTE:
            return self.calls.recompute(site, self._recomputation())
        if phase is Phase.EVALUATION:
            return FIRST_EVALUATION + self.calls.forward(f"evaluation {site}", None)
        return self.calls.forward(site, self.region(phase))

    def node_made(self, node: Node) -> None:
        """Note the layer, or the GEMM, on a node that was just completed."""
        note = self.records.take(node._sequence_nr())
        if note is None:
            note = self.current_note()
        if not torch.is_grad_enabled() or isinstance(node, torch.autograd.function.BackwardCFunction):
            region = self._regions.get(node._sequence_nr())
            if region is not None:
                note = Note(note.layer, region)
        metadata(node)[KEY] = note
        if self.observer is not None and isinstance(note, GemmNote):
            self.observer.node(node, note)

    def current_note(self) -> Note:
        """The layer that runs now, for the node of an operation that is no GEMM."""
        phase = self.phase()
        frame = self.frame(phase)
        region = self.region(phase)
        return frame.note if region is None else Note(frame.layer, region)

    def _recomputation(self) -> Session:
        node = torch._C._current_autograd_node()
        key = (graph_task(), node._sequence_nr())
        if self._session is None or self._session.key != key:
            if not self._is_recomputation(node):
                raise ConfigError(
                    "gradients of gradients: backward(create_graph=True) ran; allowed under emulation: first-order gradients and "
                    "recomputation by torch.utils.checkpoint"
                )
            note = self.records.of(node)
            region = note.region if note is not None else None
            self._session = Session(key, region or self._regions.get(node._sequence_nr()), self._outside)
        return self._session

    def _is_recomputation(self, node: Node) -> bool:
        return (
            isinstance(node, torch.autograd.function.BackwardCFunction)
            or _is_checkpoint(torch._C._autograd._top_saved_tensors_default_hooks(True))
            or bool(self.frames and self.frames[-1].task == graph_task())
        )


def _is_checkpoint(hooks: tuple[Callable[..., Any], Callable[..., Any]] | None) -> bool:
    """Whether the hooks that pack and unpack saved tensors are those of a checkpoint's recomputation."""
    return hooks is not None and hooks[0].__module__ == torch.utils.checkpoint.__name__


graph_task: Callable[[], int] = torch._C._current_graph_task_id
"""The backward pass that runs in this thread, or -1."""
