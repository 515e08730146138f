"""`hwsim.budget`: where the error of one training step on a datapath comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from hwsim.datapaths import Datapath
from hwsim.datapaths import datapath as datapath_of
from hwsim.errors import ConfigError

from .causes import CAUSES
from .measured import Meter, survey
from .places import Place, chosen
from .predicted import predict as predict_changes
from .probe import Prediction
from .table import TOTAL, Budget, Row
from .twins import Loss, Twin

DEFAULT_LR = 0.01


def budget(
    model: nn.Module,
    loss_fn: Loss,
    batch: tuple[Any, Any],
    datapath: Datapath | str | Path | Mapping[str, Any],
    *,
    optimizer: Optimizer | None = None,
    seeds: Sequence[int] = (0,),
    draws: int = 4,
    sites: Sequence[str] | None = None,
    predict: bool = True,
    samples: int = 8,
    causes: bool = True,
    dtype: torch.dtype | None = torch.float64,
    steps: int = 1,
    groups: bool = True,
) -> Budget:
    """The error budget of one training step on one batch.

    Measured: the change of the loss when one cast acts alone, against the twin that rounds nowhere, with the same seeds and the
    same random words: of the batch's own loss for forward casts, of its loss after the optimizer's step for backward ones.
    Predicted: see Prediction. The model and the optimizer are left as they are.

    Args:
        model: in the state and mode to be judged.
        loss_fn: (model's output, targets) -> a scalar, a mean over the samples.
        batch: (inputs, targets); a tuple or mapping of inputs is spread over the model's arguments.
        datapath: a Datapath, a name, the path of a YAML file, or a mapping.
        optimizer: of the model; by default plain SGD with a learning rate of 0.01.
        seeds: of torch's own randomness (dropout) and of stochastic rounding.
        draws: how often each seed's stochastic roundings are drawn.
        sites: shell-like patterns of the sites to measure one by one; by default all.
        predict: whether to predict too.
        samples: label draws behind the curvature term.
        causes: whether to split every place by cause.
        dtype: what the twin computes in; the casts are the same. None leaves the model's own.
        steps: optimizer steps on the batch, after which its loss and the weights are compared; what backward casts and the
            optimizer unit change is predicted for one step only.
        groups: whether each role, GEMM, layer and site is measured alone too, with all but each of them and of the places, and
            Shapley's shares of the roles.

    Raises:
        ConfigError: the datapath does not fit the model, a batch that is no pair, no step, or sites that match nothing.
    """
    if steps < 1:
        raise ConfigError(f"budget: steps: got {steps}; allowed: a whole number from 1 on")
    machine = datapath_of(datapath)
    machine = machine.model_copy(update={"name": machine.name or "datapath"})
    twin = Twin(model, loss_fn, batch, optimizer or SGD(model.parameters(), lr=DEFAULT_LR), dtype, steps)
    found = survey(twin, machine, seeds[0])
    measured_places = chosen(found.places, sites)
    meter = Meter(twin, machine, seeds, draws, found)
    found_rows = {place.port: meter.place(place, causes, groups) for place in measured_places}
    totals = meter.together({port: rows[0] for port, rows in found_rows.items()}, groups)
    if predict:
        prediction = predicted(twin, machine, meter, measured_places, seeds[0], samples, causes)
        found_rows = {place.port: _with(prediction, place, found_rows[place.port]) for place in measured_places}
        totals = [_with_total(prediction, row, found.places) if sites is None else row for row in totals]
    ordered = sorted(found_rows.values(), key=lambda rows: -abs(rows[0].measured))
    base = meter.base[seeds[0]]
    rows = tuple(row for rows in ordered for row in rows)
    return Budget(machine.name, rows, tuple(totals), base.loss, base.after, found.facts, base.accuracy)


def predicted(
    twin: Twin, machine: Datapath, meter: Meter, places: Sequence[Place], seed: int, samples: int, causes: bool
) -> Prediction:
    """The prediction for some places; accumulators are measured only."""
    casts = [p for p in places if p.role != "accumulator" and (p.forward or twin.steps == 1)]
    outputs = meter.base[seed].outputs
    if outputs is None:
        return Prediction()
    draws = {place.port: meter.draws_of([place]) for place in casts}
    return predict_changes(twin, machine, casts, outputs, seed, draws, samples, causes)


def _with(prediction: Prediction, place: Place, rows: Sequence[Row]) -> list[Row]:
    return [
        replace(row, predicted=prediction.change(place.port) if row.cause == TOTAL else prediction.part(place.port, row.cause))
        if row.cause in (TOTAL, *CAUSES)
        else row
        for row in rows
    ]


def _with_total(prediction: Prediction, row: Row, places: Sequence[Place]) -> Row:
    return replace(row, predicted=prediction.forward_total(places)) if row.part == "all" else row
