"""Matrix products: mm, addmm, bmm, baddbmm, mv, addmv, dot, in the forward and the backward pass."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hwsim.layering import Gemm, Operand

from .observing import Dots, Factor, Product
from .operations import GEMM_OPERANDS
from .origins import PLAIN, Origin, Role, note, origin_of
from .phases import Phase
from .products import carried, cast_operand, emulated, rotated, widens
from .records import GemmNote
from .sites import RIGHT, GemmPorts, Site, storage_id

if TYPE_CHECKING:
    from .engine import Engine
    from .plans import Plan
    from .ports import Port


class Place:
    """Where a GEMM runs: site, which of the three, call number, its operands' roles and the names of their ports."""

    __slots__ = ("call", "forward", "gemm", "left", "names", "right", "site", "target")

    def __init__(
        self,
        site: Site,
        gemm: Gemm,
        call: int,
        left: Operand,
        right: Operand,
        names: tuple[str, str],
        target: int | None = None,
    ) -> None:
        self.site = site
        self.names = names
        self.gemm = gemm
        self.call = call
        self.left, self.right = left, right
        self.target = target
        self.forward: GemmNote | None = None


def run_gemm(engine: Engine, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one matrix product on the site's engine.

    The addend of addmm, baddbmm and addmv (a bias) joins after the unit's sum, before the result's cast, in the carrier: that of
    the operands, or float32 where a rotation or a scale has made float32 of half precision. Products of whole numbers are the
    program's own arithmetic, which no cast is for.
    """
    i, j = GEMM_OPERANDS[plan.name]
    left, right = args[i], args[j]
    if not (left.is_floating_point() or left.is_complex()):
        return engine.run_move(plan, args, kwargs)
    phase = engine.clock.phase()
    flops = 2 * left.numel() * (right.shape[-1] if right.dim() > 1 else 1)
    if phase is Phase.OPTIMIZER:
        return engine.run_update(plan, args, kwargs, flops)
    place = placed_backward(engine, plan.name, left, right) if phase is Phase.BACKWARD else None
    place = place or placed_forward(engine, plan.name, left, right, phase)
    ports = place.site.ports(place.gemm, place.left, place.right, place.names)
    wide = widens(ports, left.dtype)
    given = (carried(left), carried(right)) if wide else (left, right)
    a, b = rotated(ports, *_matrix(*given))
    seen: list[Dots] | None = None if engine.observer is None or phase is Phase.RECOMPUTE else []
    if ports.native and a.dtype is given[0].dtype:
        operands = list(args)
        again = torch.is_grad_enabled() and left.requires_grad and right.requires_grad
        side = ports.left, a, True, ports.left_outer_first, place.call, ports.left_axis, engine.copies, place.left, again
        operands[i] = _as(left, cast_operand(*side))
        side = ports.right, b, False, ports.right_outer_first, place.call, ports.right_axis, engine.copies, place.right, again
        operands[j] = _as(right, cast_operand(*side))
        if wide:
            product = torch.matmul(*_matrix(operands[i], operands[j]))
            out = _finished(plan, product, _addend(plan, args, kwargs), args, kwargs)
        else:
            out = plan.func(*operands, **kwargs)
    else:
        product = emulated(place.site, ports, a, b, place.gemm, place.call, seen)
        addend = _addend(plan, args, kwargs)
        if seen:
            seen[0] = _followed(seen[0], plan, args, kwargs, addend)
        out = _finished(plan, product, addend, args, kwargs)
    sizes = left.numel(), right.numel(), out.numel()
    engine.audit.gemm((phase, plan.name, place.site, place.gemm, place.left, place.right), flops, *sizes)
    out = engine.handed_on(ports.result, out, plan, place.call)
    if engine.observer is not None and seen is not None:
        shown = _shown(place, ports, given[0], given[1], out, kwargs.get("alpha", 1))
        engine.observer.product(replace(shown, dots=seen[0]) if seen else shown)
    engine.see(phase, plan.label, f"{place.site.name}/{place.gemm}", out, left, right)
    if place.forward is not None:
        out = _through(place, place.forward, out)
    note(out, PLAIN[Role.GRAD if phase is Phase.BACKWARD else _result_role(left, right)])
    return out


def placed_forward(engine: Engine, op: str, left: Tensor, right: Tensor, phase: Phase) -> Place:
    """The place of a forward GEMM; leaves a note for its gradients."""
    layer = engine.clock.frame(phase).layer
    a, b = origin_of(left), origin_of(right)
    left_role, right_role = _roles(engine, a, b, phase)
    site = engine.site(op, b if right_role == "weight" else a if left_role == "weight" else None, layer, phase)
    call = engine.clock.call(site.name, phase)
    if torch.is_grad_enabled() and (left.requires_grad or right.requires_grad):
        region = engine.clock.region(phase)
        made = GemmNote(site, call, region, storage_id(left), storage_id(right), left_role, right_role)
        made.rows, made.columns = left.shape[-2] if left.dim() > 1 else 1, right.shape[-1] if right.dim() > 1 else 1
        made.operands = _remembered(site, left_role, left), _remembered(site, right_role, right)
        engine.records.put(made)
    return Place(site, "output", call, left_role, right_role, (left_role, _second(left_role, right_role)))


def placed_backward(engine: Engine, op: str, left: Tensor, right: Tensor) -> Place | None:
    """The place of a backward GEMM: the gradient of the forward operand that is not among its own operands."""
    found = engine.clock.note()
    a, b = origin_of(left).role, origin_of(right).role
    left_is_gradient = a in (Role.GRAD, Role.CONST)
    if not isinstance(found, GemmNote):
        other = b if left_is_gradient else a
        layer = found.layer if found is not None else engine.sites.base
        site = engine.site(op, origin_of(right if left_is_gradient else left), layer, Phase.BACKWARD)
        kept: Operand = "weight" if other is Role.WEIGHT else "input"
        gemm: Gemm = "grad_input" if kept == "weight" else "grad_weight"
        call = engine.clock.call(f"{site.name}/{gemm}", Phase.BACKWARD)
        return _backward_place(site, gemm, call, kept, left_is_gradient, kept)
    if left_is_gradient and b in (Role.GRAD, Role.CONST):
        left_is_gradient = storage_id(left) not in (found.left, found.right)
    kept_tensor, kept_role = (right, b) if left_is_gradient else (left, a)
    kept_left = _is_left(found, kept_tensor, kept_role, left_is_gradient, left.shape[-1])
    kept, target = (found.left_role, found.right_role) if kept_left else (found.right_role, found.left_role)
    gemm = "grad_weight" if target == "weight" else "grad_input"
    name = kept if kept_left else _second(found.left_role, found.right_role)
    place = _backward_place(found.site, gemm, found.call, kept, left_is_gradient, name, target=int(kept_left))
    place.forward = found if found.operands[int(kept_left)] is not None else None
    return place


def _backward_place(
    site: Site, gemm: Gemm, call: int, kept: Operand, left_is_gradient: bool, name: str, target: int | None = None
) -> Place:
    if left_is_gradient:
        return Place(site, gemm, call, "grad_output", kept, ("grad_output", name), target)
    return Place(site, gemm, call, kept, "grad_output", (name, "grad_output"), target)


def _second(left: Operand, right: Operand) -> str:
    """The name of the right operand's port."""
    return right + RIGHT if left == right else right


def _shown(place: Place, ports: GemmPorts, left: Tensor, right: Tensor, out: Tensor, alpha: float) -> Product:
    a, b = rotated(ports, *_matrix(left, right))

    def cast_left(port: Port) -> Tensor:
        return _as(left, cast_operand(port, a, True, ports.left_outer_first, place.call, ports.left_axis))

    def cast_right(port: Port) -> Tensor:
        return _as(right, cast_operand(port, b, False, ports.right_outer_first, place.call, ports.right_axis))

    first, second = place.names
    factors = Factor(place.left, _as(left, a), cast_left, first), Factor(place.right, _as(right, b), cast_right, second)

    def multiply(left: Tensor, right: Tensor) -> Tensor:
        return alpha * (left @ right)

    return Product(place.site, place.gemm, place.call, factors, out, multiply, place.target, _is_flipped(place))


def _remembered(site: Site, role: Operand, x: Tensor) -> Tensor | None:
    return x.detach() if site.port("output", role).estimates else None


def _through(place: Place, forward: GemmNote, out: Tensor) -> Tensor:
    """The gradient of a forward operand, given that of what its port made of it, in the canonical layout."""
    right = place.target == 1
    operand, role = forward.operands[int(right)], forward.right_role if right else forward.left_role
    if operand is None:
        return out
    flipped = _is_flipped(place)
    if operand.dim() > 1 and right:
        operand, flipped = operand.mT, not flipped
    name = _second(forward.left_role, role) if right else role
    grad = place.site.port("output", name).through(operand, out.mT if flipped else out)
    return grad.mT if flipped else grad


def _is_flipped(place: Place) -> bool:
    """Whether a backward GEMM makes the transpose of its forward operand's gradient."""
    return place.target is not None and (place.left == "grad_output") is (place.target == 1)


def _is_left(found: GemmNote, kept: Tensor, role: Role, after_gradient: bool, contracted: int) -> bool:
    """Whether the operand that a backward GEMM kept is the forward GEMM's left one.

    Of two alike what is summed over tells, the columns with the right one and the rows with the left one, and of square batches
    the order: the gradient comes first with the right one. Else storage does, which is gone where the operand was recomputed or
    saved elsewhere (another may lie there then), and last the role.
    """
    alike = found.left_role == found.right_role
    if alike and found.rows != found.columns:
        return contracted == found.rows
    if alike and kept.dim() > 2:
        return not after_gradient
    place = storage_id(kept)
    if (place == found.left) is not (place == found.right):
        return place == found.left
    return not after_gradient if alike else found.left_role == ("weight" if role is Role.WEIGHT else "input")


def _roles(engine: Engine, a: Origin, b: Origin, phase: Phase) -> tuple[Operand, Operand]:
    """The roles of forward operands; of two weights, the one that the running module owns is the weight, else the right one."""
    left, right = a.role is Role.WEIGHT, b.role is Role.WEIGHT
    if left and right:
        layer = engine.clock.frame(phase).layer
        left = engine.sites.owning(layer, a) is not None and engine.sites.owning(layer, b) is None
        right = not left
    return "weight" if left else "input", "weight" if right else "input"


def _result_role(left: Tensor, right: Tensor) -> Role:
    """An activation, but for the norms of a weight (spectral normalisation multiplies it by constant vectors)."""
    roles = {origin_of(left).role, origin_of(right).role}
    is_norm = (left.dim() == 1 or right.dim() == 1) and roles <= {Role.WEIGHT, Role.CONST}
    return Role.WEIGHT if is_norm and Role.WEIGHT in roles else Role.INPUT


def _matrix(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    return left if left.dim() > 1 else left.unsqueeze(0), right if right.dim() > 1 else right.unsqueeze(-1)


def _as(like: Tensor, x: Tensor) -> Tensor:
    return x if like.dim() > 1 else x.reshape(-1)


def _addend(plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """beta addend, or None without one."""
    beta = kwargs.get("beta", 1)
    if GEMM_OPERANDS[plan.name][0] != 1 or beta == 0:
        return None
    addend: Tensor = args[0]
    return addend if beta == 1 else addend * beta


def _folded(product: Tensor, left: int, right: int) -> Tensor:
    """A product of matrices in the shape that operands of so many axes give it."""
    if right == 1:
        product = product.squeeze(-1)
    return product.squeeze(0) if left == 1 else product


def _followed(dots: Dots, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any], addend: Tensor | None) -> Dots:
    """The dot products with what `_finished` does to their sums; a form that writes may write the addend."""
    kept = addend.clone() if addend is not None and plan.writes else addend
    left, right = (args[i].dim() for i in GEMM_OPERANDS[plan.name])
    return replace(dots, fold=lambda sums: _folded(sums, left, right), alpha=kwargs.get("alpha", 1), addend=kept)


def _finished(plan: Plan, product: Tensor, addend: Tensor | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The addend + alpha product in the operands' dtype, written where an in-place or out form writes."""
    i, j = GEMM_OPERANDS[plan.name]
    product, alpha = _folded(product, args[i].dim(), args[j].dim()), kwargs.get("alpha", 1)
    out = product if alpha == 1 else product * alpha
    if addend is not None:
        out = out + addend
    out = out.to(args[i].dtype)
    target = plan.target(args, kwargs)
    return out if target is None else target.copy_(out)
