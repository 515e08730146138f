"""What each cast of a step costs, found by running the step with that cast alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from math import nan
from statistics import fmean

from torch import Tensor

from hwsim.casting import apply
from hwsim.casts import Cast
from hwsim.datapaths import Datapath
from hwsim.emulator.ports import Converter
from hwsim.formats import Draw

from .causes import CAUSES, Facts, Stage, facts
from .machines import ROLES, Role
from .metrics import Pair, compared, spread
from .places import Place, places
from .table import TOTAL, Judge, Row
from .twins import Twin

ACCUMULATION = "accumulation"
SHARED = 4
"""Of how many roles at most every set is measured: 2^4 steps for each seed and draw."""
DRAWN_ORDERS = 8
"""In how many orders more roles than that are taken up: at most 8 (roles - 1) + 1 steps for each seed and draw."""


@dataclass
class Survey:
    """Where a datapath rounds in a step, and what it does there.

    Args:
        places: every cast and accumulator.
        stochastic: the ports whose casts draw random words.
        facts: by port, of the first tensor that went through, with every cast and no accumulator at work.
    """

    places: tuple[Place, ...] = ()
    stochastic: set[str] = field(default_factory=set)
    facts: dict[str, Facts] = field(default_factory=dict)

    def causes(self, place: Place) -> tuple[str, ...]:
        """The causes by which a place's error is split, in their order; rounding alone where no tensor went through."""
        found = self.facts.get(place.port)
        return ("rounding",) if found is None else found.causes


def survey(twin: Twin, machine: Datapath, seed: int) -> Survey:
    """Run one whole step on the machine and look at its ports."""
    found = Survey()
    first = twin.step(machine, None, seed)[1]
    if first is not None:
        found.places = places(first.audit())
    # An emulated unit takes elements and scales, so that its operands would pass by what looks on.
    look = {place.port: _looking(place.port, found) for place in found.places if place.role != "accumulator"}
    twin.step(machine, look, seed)
    return found


def _looking(port: str, found: Survey) -> Converter:
    def convert(cast: Cast, x: Tensor, draw: Draw, axis: int, kept: Tensor | None) -> Tensor:
        if cast.rounding.is_stochastic:
            found.stochastic.add(port)
        if port not in found.facts:
            found.facts[port] = facts(cast, x, draw, axis, kept)
        return apply(cast, x, draw, axis, kept)

    return convert


class Meter:
    """Measures changes of the loss against the twin that rounds nowhere, of the same seeds.

    Args:
        twin: the step.
        machine: whose casts.
        seeds: of torch and of stochastic rounding.
        draws: how often a place with stochastic rounding is measured for each seed.
    """

    def __init__(self, twin: Twin, machine: Datapath, seeds: Sequence[int], draws: int, found: Survey) -> None:
        self.twin, self.machine, self.seeds, self.draws, self.found = twin, machine, seeds, draws, found
        self.base = {seed: twin.step(machine, {}, seed)[0] for seed in seeds}

    def draws_of(self, kept: Sequence[Place]) -> int:
        """How many draws some places together need."""
        accumulators = any(place.role == "accumulator" and "stochastic" in place.cast for place in kept)
        return self.draws if accumulators or any(place.port in self.found.stochastic for place in kept) else 1

    def place(self, place: Place, causes: bool = True, others: bool = True) -> list[Row]:
        """One place alone: its whole cast (with what all others change without it, if asked for), then its causes."""
        judge: Judge = "loss" if place.forward else "step_loss"
        pairs = self._run([place], {place.port: apply})
        values = _changes(pairs, judge)
        blank = Row(self.machine.name, place.site, place.gemm, place.role, TOTAL, nan, nan, nan, place.cast, judged_by=judge)
        whole = replace(_measured(blank, values), **compared(pairs, place.forward))
        rest = [other for other in self.found.places if other.port != place.port]
        if others and rest:
            without = self._run(rest, {other.port: apply for other in rest}, stepping=not place.forward)
            whole = replace(whole, all_but=fmean(_changes(without, judge)))
        if not causes:
            return [whole]
        if place.role == "accumulator":
            return [whole, _measured(replace(blank, cause=ACCUMULATION), values)]
        acting = self.found.causes(place)
        rows, before = [], [0.0] * len(values)
        for cause in CAUSES:
            if cause in acting:
                last = cause == acting[-1]
                stage = {place.port: Stage(cause)}
                after = values if last else _changes(self._run([place], stage, stepping=not place.forward), judge)
            else:
                after = before
            rows.append(_measured(replace(blank, cause=cause), [b - a for a, b in zip(before, after, strict=True)]))
            before = after
        return [whole, *rows]

    def together(self, alone: Mapping[str, Row], groups: bool = True) -> list[Row]:
        """All places, and what is left beyond the places alone; with `groups` each role, GEMM, layer and site alone, all but
        each, and the shares of roles."""
        everything = self.found.places
        pairs = self._run(everything, {place.port: apply for place in everything})
        rows = [self._total("all", everything, pairs=pairs)]
        whole = rows[:]
        rows += self._every_group() if groups else []
        if not all(place.forward for place in everything):
            rows.append(self._total("all, after the step", everything, "step_loss", pairs))
            whole += rows[-1:] if whole[0].judged_by == "loss" else []
        if {place.port for place in everything} == set(alone):
            rows += [self._interaction(total, alone) for total in whole]
        return rows

    def _interaction(self, total: Row, alone: Mapping[str, Row]) -> Row:
        """What all places change beyond the sum of what each of those that act on the same loss changes alone."""
        judge = total.judged_by
        acting = [place for place in self.found.places if judge == "step_loss" or place.forward]
        left = total.measured - sum(alone[place.port].of(judge) for place in acting)
        part = total.part.replace("all", "interaction")
        return Row(self.machine.name, "", "", "", TOTAL, left, nan, total.noise, part=part, judged_by=judge)

    def _every_group(self) -> list[Row]:
        everything = self.found.places
        rows = []
        for name in (lambda p: p.kind, lambda p: f"GEMM {p.gemm}" if p.gemm else "", lambda p: f"layer {p.layer}", self._site):
            rows += self._groups(name)
        kinds = [role for role in ROLES if any(place.kind == role for place in everything)]
        return rows + (self._shares(kinds) if len(kinds) > 1 else [])

    def _site(self, place: Place) -> str:
        """The name of a contraction's site; empty where its casts are all that its layer has."""
        layer = [other.site for other in self.found.places if other.layer == place.layer]
        return f"site {place.site}" if place.gemm and set(layer) != {place.site} else ""

    def _groups(self, name: Callable[[Place], str]) -> list[Row]:
        """The places of each name alone, and all but them; nothing where all have one name. Without a name: in no group.

        All but places that act in the backward pass only are judged by the loss after the step: the batch's own never saw them.
        """
        everything = self.found.places
        names = [one for one in dict.fromkeys(map(name, everything)) if one]
        rows = []
        for one in names if len(set(map(name, everything))) > 1 else ():
            group = [place for place in everything if name(place) == one]
            backward = not any(place.forward for place in group)
            rows.append(self._total(f"only {one}", group))
            rest = [place for place in everything if name(place) != one]
            rows.append(self._total(f"all but {one}", rest, "step_loss" if backward else None))
        return rows

    def _shares(self, kinds: Sequence[Role]) -> list[Row]:
        """Shapley's value of each role for the loss after the step: what it adds, mean over the orders in which roles are taken
        up; the shares add up to all."""
        orders = role_orders(kinds)
        sets = dict.fromkeys(frozenset(order[:n]) for order in orders for n in range(len(order) + 1))
        changes = {kept: self._changed([p for p in self.found.places if p.kind in kept]) for kept in sets}
        rows = []
        for kind in kinds:
            gains = []
            for order in orders:
                before = frozenset(order[: order.index(kind)])
                gains.append([b - a for a, b in zip(changes[before], changes[before | {kind}], strict=True)])
            row = Row(self.machine.name, "", "", "", TOTAL, nan, nan, nan, part=f"share of {kind}", judged_by="step_loss")
            rows.append(_measured(row, [fmean(column) for column in zip(*gains, strict=True)]))
        return rows

    def _changed(self, kept: Sequence[Place]) -> list[float]:
        """The change of the loss after the step, for each seed and draw of the whole machine."""
        draws = self.draws_of(self.found.places)
        if not kept:
            return [0.0] * (len(self.seeds) * draws)
        return _changes(self._run(kept, {place.port: apply for place in kept}, draws), "step_loss")

    def _total(self, part: str, kept: Sequence[Place], judge: Judge | None = None, pairs: Sequence[Pair] | None = None) -> Row:
        """Some places together, by default judged by the batch's loss if any of them acts on it."""
        if judge is None:
            judge = "step_loss" if kept and not any(place.forward for place in kept) else "loss"
        pairs = self._run(kept, {place.port: apply for place in kept}) if pairs is None else pairs
        row = Row(self.machine.name, "", "", "", TOTAL, nan, nan, nan, part=part, judged_by=judge)
        return replace(_measured(row, _changes(pairs, judge)), **compared(pairs, forward=True))

    def _run(
        self, kept: Sequence[Place], converters: Mapping[str, Converter], draws: int | None = None, stepping: bool = True
    ) -> list[Pair]:
        """The twin's step and the step with some converters, for every seed and draw."""
        draws = self.draws_of(kept) if draws is None else draws
        runs = [(seed, draw) for seed in self.seeds for draw in range(draws)]
        return [
            (self.base[seed], self.twin.step(self.machine, converters, seed, draw, stepping=stepping)[0]) for seed, draw in runs
        ]


def role_orders(kinds: Sequence[Role]) -> list[tuple[Role, ...]]:
    """Every order of up to four roles; of more a few that are drawn, always the same, each with its reverse."""
    if len(kinds) <= SHARED:
        return list(permutations(kinds))
    generator = random.Random(0)
    drawn = [tuple(generator.sample(kinds, len(kinds))) for _ in range(DRAWN_ORDERS // 2)]
    return [*drawn, *(order[::-1] for order in drawn)]


def _changes(pairs: Sequence[Pair], judge: Judge) -> list[float]:
    """Of each pair the change of the loss that is judged by."""
    if judge == "step_loss":
        return [outcome.after - base.after for base, outcome in pairs]
    return [outcome.loss - base.loss for base, outcome in pairs]


def _measured(row: Row, values: Sequence[float]) -> Row:
    """The row with the mean of some changes."""
    mean, noise, interval = spread(values)
    return replace(row, measured=mean, noise=noise, interval=interval)
