"""The places where the machine acts: layers, and in each layer the three GEMMs with their ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from hwsim.casts import Cast
from hwsim.datapaths import Datapath, GemmPaths, LayerPath
from hwsim.formats import Draw
from hwsim.hadamard import signs
from hwsim.layering import FIRST_USE, OUTER_FIRST, Gemm, Operand
from hwsim.macs import Mac, mac

from .meter import Meter
from .origins import Origin, Stored
from .ports import Converter, Draws, Port
from .scales import Scales
from .stepping import Stepping

ACCUMULATOR = "accumulator"
RIGHT = ".right"
"""Ends the port's name of the second of two activations that are multiplied: it has random words and a kept scale of its own."""
NATIVE = mac("native")


@dataclass(frozen=True, slots=True)
class GemmPorts:
    """What one GEMM at one site is given, computed by, and written through.

    `left_axis` and `right_axis` are the axes of the canonical layouts that scales run along; `signs` those of the rotation that
    both operands go through before their casts, or None.
    """

    left: Port
    right: Port
    left_outer_first: bool
    right_outer_first: bool
    result: Port
    mac: Mac
    native: bool
    left_axis: int
    right_axis: int
    signs: Tensor | None


class Layer:
    """A module path, what is declared for it, and its vector unit: the port that it writes through, and its steps.

    `opened` does the steps that are declared; `steps` is the same where they act, else None.
    """

    __slots__ = ("declared", "opened", "path", "placed", "steps", "stochastic", "vector")

    def __init__(self, path: str, declared: LayerPath, vector: Port) -> None:
        self.path = path
        self.declared = declared
        self.vector = vector
        unit = declared.vector
        self.opened = None if unit is None or unit.steps is None else Stepping(unit.steps)
        self.steps = None if vector.cast is None else self.opened
        self.stochastic = unit is not None and unit.rounding.is_stochastic
        self.placed: dict[Stored, Site] = {}


class Site:
    """One contraction of a layer, in all its GEMMs; `declared` is what it runs on."""

    __slots__ = ("_gemms", "_ports", "declared", "layer", "name", "sites")

    def __init__(self, name: str, layer: Layer, sites: Sites, product: bool) -> None:
        self.name = name
        self.layer = layer
        self.declared: GemmPaths = layer.declared.of_products if product else layer.declared.gemm
        self.sites = sites
        self._ports: dict[tuple[str, str], Port] = {}
        self._gemms: dict[tuple[str, str, str], GemmPorts] = {}

    def port(self, gemm: Gemm, name: str) -> Port:
        """The cast of an operand role (see `RIGHT`), or of the `result`, of a GEMM."""
        port = self._ports.get((gemm, name))
        if port is None:
            role = name.removesuffix(RIGHT)
            cast = getattr(getattr(self.declared, gemm), role)
            if cast is not None and not cast.requantize and FIRST_USE.get(role, gemm) != gemm:
                self._ports[gemm, name] = self.port(FIRST_USE[role], name)
                return self._ports[gemm, name]
            port = self.sites.port(cast, f"{self.name}/{gemm}/{name}", ranked=role != "weight")
            self._ports[gemm, name] = port
        return port

    def ports(self, gemm: Gemm, left: Operand, right: Operand, names: tuple[str, str] | None = None) -> GemmPorts:
        """The ports of a GEMM with operands of these roles, by their names where these say more."""
        names = names or (left, right)
        found = self._gemms.get((gemm, *names))
        if found is None:
            mac = self.sites.unit(getattr(self.declared, gemm).mac, f"{self.name}/{gemm}", (left, right))
            found = self._gemms[gemm, *names] = GemmPorts(
                left=self.port(gemm, names[0]),
                right=self.port(gemm, names[1]),
                left_outer_first=(gemm, left) in OUTER_FIRST,
                right_outer_first=(gemm, right) in OUTER_FIRST,
                result=self.port(gemm, "result"),
                mac=mac,
                native=mac.is_native,
                left_axis=self._axis(gemm, left),
                right_axis=self._axis(gemm, right),
                signs=self._signs(gemm, left, right),
            )
        return found

    def _axis(self, gemm: Gemm, role: Operand) -> int:
        cast = getattr(getattr(self.declared, gemm), role)
        first = FIRST_USE[role] if cast is not None and not cast.requantize else gemm
        return -1 if (first, role) in OUTER_FIRST else -2

    def _signs(self, gemm: Gemm, left: Operand, right: Operand) -> Tensor | None:
        """Those of the rotation that either operand's cast declares; the same in every step."""
        path = getattr(self.declared, gemm)
        casts = [cast for role in (left, right) if (cast := getattr(path, role)) is not None]
        size = max((cast.rotation for cast in casts), default=0)
        if not size:
            return None
        return signs(size, Draw(self.sites.draws.seed, f"{self.name}/{gemm}/hadamard"))


class Sites:
    """Every layer and site of a run, made when it first runs."""

    def __init__(
        self,
        datapath: Datapath,
        draws: Draws,
        metered: bool,
        converters: Mapping[str, Converter] | None = None,
        scales: Scales | None = None,
    ) -> None:
        self.datapath = datapath
        self.converters = converters
        self.draws = draws
        self.metered = metered
        self.meters: dict[str, tuple[Meter, Cast]] = {}
        self.scales = scales or Scales(None)
        self._layers: dict[str, Layer] = {}
        self._sites: dict[tuple[str, bool], Site] = {}
        self.base = self.layer("")

    def layer(self, path: str) -> Layer:
        """The layer at a module path."""
        layer = self._layers.get(path)
        if layer is None:
            declared = self.datapath.layer(path)
            layer = self._layers[path] = Layer(path, declared, self.port(declared.vector, f"{path}/vector"))
        return layer

    def site(self, name: str, layer: Layer, product: bool = False) -> Site:
        """The site of a name; a `product` is one of two activations."""
        site = self._sites.get((name, product))
        if site is None:
            site = self._sites[name, product] = Site(name, layer, self, product)
        return site

    def owning(self, running: Layer, origin: Origin) -> Site | None:
        """The site of a weight: the running module if it owns it, else the module below it that does, else None."""
        weight = origin.weight
        if weight is None:
            return None
        site = running.placed.get(weight)
        if site is None:
            owner = _owner(weight.owners, running.path)
            if owner is None:
                return None
            module, _, parameter = owner.rpartition(".")
            site = running.placed[weight] = self.site(module if module and parameter == "weight" else owner, self.layer(module))
        return site

    def port(self, cast: Cast | None, site: str, ranked: bool = True) -> Port:
        """A port, with a meter where statistics are wanted; where any converters are given, only ports that have one act."""
        kept = self.scales.of(site, cast) if cast is not None and cast.kept else None
        place = site.removesuffix(RIGHT)
        if self.converters is not None:
            convert = self.converters.get(place)
            return Port(None, site, self.draws) if convert is None else Port(cast, site, self.draws, ranked, None, convert, kept)
        meter = None
        if self.metered and cast is not None:
            meter = self.meters.setdefault(place, (Meter(), cast))[0]
        return Port(cast, site, self.draws, ranked, meter, kept=kept)

    def unit(self, declared: Mac, place: str, operands: tuple[Operand, Operand]) -> Mac:
        """The unit of a GEMM: torch's own where it is not kept; with operands that are not cast, one that takes any values."""
        if self.converters is None:
            return declared
        if f"{place}/{ACCUMULATOR}" not in self.converters:
            return NATIVE
        cast = all(f"{place}/{role}" in self.converters for role in operands)
        return declared if cast else declared.model_copy(update={"operands": None, "scales": None})


def _owner(owners: tuple[str, ...], running: str) -> str | None:
    """The parameter's name that belongs to the running module, or to one below it."""
    for owner in owners:
        if owner.rpartition(".")[0] == running:
            return owner
    prefix = f"{running}." if running else ""
    return next((owner for owner in owners if owner.startswith(prefix)), None)


def storage_id(x: Tensor) -> int:
    """What tells storages apart while they live."""
    return int(x.untyped_storage()._cdata)
