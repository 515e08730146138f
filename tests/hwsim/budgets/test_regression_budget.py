"""The budget of linear regression is exact theory: a place alone adds what the recursion says, and the rest is interaction."""

from scipy import stats

from hwsim import training

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
