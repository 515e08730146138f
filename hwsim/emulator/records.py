"""What the forward pass leaves for the backward pass: the layer of every autograd node, and of a GEMM's node its operands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

if TYPE_CHECKING:
    from hwsim.layering import Operand

    from .calls import Region
    from .sites import Layer, Site

KEY = "hwsim"
node_creation_hook: Any = getattr(torch.autograd.graph, "node_creation_hook", None)


class Note:
    """A node's layer, and the checkpointed region it lies in."""

    __slots__ = ("layer", "region")

    def __init__(self, layer: Layer, region: Region | None) -> None:
        self.layer = layer
        self.region = region


class GemmNote(Note):
    """The forward GEMM that made a node: its site, call number, and each operand's storage and role.

    `rows` and `columns` are those of its result. `operands` are the left and right operands themselves where the gradient through
    their casts depends on them.
    """

    __slots__ = ("call", "columns", "left", "left_role", "operands", "right", "right_role", "rows", "site")

    def __init__(
        self, site: Site, call: int, region: Region | None, left: int, right: int, left_role: Operand, right_role: Operand
    ) -> None:
        super().__init__(site.layer, region)
        self.site = site
        self.call = call
        self.left, self.right = left, right
        self.left_role, self.right_role = left_role, right_role
        self.rows = self.columns = 0
        self.operands: tuple[Tensor | None, Tensor | None] = (None, None)


class Records:
    """Notes by autograd node.

    An operation runs after its node got its sequence number and before the node is complete: a note is first put by that
    number, and moved onto the node by `torch.autograd.graph.node_creation_hook` where torch has it. Elsewhere (or with
    `hooked` false) it stays under the number until the step ends.
    """

    def __init__(self, hooked: bool) -> None:
        self.hooked = hooked
        self._pending: dict[int, Note] = {}

    def put(self, note: Note) -> None:
        """Note the node of the operation that is running."""
        self._pending[last_number()] = note

    def put_first(self, number: int, note: Note) -> None:
        """Note a node unless it has been noted."""
        self._pending.setdefault(number, note)

    def take(self, number: int) -> Note | None:
        """Remove a note that waits for its node."""
        return self._pending.pop(number, None)

    def of(self, node: Node) -> Note | None:
        """The note of a node."""
        note = metadata(node).get(KEY)
        return note if note is not None else self._pending.get(node._sequence_nr())

    def clear(self) -> None:
        """Forget the notes that wait for their nodes."""
        if not self.hooked:
            self._pending.clear()


def metadata(node: Any) -> dict[str, Note]:
    """What Python code keeps on a node."""
    notes: dict[str, Note] = node.metadata
    return notes


def last_number() -> int:
    """The sequence number of the node that was made last."""
    return int(torch._C._autograd._get_sequence_nr()) - 1
