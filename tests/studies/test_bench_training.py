"""The cases of the training benchmarks run, and the plain loops beside them compute the same."""

import pytest
import torch
from torch import nn

from hwsim.studies.bench.measurement import Measurement
from hwsim.studies.bench.steps import MACHINES, PLAIN, TARGETS, Measurements, Trainee, emulated, peers, timed
from hwsim.studies.bench.training import (
    map_cases,
    numpy_recursion,
    numpy_sgd,
    numpy_solver,
    regression_cases,
    solver_cases,
    step_cases,
)
from hwsim.training import COMPONENTS, PAR, Glm, accelerated, expected_excess_risk, l1_slopes, power_law

NOISY = dict.fromkeys(COMPONENTS, ("additive", 0.01))


def test_every_case_runs() -> None:
    cases = {
        **step_cases(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))),
        **map_cases(torch.randn(1 << 12)),
        **regression_cases(replicas=8, dimension=4, steps=3, whole=30, wide=10, long=3),
        **solver_cases(observations=4, dimension=9, few=1, many=2, whole=10),
    }
    for case in cases.values():
        case.run()
    assert sum(case.target is not None for case in cases.values()) >= 6


def test_the_plain_recursion_is_the_recursion() -> None:
    h = power_law(50, 2.0)
    assert numpy_recursion(h, 100, 0.05) == pytest.approx(
        expected_excess_risk(h, 1.0, 1.0, 0.05, 100, quantizers=NOISY), rel=1e-12
    )


def test_the_plain_simulation_is_the_simulation() -> None:
    exact = expected_excess_risk(power_law(10, 2.0), 1.0, 1.0, 0.1, 60, quantizers=NOISY)
    assert numpy_sgd(4000, 10, 60) == pytest.approx(exact, rel=0.05)


def test_the_plain_solver_finds_the_same_weights() -> None:
    draw = torch.Generator().manual_seed(0)
    problem = Glm(
        torch.randn(1, 6, 20, generator=draw, dtype=torch.float64), torch.randn(1, 6, generator=draw, dtype=torch.float64)
    )
    par = PAR((0.0, 0.1, 0.2), l1_slopes((0.0, 0.1, 0.2)))
    found = torch.as_tensor(numpy_solver(problem.design[0].numpy(), problem.response[0].numpy(), par, 0.05))
    torch.testing.assert_close(found, accelerated(problem, par, 0.05).x[0], rtol=0, atol=1e-6)


def test_limits_in_seconds_are_told_with_what_was_spent() -> None:
    found = Measurement("title", "a", 2.0, {"a": 1.0, "b": 4.0}, {}, (), {"b": 7.5})
    assert found.as_text().splitlines()[-1].split("4.00")[1].strip() == "8.0 s (at most 7.5 s: missed)"
    assert found.as_dict()["cases"]["b"] == {"ratio": 4.0, "target": None, "seconds": 8.0, "limit": 7.5}


def test_the_training_step_s_benchmark_runs_the_machines_and_the_peers_on_the_same_step() -> None:
    def small() -> Trainee:
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
        return Trainee(model, torch.ones(2, 1, 4, 4), torch.tensor([0, 2]), torch.optim.SGD(model.parameters(), lr=0.1))

    cases = {**emulated(small), **peers(small)}
    assert cases.keys() >= {PLAIN, *MACHINES, *TARGETS["resnet18"]}
    found = timed("a step", "resnet18", cases, rounds=1)
    assert found.ratios[PLAIN] == 1
    assert set(found.ratios) == set(cases)
    assert "at most 1.6" in Measurements((found, found)).as_text()
