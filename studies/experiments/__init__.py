"""Experiments: questions that are answered without training a task, each a frozen record of parameters and what it does."""

from .experiment import Experiment, Line, Panel, Plot, Row, Section, Table
from .registry import experiment_setting, experiments

__all__ = ["Experiment", "Line", "Panel", "Plot", "Row", "Section", "Table", "experiment_setting", "experiments"]
