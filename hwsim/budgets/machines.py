"""The error of a datapath, split over the roles in which it rounds: the machines that keep some of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeVar, get_args

from hwsim.datapaths import Datapath, GemmPath, GemmPaths, LayerPath, OptimizerPath, Products
from hwsim.errors import ConfigError, not_allowed
from hwsim.layering import GEMMS, OPERANDS
from hwsim.macs import Mac, mac

Role = Literal["input", "weight", "grad_output", "result", "accumulator", "vector", "optimizer"]
ROLES: tuple[Role, ...] = get_args(Role)

L = TypeVar("L", bound=LayerPath)


def roles(datapath: Datapath) -> tuple[Role, ...]:
    """The roles in which a datapath rounds, in the order of `ROLES`."""
    gemms = [getattr(paths, gemm) for _, paths in datapath.gemm_paths for gemm in GEMMS]
    present = {role for role in (*OPERANDS, "result") if any(getattr(gemm, role) for gemm in gemms)}
    if not all(gemm.mac.is_native for gemm in gemms):
        present.add("accumulator")
    if any(layer.vector for _, layer in datapath.layer_paths):
        present.add("vector")
    if datapath.optimizer != OptimizerPath():
        present.add("optimizer")
    return tuple(role for role in ROLES if role in present)


def alone(datapath: Datapath, role: Role) -> Datapath:
    """The machine that rounds in one role as `datapath` does, and nowhere else.

    Raises:
        ConfigError: the datapath does not round in that role.
    """
    return keeping(datapath, {_present(datapath, role)}, f"only {role}")


def without(datapath: Datapath, role: Role) -> Datapath:
    """The machine that rounds as `datapath` does, but not in one role.

    Raises:
        ConfigError: the datapath does not round in that role.
    """
    return keeping(datapath, set(roles(datapath)) - {_present(datapath, role)}, f"all but {role}")


def twin(datapath: Datapath) -> Datapath:
    """The machine that rounds nowhere: the model in its own precision."""
    return Datapath(name=f"{datapath.name}: none")


def keeping(datapath: Datapath, kept: Collection[Role], label: str) -> Datapath:
    """The machine that rounds as `datapath` does in the kept roles, and nowhere else; its name ends in the label.

    An accumulator that is kept without its operands' casts takes operands of any format.
    """
    overrides = {pattern: _layer(layer, kept) for pattern, layer in datapath.overrides.items()}
    optimizer = datapath.optimizer if "optimizer" in kept else OptimizerPath()
    edges = {name: edge and _layer(edge, kept) for name, edge in (("first", datapath.first), ("last", datapath.last))}
    changes = {"name": f"{datapath.name}: {label}", "optimizer": optimizer, "overrides": overrides, **edges}
    return _layer(datapath, kept).model_copy(update=changes)


def _present(datapath: Datapath, role: Role) -> Role:
    if role not in roles(datapath):
        raise ConfigError(f"budget of {datapath.name!r}: {not_allowed('role', role, roles(datapath))}")
    return role


def _layer(layer: L, kept: Collection[Role]) -> L:
    products = layer.products and Products(gemm=_gemms(layer.products.gemm, kept))
    vector = layer.vector if "vector" in kept else None
    return layer.model_copy(update={"gemm": _gemms(layer.gemm, kept), "vector": vector, "products": products})


def _gemms(paths: GemmPaths, kept: Collection[Role]) -> GemmPaths:
    return GemmPaths(**{gemm: _gemm(getattr(paths, gemm), kept) for gemm in GEMMS})


def _gemm(path: GemmPath, kept: Collection[Role]) -> GemmPath:
    casts = {role: getattr(path, role) if role in kept else None for role in (*OPERANDS, "result")}
    return path.model_copy(update={**casts, "mac": _unit(path.mac, kept)})


def _unit(unit: Mac, kept: Collection[Role]) -> Mac:
    if "accumulator" not in kept:
        return mac("native")
    return unit if set(OPERANDS) <= set(kept) else unit.model_copy(update={"operands": None, "scales": None})
