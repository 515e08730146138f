"""The budget of linear regression is exact theory: a place alone adds what the recursion says, and the rest is interaction."""

import pytest
from scipy import stats

from hwsim import training
from hwsim.budgets import Budget
from hwsim.budgets.regression import regression_budget

PROBLEM = {"eigenvalues": [1.0, 0.5, 0.25, 0.1], "optimum": 1.0, "noise_variance": 0.5, "step_size": 0.1, "steps": 40}
QUANTIZERS = {"data": ("additive", 0.05), "parameters": ("additive", 0.02), "activations": ("additive", 0.1)}


def test_the_measured_shares_are_those_of_the_exact_recursion() -> None:
    split = training.expected_excess_risk(**PROBLEM, quantizers=QUANTIZERS, split=True)
    replicas = 4000
    exact = training.quantized_sgd(**PROBLEM, replicas=replicas, seed=1).excess_risk
    for place, quantizer in QUANTIZERS.items():
        alone = training.quantized_sgd(**PROBLEM, quantizers={place: quantizer}, replicas=replicas, seed=1).excess_risk
        change = (alone - exact).numpy()
        half = stats.norm.ppf(1 - 5e-7) * stats.sem(change)
        assert abs(change.mean() - split.shares[place]) < half
    together = training.quantized_sgd(**PROBLEM, quantizers=QUANTIZERS, replicas=replicas, seed=1).excess_risk
    half = stats.norm.ppf(1 - 5e-7) * stats.sem(together.numpy())
    assert abs(float(together.mean()) - split.total) < half
    assert abs(split.exact - split.total) > half


@pytest.fixture(scope="module")
def found() -> Budget:
    return regression_budget("mine", PROBLEM, QUANTIZERS, replicas=2000, seed=3)


def test_its_rows_and_the_interaction_add_up_to_the_exact_recursions_total(found: Budget) -> None:
    split = training.expected_excess_risk(**PROBLEM, quantizers=QUANTIZERS, split=True)
    assert {row.role: row.predicted for row in found.rows} == split.shares
    parts = [*(row.predicted for row in found.rows), found.part("interaction").predicted]
    assert found.part("all").predicted == pytest.approx(sum(parts), rel=1e-12)
    assert found.part("all").predicted == pytest.approx(split.total - split.exact, rel=1e-12)
    parts = [*(row.measured for row in found.rows), found.part("interaction").measured]
    assert found.part("all").measured == pytest.approx(sum(parts), rel=1e-12)


def test_what_it_measures_lies_about_what_it_predicts(found: Budget) -> None:
    for row in (*found.rows, found.part("all")):
        # Half the 95 % interval, widened to one that holds all but once in a million.
        wide = row.interval / stats.t.ppf(0.975, 1999) * stats.norm.ppf(1 - 5e-7)
        assert abs(row.measured - row.predicted) < wide < row.noise
    for row in found.rows:
        others = {place: quantizer for place, quantizer in QUANTIZERS.items() if place != row.role}
        rest = regression_budget("rest", PROBLEM, others, replicas=2000, seed=3).part("all")
        assert row.all_but == pytest.approx(rest.measured, rel=1e-12)


def test_its_headline_speaks_of_the_excess_risk(found: Budget) -> None:
    assert found.headline.startswith("mine changes the excess risk by +")
    assert f"alone, {found.rows[0].role} changes the excess risk most" in found.headline
    assert abs(found.rows[0].measured) == max(abs(row.measured) for row in found.rows)
