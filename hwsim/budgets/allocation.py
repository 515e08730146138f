"""The cheapest formats that stay within a limit, by layer, GEMM and role, from predicted budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from hwsim.config.record import Record
from hwsim.costs import bits_per_element
from hwsim.datapaths import datapath
from hwsim.errors import ConfigError
from hwsim.fields import format_mapping, format_record
from hwsim.formats import Block, Format
from hwsim.formats.errors import FormatError
from hwsim.layering import GEMMS, OPERANDS

from .measured import Meter, survey
from .places import Place
from .predicted import predict
from .probe import Prediction
from .twins import Twin

CANDIDATES = tuple(format_record(name) for name in ("fp4_e2m1fn", "fp6_e2m3fn", "fp8_e4m3fn", "bf16"))
"""The shipped choice, cheapest first; the last one is what is left where nothing cheaper will do."""

TRIES = 8
TIGHTER = 0.7
Slot = tuple[str, str, str]
"""Layer, GEMM, operand role."""


class Allocation(Record):
    """A proposed datapath.

    Args:
        datapath: its YAML as data.
        formats: by `LAYER/GEMM/ROLE`, the format.
        bits: mean bits of an operand, weighted by how many there are.
        predicted: the sum of the magnitudes of the changes that the casts make alone, of those that are predicted.
        measured: the change with all casts at once, by one run: the larger of the loss and the loss after the step.
        limit: what was allowed.
    """

    datapath: dict[str, Any]
    formats: dict[str, str]
    bits: float
    predicted: float
    measured: float
    limit: float

    @property
    def within(self) -> bool:
        """Whether the measured change keeps the limit."""
        return self.measured <= self.limit


@dataclass(frozen=True)
class _Choice:
    """One format at one slot: bits moved, and the magnitude of the change; NaN where nothing was predicted."""

    format: Format
    bits: float
    change: float


def cast_of(fmt: Format) -> Any:
    """How a candidate is used: wide floats as they are, narrow ones scaled by each tensor's largest magnitude."""
    declared = fmt.name if _is_known(fmt) else format_mapping(fmt)
    return declared if isinstance(fmt, Block) or fmt.bits >= 16 else {"format": declared, "scaling": "absmax"}


def _is_known(fmt: Format) -> bool:
    """Whether the format's name alone says it, without the file that declares it."""
    try:
        return format_record(fmt.name) == fmt
    except FormatError:
        return False


def allocate(
    twin: Twin,
    name: str,
    limit: float,
    candidates: Sequence[Format | str] = CANDIDATES,
    seed: int = 0,
    samples: int = 8,
) -> Allocation:
    """Propose formats for every operand of every GEMM.

    Greedy: all operands start in the cheapest candidate; the slot whose next format lowers the predicted change most for each
    added bit moves on, until the sums of magnitudes are within the limit: that of forward slots, for the loss of the batch, and
    that of backward ones, for the loss after the step. A slot of which nothing is predicted in some candidate takes the last
    one. The proposal is run once; while either loss breaks the limit, the sum that is allowed for it is tightened, a few times at
    most.

    Raises:
        ConfigError: fewer than two candidates.
    """
    if len(candidates) < 2:
        raise ConfigError(f"allocate: got {len(candidates)} candidate formats; allowed: two or more, cheapest first")
    formats = [format_record(candidate) for candidate in candidates]
    slots = _slots(twin, formats, seed, samples)
    base = twin.step(datapath({"name": name}), {}, seed)[0]
    allowed = {True: limit, False: limit}
    for _ in range(TRIES):
        chosen = {slot: choice for forward in allowed for slot, choice in _chosen(slots, forward, allowed[forward]).items()}
        data = _datapath(name, chosen)
        outcome = twin.step(datapath(data), None, seed)[0]
        changes = {True: outcome.loss - base.loss, False: outcome.after - base.after}
        measured = max(changes.values())
        broken = [forward for forward, change in changes.items() if not change <= limit]
        if not broken:
            break
        # What the forward pass loses, the loss after the step has lost too.
        allowed[broken[0]] *= TIGHTER
    sizes = {slot: choices[0].bits / bits_per_element(choices[0].format) for slot, choices in slots.items()}
    bits = sum(choice.bits for choice in chosen.values()) / sum(sizes.values())
    named = {"/".join(slot): str(choice.format) for slot, choice in chosen.items()}
    predicted = sum(choice.change for choice in chosen.values() if not isnan(choice.change))
    return Allocation.model_construct(
        datapath=data, formats=named, bits=bits, predicted=predicted, measured=measured, limit=limit
    )


def _slots(twin: Twin, candidates: Sequence[Format], seed: int, samples: int) -> dict[Slot, list[_Choice]]:
    slots: dict[Slot, list[_Choice]] = {}
    for fmt in candidates:
        machine = datapath({"name": "candidate", "gemm": {"all": dict.fromkeys(OPERANDS, cast_of(fmt))}})
        found = survey(twin, machine, seed)
        outputs = Meter(twin, machine, [seed], 1, found).base[seed].outputs
        if outputs is None:
            continue
        prediction = predict(
            twin, machine, found.places, outputs, seed, dict.fromkeys((p.port for p in found.places), 1), samples, False
        )
        for slot, places in _by_slot(found.places).items():
            elements = sum(found.facts[place.port].elements for place in places)
            choice = _Choice(fmt, elements * bits_per_element(fmt), _change(prediction, places))
            slots.setdefault(slot, []).append(choice)
    return slots


def _by_slot(places: Sequence[Place]) -> dict[Slot, list[Place]]:
    slots: dict[Slot, list[Place]] = {}
    for place in places:
        slots.setdefault((place.layer, place.gemm, place.role), []).append(place)
    return slots


def _change(prediction: Prediction, places: Sequence[Place]) -> float:
    return sum(abs(prediction.change(place.port)) for place in places)


def _chosen(slots: Mapping[Slot, Sequence[_Choice]], forward: bool, allowed: float) -> dict[Slot, _Choice]:
    slots = {slot: choices for slot, choices in slots.items() if (slot[1] == "output") is forward}
    unknown = {slot for slot, choices in slots.items() if any(isnan(choice.change) for choice in choices)}
    index = {slot: len(choices) - 1 if slot in unknown else 0 for slot, choices in slots.items()}

    def gain(slot: Slot) -> float:
        now, then = slots[slot][index[slot]], slots[slot][index[slot] + 1]
        return (now.change - then.change) / max(then.bits - now.bits, 1e-9)

    while sum(choices[index[slot]].change for slot, choices in slots.items() if slot not in unknown) > allowed:
        open_slots = [slot for slot, choices in slots.items() if index[slot] + 1 < len(choices)]
        if not open_slots:
            break
        index[max(open_slots, key=gain)] += 1
    return {slot: choices[index[slot]] for slot, choices in slots.items()}


def _datapath(name: str, chosen: Mapping[Slot, _Choice]) -> dict[str, Any]:
    """The declaration: the root's own GEMMs at the top, every other layer as an override."""
    layers: dict[str, dict[str, Any]] = {}
    for (layer, gemm, role), choice in chosen.items():
        layers.setdefault(layer, {}).setdefault(gemm, {})[role] = cast_of(choice.format)
    base = layers.pop("(model)", {})
    overrides = {layer: {"gemm": {gemm: gemms.get(gemm, {}) for gemm in GEMMS}} for layer, gemms in layers.items()}
    return {"name": name, "gemm": base, "overrides": overrides}
