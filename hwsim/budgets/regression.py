"""The budget of linear regression by quantized SGD: simulated, and split exactly by the recursion."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from hwsim.training import StabilityWarning, expected_excess_risk, quantized_sgd

from .metrics import spread
from .table import TOTAL, Budget, Row


def regression_budget(
    name: str, problem: Mapping[str, Any], quantizers: Mapping[str, Any], *, replicas: int = 1000, seed: int = 0
) -> Budget:
    """What each quantizer of SGD adds to the excess risk of linear regression, alone and together.

    Measured: the mean over replicas of what the risk changes against the run without quantizers on the same random numbers.
    Predicted: the change of the expected risk by the exact recursion; the rows and the interaction add up to the total exactly.

    Args:
        name: what the budget calls the quantizers.
        problem: the arguments of `expected_excess_risk` but for the quantizers.
        quantizers: as for `quantized_sgd`; each becomes a row whose role it is.
        replicas: independent runs of the simulation; a row's noise is the standard deviation over them.
        seed: of the simulation.

    Raises:
        ConfigError: what `quantized_sgd` or `expected_excess_risk` refuses.

    Source: the recursion is exact for the algorithm of arXiv 2510.18259; see `expected_excess_risk`.
    """

    def simulated(places: Mapping[str, Any]) -> Tensor:
        return quantized_sgd(**problem, quantizers=places, replicas=replicas, seed=seed).excess_risk

    with warnings.catch_warnings():
        # What lies beyond stability is a result: its risk is huge, or infinite.
        warnings.simplefilter("ignore", StabilityWarning)
        split = expected_excess_risk(**problem, quantizers=quantizers, split=True)
        exact, together = simulated({}), simulated(quantizers)
        rows = []
        for place, quantizer in quantizers.items():
            others = {other: q for other, q in quantizers.items() if other != place}
            row = _row(name, simulated({place: quantizer}) - exact, split.shares[place])
            all_but = float((simulated(others) - exact).mean()) if others else row.all_but
            rows.append(replace(row, role=place, cast=str(quantizer), all_but=all_but))
    total = replace(_row(name, together - exact, split.total - split.exact), part="all")
    left = total.measured - sum(row.measured for row in rows)
    interaction = replace(total, part="interaction", measured=left, predicted=split.interaction, interval=float("nan"))
    rows.sort(key=lambda row: -abs(row.measured))
    return Budget(name, tuple(rows), (total, interaction), float(exact.mean()), float("nan"))


def _row(name: str, changes: Tensor, predicted: float) -> Row:
    mean, deviation, interval = spread(changes.tolist())
    return Row(name, "", "", "", TOTAL, mean, predicted, deviation, interval=interval, judged_by="risk")
