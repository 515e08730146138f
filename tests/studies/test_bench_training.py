"""The cases of the training benchmarks run, and the plain loops beside them compute the same."""

import pytest
import torch
from torch import nn

from hwsim.studies.bench.training import map_cases, numpy_recursion, numpy_sgd, regression_cases, step_cases
from hwsim.training import COMPONENTS, expected_excess_risk, power_law

NOISY = dict.fromkeys(COMPONENTS, ("additive", 0.01))


def test_every_case_runs() -> None:
    cases = {
        **step_cases(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))),
        **map_cases(torch.randn(1 << 12)),
        **regression_cases(replicas=8, dimension=4, steps=3, whole=30, wide=10, long=3),
    }
    for case in cases.values():
        case.run()
    assert sum(case.target is not None for case in cases.values()) >= 5


def test_the_plain_recursion_is_the_recursion() -> None:
    h = power_law(50, 2.0)
    assert numpy_recursion(h, 100, 0.05) == pytest.approx(
        expected_excess_risk(h, 1.0, 1.0, 0.05, 100, quantizers=NOISY), rel=1e-12
    )


def test_the_plain_simulation_is_the_simulation() -> None:
    exact = expected_excess_risk(power_law(10, 2.0), 1.0, 1.0, 0.1, 60, quantizers=NOISY)
    assert numpy_sgd(4000, 10, 60) == pytest.approx(exact, rel=0.05)
