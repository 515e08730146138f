"""What each cast of a step costs, found by running the step with that cast alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from math import comb, isnan, nan

from torch import Tensor

from hwsim.casting import apply
from hwsim.casts import Cast
from hwsim.datapaths import Datapath
from hwsim.emulator.ports import Converter
from hwsim.formats import Draw

from .causes import CAUSES, Facts, Stage, facts
from .machines import ROLES, Role
from .places import Place, places
from .table import TOTAL, Row, spread
from .twins import Outcome, Twin, cosine, sqnr

ACCUMULATION = "accumulation"
SHARED = 4
"""Of how many roles at most every set is measured: 2^4 steps for each seed and draw."""


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
        whole, values = self._row(place, [place], TOTAL, {place.port: apply})
        rest = [other for other in self.found.places if other.port != place.port]
        if others and rest:
            without, _ = self._row(place, rest, TOTAL, {other.port: apply for other in rest})
            whole = replace(whole, all_but=without.measured)
        if not causes:
            return [whole]
        if place.role == "accumulator":
            return [whole, _named(whole, ACCUMULATION)]
        acting = self.found.causes(place)
        rows, before = [], [0.0] * len(values)
        for cause in CAUSES:
            if cause in acting:
                last = cause == acting[-1]
                after = values if last else self._row(place, [place], cause, {place.port: Stage(cause)})[1]
            else:
                after = before
            rows.append(self._share(whole, cause, before, after))
            before = after
        return [whole, *rows]

    def together(self, alone: Mapping[str, Row], groups: bool = True) -> list[Row]:
        """All places, and what is left beyond the places alone; with `groups` each role, GEMM and layer alone, all but each, and
        the shares of roles."""
        everything = self.found.places
        kinds = [role for role in ROLES if any(place.kind == role for place in everything)]
        rows = [self._total("all", everything)]
        for name in (lambda p: p.kind, lambda p: f"GEMM {p.gemm}" if p.gemm else "", lambda p: f"layer {p.layer}"):
            rows += self._groups(name) if groups else []
        rows += self._shares(kinds) if groups and 1 < len(kinds) <= SHARED else []
        forward = [place for place in everything if place.forward]
        if len(forward) < len(everything):
            rows.append(self._total("all, after the step", everything, after=True))
        if {place.port for place in everything} == set(alone):
            left = rows[0].measured - sum(alone[place.port].measured for place in forward)
            rows.append(Row(self.machine.name, "", "", "", TOTAL, left, nan, rows[0].noise, part="interaction"))
        return rows

    def _groups(self, name: Callable[[Place], str]) -> list[Row]:
        """The places of each name alone, and all but them; nothing where all have one name. Without a name: in no group."""
        everything = self.found.places
        names = [one for one in dict.fromkeys(map(name, everything)) if one]
        rows = []
        for one in names if len(names) > 1 else ():
            rows.append(self._total(f"only {one}", [place for place in everything if name(place) == one]))
            rows.append(self._total(f"all but {one}", [place for place in everything if name(place) != one]))
        return rows

    def _shares(self, kinds: Sequence[Role]) -> list[Row]:
        """Shapley's value of each role for the loss after the step, from every set of roles; the shares add up to all."""
        subsets = [frozenset(chosen) for size in range(len(kinds) + 1) for chosen in combinations(kinds, size)]
        changes = {subset: self._changes([p for p in self.found.places if p.kind in subset]) for subset in subsets}
        rows = []
        for kind in kinds:
            gains = [
                [weight * (b - a) for a, b in zip(changes[subset], changes[subset | {kind}], strict=True)]
                for subset in subsets
                if kind not in subset
                for weight in (1 / (len(kinds) * comb(len(kinds) - 1, len(subset))),)
            ]
            mean, noise, interval = spread([sum(column) for column in zip(*gains, strict=True)])
            rows.append(Row(self.machine.name, "", "", "", TOTAL, mean, nan, noise, part=f"share of {kind}", interval=interval))
        return rows

    def _changes(self, kept: Sequence[Place]) -> list[float]:
        """The change of the loss after the step, for each seed and draw of the whole machine."""
        converters = {place.port: apply for place in kept}
        runs = [(seed, draw) for seed in self.seeds for draw in range(self.draws_of(self.found.places))]
        if not kept:
            return [0.0] * len(runs)
        return [self.twin.step(self.machine, converters, seed, draw)[0].after - self.base[seed].after for seed, draw in runs]

    def _total(self, part: str, kept: Sequence[Place], after: bool | None = None) -> Row:
        acts_after = not any(place.forward for place in kept) if after is None else after
        stand_in = Place("", "", "", "")
        row, _ = self._row(stand_in, kept, TOTAL, {place.port: apply for place in kept}, acts_after, part)
        return row

    def _row(
        self,
        place: Place,
        kept: Sequence[Place],
        cause: str,
        converters: Mapping[str, Converter],
        after: bool | None = None,
        part: str = "",
    ) -> tuple[Row, list[float]]:
        """The row of some converters, and the changes that it is the mean of."""
        after = not place.forward if after is None else after
        stepping = after or bool(part)
        values, outcomes = list[float](), list[tuple[Outcome, Outcome]]()
        for seed in self.seeds:
            for draw in range(self.draws_of(kept)):
                outcome = self.twin.step(self.machine, converters, seed, draw, stepping=stepping)[0]
                base = self.base[seed]
                values.append(outcome.after - base.after if after else outcome.loss - base.loss)
                outcomes.append((base, outcome))
        mean, noise, interval = spread(values)
        row = Row(
            self.machine.name,
            place.site,
            place.gemm,
            place.role,
            cause,
            mean,
            nan,
            noise,
            place.cast,
            part,
            sqnr=_mean(outcomes, lambda a, b: sqnr(a.outputs, b.outputs) if not after or part else nan),  # type: ignore[arg-type]
            cosine=_mean(outcomes, _cosine),
            gradient_error=_mean(outcomes, _relative_error),
            gradient_bias=_mean(outcomes, _bias),
            update_error=_mean(outcomes, _update_error),
            interval=interval,
        )
        return row, values

    def _share(self, whole: Row, cause: str, before: Sequence[float], after: Sequence[float]) -> Row:
        changes = [b - a for a, b in zip(before, after, strict=True)]
        mean, noise, interval = spread(changes)
        return Row(whole.datapath, whole.site, whole.gemm, whole.role, cause, mean, nan, noise, whole.cast, interval=interval)


def _named(row: Row, cause: str) -> Row:
    kept = row.measured, row.predicted, row.noise, row.cast
    return Row(row.datapath, row.site, row.gemm, row.role, cause, *kept, interval=row.interval)


def _mean(outcomes: Sequence[tuple[Outcome, Outcome]], compare: Callable[[Outcome, Outcome], float]) -> float:
    found = [compare(base, outcome) for base, outcome in outcomes if outcome.outputs is not None]
    return statistics.fmean(found) if found and not any(map(isnan, found)) else nan


def _cosine(base: Outcome, outcome: Outcome) -> float:
    return nan if outcome.gradients is None or base.gradients is None else cosine(base.gradients, outcome.gradients)


def _relative_error(base: Outcome, outcome: Outcome) -> float:
    if outcome.gradients is None or base.gradients is None:
        return nan
    return float((outcome.gradients - base.gradients).norm() / base.gradients.norm())


def _update_error(base: Outcome, outcome: Outcome) -> float:
    if outcome.update is None or base.update is None:
        return nan
    return float((outcome.update - base.update).norm() / base.update.norm())


def _bias(base: Outcome, outcome: Outcome) -> float:
    if outcome.gradients is None or base.gradients is None:
        return nan
    return float((outcome.gradients - base.gradients).sum() / base.gradients.abs().sum())
