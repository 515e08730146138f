"""Accuracy against synthesised gates: what the study makes of its rows, and its rows."""

import pytest

from hwsim.config import loads
from hwsim.errors import ConfigError
from hwsim.studies.experiments import experiments
from hwsim.studies.files import StudyFile
from hwsim.studies.plan import expand

UNITS = {"wide": (0.95, (20.0, 30.0)), "narrow": (0.90, (10.0, 14.0)), "poor": (0.80, (11.0, 15.0))}


def section(**changes):
    published = experiments()["silicon_cost"].parameters.model_fields["published"].annotation.__args__[0]
    pair = published(unit="narrow", against="wide", ratio=changes.pop("ratio", 0.48), source="a paper")
    units = UNITS | changes
    rows = [
        {
            "unit": name, "seed": seed, "accuracy": accuracy and accuracy + seed / 1000, "tool": "a tool", "published": (pair,),
            "low": min(gates), "high": max(gates), "default/cells": gates[0], "booth/cells": gates[1],
        }
        for name, (accuracy, gates) in units.items()
        for seed in (0, 1)
    ]  # fmt: skip
    return experiments()["silicon_cost"].section(rows)


def front(found):
    return {row[0] for row in found.tables[0].rows if row[-1] == "yes"}


def test_a_unit_that_is_smaller_everywhere_and_more_accurate_takes_another_off_the_front():
    assert front(section()) == {"wide", "narrow"}


def test_an_area_that_is_larger_under_one_mapping_decides_nothing():
    assert front(section(poor=(0.80, (9.0, 15.0)))) == {"wide", "narrow", "poor"}


@pytest.mark.parametrize(("ratio", "verdict"), [(0.48, "agrees"), (0.3, "here larger"), (0.9, "here smaller")])
def test_a_published_ratio_agrees_inside_the_range_and_is_named_otherwise(ratio, verdict):
    assert section(ratio=ratio).tables[1].rows[0][4] == verdict


def test_runs_that_diverge_are_said():
    rows = {row[0]: row[1] for row in section(poor=(None, (1.0, 1.0))).tables[0].rows}
    assert rows["poor"].endswith("(2 of 2 diverged, counted as 0)")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("units: [int8_int32]", "units: [native]"), "allowed: named units with `operands`"),
        (("units: [int8_int32]", "units: [int8_int33]"), "did you mean 'int8_int32'"),
        (("against: int8_int32", "against: other"), "published: got 'other'; allowed: int8_int32"),
    ],
)
def test_units_and_pairs_that_cannot_be_are_refused(edit, message):
    assert edit[0] in STUDY
    with pytest.raises(ConfigError, match=message):
        expand(StudyFile.of(loads(STUDY.replace(*edit), "cost.yaml")))


STUDY = """\
study:
  name: cost
  experiment:
    name: silicon_cost
    task: {name: digits_mlp, epochs: 1, batch_size: 64, width: 8}
    optimizer: {name: sgd, lr: 0.05}
    units: [int8_int32]
    published: [{unit: int8_int32, against: int8_int32, ratio: 1.0, source: itself}]
  seeds: [0]
"""


@pytest.mark.rtl
def test_each_unit_has_an_accuracy_and_gates_under_every_mapping_and_table():
    (run,) = expand(StudyFile.of(loads(STUDY, "cost.yaml"))).runs.values()
    (row,) = experiments()["silicon_cost"].rows(run.experiment, 0)
    assert 0.2 < row["accuracy"] <= 1
    assert sum("/" in key for key in row) == 6
    # 64 ANDs and 56 full adders of a plain 8 x 8 array and 32 more full adders, at 1.3 and 5 gates each, are about 530.
    assert 530 < row["low"] <= row["high"] < 1500
