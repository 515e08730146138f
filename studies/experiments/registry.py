"""The experiments by name: those of this package, then those of the entry-point group `hwsim.experiments`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Annotated, Any, Union

from pydantic import Field, create_model

from hwsim.config.record import Record
from hwsim.errors import StudyError

from . import (
    additive_vs_multiplicative,
    aprox_convergence,
    batch_scaling,
    dimension,
    par_regression,
    post_training,
    quantized_sgd_components,
    silicon_cost,
    spectral_distortion,
    storage_rounding,
    trained_components,
)
from .experiment import Experiment

ENTRY_POINTS = "hwsim.experiments"
SHIPPED = (
    additive_vs_multiplicative,
    aprox_convergence,
    batch_scaling,
    dimension,
    par_regression,
    post_training,
    quantized_sgd_components,
    silicon_cost,
    spectral_distortion,
    storage_rounding,
    trained_components,
)


@cache
def experiments() -> Mapping[str, Experiment]:
    """The experiments by name; a plug-in's entry point is an Experiment.

    Raises:
        StudyError: a plug-in takes a name that exists.
    """
    found = {module.EXPERIMENT.name: module.EXPERIMENT for module in SHIPPED}
    for entry in entry_points(group=ENTRY_POINTS):
        experiment: Experiment = entry.load()
        if experiment.name in found:
            raise StudyError(f"experiment: {experiment.name!r} of {entry.value} exists already; allowed: a new name")
        found[experiment.name] = experiment
    return MappingProxyType(found)


@cache
def experiment_setting() -> Any:
    """The record of one point of an experiment study, less its seed: `experiment` and `threads`."""
    choices: Any = Union[tuple(experiment.parameters for experiment in experiments().values())]  # noqa: UP007
    fields: Any = {
        "experiment": (Annotated[choices, Field(discriminator="name")], ...),
        "threads": (Annotated[int, Field(ge=1)], 1),
    }
    return create_model("ExperimentSetting", __base__=Record, **fields)
