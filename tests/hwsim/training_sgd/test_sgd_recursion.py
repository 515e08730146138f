"""The moment recursion against an independent recursion of whole matrices, closed forms and limits."""

import itertools
from functools import cache
from math import sqrt

import numpy as np
import pytest
from sgd_cases import COMPONENTS, PROBLEM, QUANTIZERS, fixed, placed

from hwsim.training.risk import expected_excess_risk

EIGENVALUES = np.array([1.0, 0.3])
OPTIMUM = np.array([1.0, -2.0])
NOISE, STEP = 0.4, 0.2
SHARED = ("rank_one", "batch_common")


@cache
def tensors(law, size):
    """E zx, E zz, E zzxx, E zzzx, E zzzz of x ~ N(0, diag(EIGENVALUES)) and noisy z, by quadrature, without symmetry."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(7)
    weights = weights / weights.sum()
    grid = np.array(list(itertools.product(nodes, repeat=4)))
    w = np.prod(list(itertools.product(weights, repeat=4)), axis=1)
    x, e = grid[:, :2] * np.sqrt(EIGENVALUES), grid[:, 2:]
    e = e[:, :1] if law in SHARED else e
    z = x + sqrt(size) * e * (1 if law == "additive" else x)

    def mean(pattern, *factors):
        return np.einsum(f"n,{pattern}", w, *factors, optimize=True)

    return (
        mean("ni,nj->ij", z, x),
        mean("ni,nj->ij", z, z),
        mean("ni,nj,nk,nl->ijkl", z, z, x, x),
        mean("ni,nj,nk,nl->ijkl", z, z, z, x),
        mean("ni,nj,nk,nl->ijkl", z, z, z, z),
    )


def powers(law, size):
    """E u^2, E u^3, E u^4 of the factor u that two samples of a batch have in common in their data."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(7)
    u = 1 + (sqrt(size) if law == "batch_common" else 0.0) * nodes
    return [float(weights @ u**k / weights.sum()) for k in (2, 3, 4)]


def matrix_risk(laws, steps, batch, first):
    """The risk from E w w^T as a whole, and the average from all pairs E w_j w_k^T."""
    zx, zz, zzxx, zzzx, zzzz = tensors(*laws.get("data", ("additive", 0.0)))
    added = {c: laws[c][1] if c in laws and laws[c][0] == "additive" else 0.0 for c in COMPONENTS}
    scaled = {c: laws[c][1] if c in laws and laws[c][0] != "additive" else 0.0 for c in COMPONENTS}
    common = {c: 1 + (laws[c][1] if c in laws and laws[c][0] in SHARED else 0.0) for c in COMPONENTS}
    pull_pull, pull_zz, zz_zz = powers(*laws.get("data", ("additive", 0.0)))
    m, second = np.zeros(2), np.zeros((2, 2))
    pairs, earlier, total, mean_sum = [], [], np.zeros((2, 2)), np.zeros(2)
    target = np.outer(OPTIMUM, OPTIMUM)
    for t in range(steps):
        if t >= first:
            pairs.append(second.copy())
            earlier.append(m.copy())
            total += second + sum(p + p.T for p in pairs[:-1])
            mean_sum += m
        factor = scaled["parameters"] * (second if common["parameters"] > 1 else np.diag(np.diag(second)))
        p2 = second + factor + added["parameters"] * np.eye(2)
        labels = np.einsum("ijkl,kl->ij", zzxx, target) + NOISE * zz
        overlap = np.einsum("ijkl,k,l->ij", zzzx, m, OPTIMUM)
        acts = np.einsum("ijkl,kl->ij", zzzz, p2)
        one = (1 + scaled["labels"]) * labels - 2 * overlap + (1 + scaled["activations"]) * acts
        one = (1 + scaled["output_gradients"]) * (one + (added["labels"] + added["activations"]) * zz) + added[
            "output_gradients"
        ] * zz
        pull = zx @ OPTIMUM
        across = np.diag(EIGENVALUES) if pull_pull > 1 else zz
        fit = common["labels"] * pull_pull * np.outer(pull, pull) + common["activations"] * zz_zz * across @ p2 @ across
        both = pull_zz * np.outer(pull, across @ m)
        two = common["output_gradients"] * (fit - both - both.T)
        drift = np.outer(pull, m) - zz @ second
        second = second + STEP * (drift + drift.T) + STEP**2 * (two + (one - two) / batch)
        pairs = [p + STEP * (np.outer(pull, before) - zz @ p) for p, before in zip(pairs, earlier, strict=True)]
        m = m + STEP * (pull - zz @ m)
    if first < steps:
        n = steps - first
        m, second = mean_sum / n, total / n**2
    return float(np.diag(EIGENVALUES * (second - np.outer(m, OPTIMUM) - np.outer(OPTIMUM, m) + target)).sum()) / 2


LAWS = [
    {},
    *({component: (law, 0.1)} for component in COMPONENTS for law in ("additive", "multiplicative")),
    {"data": ("additive", 0.1), "parameters": ("multiplicative", 0.1), "output_gradients": ("multiplicative", 0.2)},
    dict.fromkeys(COMPONENTS, ("multiplicative", 0.1)),
    dict.fromkeys(COMPONENTS, ("additive", 0.1)),
    *({component: (law, 0.1)} for component in COMPONENTS for law in SHARED),
    dict.fromkeys(COMPONENTS, ("batch_common", 0.1)),
]


def quantizers_of(laws):
    """As the public functions take them: a shared error is multiplicative."""
    return {c: ("multiplicative", size, law) if law in SHARED else (law, size) for c, (law, size) in laws.items()}


@pytest.mark.parametrize(
    ("average", "first"), [({"average": "all"}, 0), ({"average": "tail", "tail": 4}, 8), ({"average": "none"}, 12)]
)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("laws", LAWS)
def test_recursion_equals_the_recursion_of_whole_matrices(laws, batch, average, first):
    risk = expected_excess_risk(EIGENVALUES, OPTIMUM, NOISE, STEP, 12, batch, quantizers=quantizers_of(laws), **average)
    assert risk == pytest.approx(matrix_risk(laws, 12, batch, first), rel=1e-12)


def closed_form(eigenvalue, noise, step, steps, batch, averaged):
    """One dimension, w* = 1: e_t = w_t - 1 has E e_t^2 = s + (1 - s) q^t and E[e_k | e_j] = r^(k - j) e_j."""
    r = 1 - step * eigenvalue
    q = r**2 + 2 * (step * eigenvalue) ** 2 / batch
    s = step**2 * eigenvalue * noise / batch / (1 - q)
    squares = s + (1 - s) * q ** np.arange(steps + 1)
    if not averaged:
        return eigenvalue * squares[-1] / 2
    j = np.arange(steps)
    return eigenvalue / 2 * (squares[:-1] * (1 + 2 * r * (1 - r ** (steps - 1 - j)) / (1 - r))).sum() / steps**2


@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize(
    "quantizers", [{}, dict.fromkeys(COMPONENTS, ("additive", 0.0)), dict.fromkeys(COMPONENTS, ("multiplicative", 0.0))]
)
def test_without_error_the_risk_is_the_known_closed_form(quantizers, batch, averaged):
    risk = expected_excess_risk([0.7], 1.0, 0.3, 0.2, 25, batch, quantizers=quantizers, average="all" if averaged else "none")
    assert risk == pytest.approx(closed_form(0.7, 0.3, 0.2, 25, batch, averaged), rel=1e-12)


def test_an_endless_batch_gives_gradient_descent():
    risk = expected_excess_risk(**PROBLEM | {"batch_size": 10**12, "average": "none"})
    h = PROBLEM["eigenvalues"]
    assert risk == pytest.approx(float(h @ (1 - 0.1 * h) ** 120) / 2, rel=1e-9)


@pytest.mark.parametrize("target", COMPONENTS)
def test_a_fine_integer_grid_is_an_additive_error_of_a_sixth_of_the_step_squared(target):
    step = 2.0**-6
    long = PROBLEM | {
        "steps": 600
    }  # the first iterate, 0, is on the grid: of the parameters' error a share of 1 / steps is missing
    real = expected_excess_risk(**long, quantizers=placed(fixed("int16", "stochastic", step), target))
    ideal = expected_excess_risk(**long, quantizers=placed(("additive", step**2 / 6), target))
    exact = expected_excess_risk(**long)
    assert abs(real - ideal) < 0.01 * (ideal - exact)


def test_a_format_of_the_data_equals_brute_force_integration():
    """The same conditional moments, integrated on a fine grid and put through the recursion of whole matrices."""
    step, delta = 12, 0.5
    x = np.linspace(-10, 10, 400_001)
    weight = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * (x[1] - x[0])
    moments = []
    for eigenvalue in EIGENVALUES:
        v = x * np.sqrt(eigenvalue)
        low = np.floor(v / delta) * delta
        up = v / delta - low / delta
        q = [(1 - up) * low**k + up * (low + delta) ** k for k in range(5)]
        moments.append([(weight * a).sum() for a in (v * q[1], q[2], v**2 * q[2], v * q[3], q[4])])
    c, h, k22, k31, k4 = np.array(moments).T
    m, s = np.zeros(2), np.zeros(2)
    for _ in range(step):
        u = EIGENVALUES * OPTIMUM**2 - 2 * c * OPTIMUM * m + h * s
        others = u.sum() - u
        one = h * (NOISE + others) + OPTIMUM**2 * k22 - 2 * OPTIMUM * m * k31 + s * k4
        s = s + 2 * STEP * (c * OPTIMUM * m - h * s) + STEP**2 * one
        m = m + STEP * (c * OPTIMUM - h * m)
    expected = float(EIGENVALUES @ (s - 2 * OPTIMUM * m + OPTIMUM**2)) / 2
    quantizers = {"data": fixed("int8", "stochastic", delta)}
    assert expected_excess_risk(EIGENVALUES, OPTIMUM, NOISE, STEP, step, quantizers=quantizers, average="none") == pytest.approx(
        expected, rel=1e-7
    )


@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_split_adds_up(name):
    split = expected_excess_risk(**PROBLEM, quantizers=placed(name, "all five"), split=True)
    assert split.total == pytest.approx(expected_excess_risk(**PROBLEM, quantizers=placed(name, "all five")), rel=1e-12)
    assert split.bias + split.variance + split.approximation == pytest.approx(split.total, rel=1e-12)
    assert split.exact + sum(split.shares.values()) + split.interaction == pytest.approx(split.total, rel=1e-12)
    assert set(split.shares) == set(COMPONENTS)


@pytest.mark.parametrize(
    ("law", "best"),
    [("additive", lambda h, eps: h / (h + eps)), ("multiplicative", lambda h, eps: np.full_like(h, 1 / (1 + eps)))],
)
def test_the_approximation_error_is_that_of_the_best_predictor_from_quantized_data(law, best):
    h = PROBLEM["eigenvalues"]
    split = expected_excess_risk(**PROBLEM, quantizers={"data": (law, 0.1)}, split=True)
    assert split.approximation == pytest.approx(float(h @ (1 - best(h, 0.1)) ** 2) / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("quantizers", "suppressed"),
    [
        ({"activations": ("multiplicative", 0.1)}, True),
        ({"output_gradients": ("multiplicative", 0.1)}, True),
        ({"activations": ("additive", 0.1)}, True),
        ({"labels": ("additive", 0.1)}, True),
        ({"activations": ("multiplicative", 0.1, "batch_common")}, False),
        ({"parameters": ("additive", 0.1)}, False),
    ],
)
def test_a_batch_divides_every_error_but_the_parameters_and_the_common_ones(quantizers, suppressed):
    def excess(batch):
        return expected_excess_risk(**PROBLEM, batch_size=batch, quantizers=quantizers) - expected_excess_risk(
            **PROBLEM, batch_size=batch
        )

    ratio = excess(1000) / excess(100)
    assert (ratio < 0.11) if suppressed else (ratio > 0.5)


def test_results_do_not_depend_on_the_pieces(monkeypatch):
    arguments = PROBLEM | {"quantizers": placed("additive", "all five")}
    whole = expected_excess_risk(**arguments)
    monkeypatch.setattr("hwsim.training.recursion.PIECE", 3)
    assert expected_excess_risk(**arguments) == pytest.approx(whole, rel=1e-12)


def test_storage_errors_cost_what_they_are_known_to_cost():
    """H = diag(i^-2), d = 200, N = 4000: a variance of 1e-5 a step costs 1.5 percent, 1e-4 15 percent."""
    h = np.arange(1, 201) ** -2.0
    risks = [expected_excess_risk(h, 1.0, 1.0, 0.1, 4000, storage=("additive", p)) for p in (0.0, 1e-5, 1e-4)]
    assert risks == pytest.approx([0.02395, 0.02431, 0.02756], abs=5e-6)
