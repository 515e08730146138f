"""A whole machine: a cast for each operand of each GEMM, a MAC unit for each GEMM, the vector unit, the optimizer unit."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from hwsim.casts import Cast, CastField, ResultField, WireField
from hwsim.catalogue import Catalogue
from hwsim.config import Document, load, validate
from hwsim.config.record import Record
from hwsim.errors import ConfigError, not_allowed
from hwsim.feasible import check_operands
from hwsim.layering import GEMMS, OPERANDS, OPERANDS_OF, Gemm, Operand, patched, spread, with_products
from hwsim.macs import Mac, mac
from hwsim.vector import VectorField


def _mac(given: Any, info: ValidationInfo) -> Any:
    return mac(given, info.context)


class GemmPath(Record):
    """One of a layer's three GEMMs: the casts of its operands, the unit that computes it, the cast of what it hands on.

    An absent cast leaves the tensor in the model's own precision.
    """

    input: CastField | None = None
    weight: CastField | None = None
    grad_output: CastField | None = None
    result: ResultField | None = None
    mac: Annotated[Mac, BeforeValidator(_mac)] = mac("native")


class GemmPaths(Record):
    """The three GEMMs of a layer; in YAML `all` stands for the three, and each overrides it key by key.

    A format's name alone puts all operands and results in that format.
    """

    output: GemmPath = GemmPath()
    grad_input: GemmPath = GemmPath()
    grad_weight: GemmPath = GemmPath()

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, given: Any) -> Any:
        return spread(given)

    @model_validator(mode="after")
    def _possible(self) -> GemmPaths:
        for gemm in GEMMS:
            path = getattr(self, gemm)
            casts = {role: cast for role in OPERANDS_OF[gemm] if (cast := getattr(path, role)) is not None}
            check_operands(gemm, casts, path.mac)
        return self


class LossScaling(Record):
    """A factor on the loss: `growth` times larger after `interval` finite steps, `backoff` times after one that is not."""

    initial: Annotated[float, Field(gt=0)] = 65536.0
    growth: Annotated[float, Field(ge=1)] = 2.0
    backoff: Annotated[float, Field(gt=0, le=1)] = 0.5
    interval: Annotated[int, Field(ge=1)] = 2000


class OptimizerPath(Record):
    """The optimizer unit: the gradient as it reads it, each state, the update and the weight as it writes them.

    `accumulate` is what each parameter's gradient is kept in while backward passes add to it; without it the vector unit adds.
    `momentum` is SGD's momentum and Adam's first moment, `variance` Adam's second moments, `state` every other state.
    `round_states` says when states are rounded: with `each_write` an operation of the step that reads a state after it was
    written reads it rounded, as where operations go through memory one by one; with `each_step` the step is one kernel that
    computes with what it has in registers, and rounds states when it ends.
    """

    accumulate: ResultField | None = None
    gradient: ResultField | None = None
    momentum: ResultField | None = None
    variance: ResultField | None = None
    state: ResultField | None = None
    update: ResultField | None = None
    weight: ResultField | None = None
    round_states: Literal["each_write", "each_step"] = "each_write"


def _multiplies_activations(gemm: GemmPaths) -> GemmPaths:
    """Refuse an `input` that the unit of `grad_input` cannot take, where a layer has its weight."""
    path = gemm.grad_input
    casts: dict[Operand, Cast | None] = {"grad_output": path.grad_output, "input": path.input}
    check_operands("grad_input", {role: cast for role, cast in casts.items() if cast is not None}, path.mac, tuple(casts))
    return gemm


class Products(Record):
    """What products of two activations run on; their gradients, too, are of `input`s, and casts of `weight` have no part."""

    gemm: Annotated[GemmPaths, AfterValidator(_multiplies_activations)]


class LayerPath(Record):
    """What a layer runs on; without `products`, products of two activations run on its `gemm` too."""

    gemm: GemmPaths = GemmPaths()
    vector: VectorField | None = None
    products: Products | None = None

    @property
    def of_products(self) -> GemmPaths:
        """What products of two activations run on."""
        return self.gemm if self.products is None else self.products.gemm


class Edge(LayerPath):
    """What the first or the last layers of a model run on, where no override says otherwise: `layers` of them, or a `share`."""

    layers: Annotated[int, Field(ge=1)] | None = None
    share: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Edge:
        if (self.layers is None) == (self.share is None):
            raise ValueError(f"got layers {self.layers} and share {self.share}; allowed: one of the two")
        return self

    def count(self, layers: int) -> int:
        """How many of so many layers: at least one."""
        return min(self.layers or ceil((self.share or 0) * layers), layers)


class Datapath(LayerPath):
    """A whole machine.

    Args:
        name: what reports call it.
        gemm: the three GEMMs of every layer.
        products: GEMMs without a weight among their operands (attention's q k^T and p v), where they differ from the layers':
            `{gemm: ...}`, completed by the `gemm` beside it.
        vector: the cast on the result of every operation that is no GEMM, and the steps inside softmax, losses and norms.
        optimizer: the optimizer unit.
        loss_scaling: the factor on the loss, or none.
        wire: the format of gradients between data-parallel processes, or none.
        first, last: what the first and the last of the layers with GEMM weights run on, in the model's own order.
        overrides: shell-like patterns of layer paths, each with what differs there; a layer may match one at most. Where an
            override, or an edge, says `gemm` and no `products`, the products in that layer run on that `gemm`.
        description, source: for readers.
    """

    name: str = ""
    optimizer: OptimizerPath = OptimizerPath()
    loss_scaling: LossScaling | None = None
    wire: WireField | None = None
    first: Edge | None = None
    last: Edge | None = None
    overrides: dict[str, LayerPath] = Field(default_factory=dict)
    description: str = ""
    source: str = ""

    def __str__(self) -> str:
        return self.name or repr(self)

    @model_validator(mode="before")
    @classmethod
    def _complete_overrides(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        base = with_products({key: given[key] for key in ("gemm", "vector", "products") if key in given})
        completed = {"products": base["products"]} if "products" in base else {}
        completed |= {edge: patched(base, given[edge]) for edge in ("first", "last") if isinstance(given.get(edge), Mapping)}
        if isinstance(given.get("overrides"), Mapping):
            completed["overrides"] = {pattern: patched(base, patch) for pattern, patch in given["overrides"].items()}
        return {**given, **completed}

    @property
    def layer_paths(self) -> tuple[tuple[str, LayerPath], ...]:
        """All that layers may run on: the machine's own under an empty name, the overrides by pattern, `first` and `last`."""
        edges = tuple((name, edge) for name, edge in (("first", self.first), ("last", self.last)) if edge is not None)
        return (("", self), *self.overrides.items(), *edges)

    @property
    def gemm_paths(self) -> tuple[tuple[str, GemmPaths], ...]:
        """The GEMMs of each, and of their products where these differ, under the name and `products`."""
        found: list[tuple[str, GemmPaths]] = []
        for name, layer in self.layer_paths:
            found.append((name, layer.gemm))
            if layer.products is not None:
                found.append((f"{name} products".strip(), layer.products.gemm))
        return tuple(found)

    def layer(self, path: str) -> LayerPath:
        """What the layer at a module path runs on.

        Raises:
            ConfigError: two overrides match it.
        """
        matching = [pattern for pattern in self.overrides if fnmatch.fnmatchcase(path, pattern)]
        if len(matching) > 1:
            raise ConfigError(
                f"overrides: layer {path!r} matches {' and '.join(map(repr, matching))}; allowed: one pattern a layer"
            )
        return self.overrides[matching[0]] if matching else self

    def placed(self, layers: Sequence[str]) -> Datapath:
        """The same machine for a model whose layers with GEMM weights are these: first and last ones among its overrides."""
        found: dict[str, LayerPath] = {}
        for edge, chosen in ((self.last, layers[::-1]), (self.first, layers)):
            if edge is not None:
                own = LayerPath(gemm=edge.gemm, vector=edge.vector, products=edge.products)
                found |= {path: own for path in chosen[: edge.count(len(layers))] if self.layer(path) is self}
        return self.model_copy(update={"overrides": {**self.overrides, **found}, "first": None, "last": None}) if found else self

    def check_layers(self, paths: list[str]) -> None:
        """Refuse overrides that match no layer, or a layer twice.

        Raises:
            ConfigError: names the pattern and the layers there are.
        """
        for path in paths:
            self.layer(path)
        for pattern in self.overrides:
            if not fnmatch.filter(paths, pattern):
                raise ConfigError(f"overrides: {pattern!r} matches no layer; allowed: patterns of {', '.join(paths)}")


def datapath(given: Datapath | str | Path | Mapping[str, Any], catalogue: Catalogue | None = None) -> Datapath:
    """A Datapath from itself, a name of the catalogue, the path of a YAML file, or a mapping.

    A file holds `datapath:`, and may declare `formats:` and `macs:` beside it.

    Raises:
        ConfigError: no such name, or a wrong declaration, with file, line and YAML path.
    """
    if isinstance(given, Datapath):
        return given
    catalogue = catalogue or Catalogue()
    if isinstance(given, Mapping):
        return _validated(Document({"datapath": given}, ""), ("datapath",), catalogue)
    if isinstance(given, Path) or given.endswith((".yaml", ".yml")):
        document = load(given)
        return _validated(document, ("datapath",), Catalogue.of(document))
    if given not in catalogue.names("datapaths"):
        raise ConfigError(not_allowed("datapath", given, catalogue.names("datapaths")))
    found = catalogue.find("datapaths", given)
    own = catalogue if given in catalogue.datapaths else Catalogue.of(found.document)
    return _validated(found.document, found.path, own).model_copy(update={"name": given})


def _validated(document: Document, path: tuple[str | int, ...], catalogue: Catalogue) -> Datapath:
    return validate(document, Datapath, path, catalogue, synonyms=dict.fromkeys(GEMMS, "all"))


__all__ = [
    "GEMMS",
    "OPERANDS",
    "Datapath",
    "Gemm",
    "GemmPath",
    "GemmPaths",
    "LayerPath",
    "Operand",
    "OptimizerPath",
    "Products",
    "datapath",
]
