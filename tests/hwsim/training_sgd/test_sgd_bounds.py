"""The published bounds lie above the exact risk, and the stability number separates what converges from what diverges."""

from math import inf

import numpy as np
import pytest
from sgd_cases import COMPONENTS, placed

from hwsim.training.bounds import risk_bound, stability
from hwsim.training.regression import StabilityWarning
from hwsim.training.risk import expected_excess_risk
from hwsim.training.sgd import quantized_sgd
from hwsim.training.spectra import exponential, power_law, spiked

SPECTRA = [power_law(50, 1.2), power_law(200, 2.0), exponential(30, 0.3), spiked(40, [1.0, 0.5], 1e-3)]
FP8 = {"format": "fp8_e5m2", "rounding": "stochastic"}
BOUNDED = [
    {},
    *({c: q} for c in COMPONENTS for q in (("additive", 0.01), ("multiplicative", 0.05))),
    *({c: ("multiplicative", 0.05, "batch_common")} for c in COMPONENTS if c != "data"),
    {"data": ("multiplicative", 0.05, "rank_one")},
    placed(("multiplicative", 0.02), "all five"),
    placed(("additive", 0.003), "all five"),
    {"data": FP8, "labels": FP8},
]


@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize("quantizers", BOUNDED, ids=str)
def test_the_bound_lies_above_the_exact_risk(quantizers, batch_size):
    applied = 0
    for spectrum in SPECTRA:
        for step in (0.01, 0.05):
            for steps in (30, 1000):
                arguments = (spectrum, 1.0, 1.0, step, steps, batch_size, quantizers)
                bound = risk_bound(*arguments)
                applied += bound.applies
                assert bound.total > expected_excess_risk(*arguments)
    assert applied >= 10


@pytest.mark.parametrize(("step", "steps", "ratio"), [(0.02, 100, 5.68), (0.05, 1000, 6.19), (0.15, 1000, 10.3)])
def test_without_quantizers_it_is_the_known_bound(step, steps, ratio):
    arguments = (power_law(200, 2.0), 1.0, 1.0, step, steps)
    assert risk_bound(*arguments).total / expected_excess_risk(*arguments) == pytest.approx(ratio, rel=0.01)


def test_the_approximation_terms_are_the_published_ones():
    h = power_law(20, 2.0)
    assert risk_bound(h, 1.0, 1.0, 0.01, 100, quantizers={"data": ("multiplicative", 0.1)}).approximation == pytest.approx(
        0.1 / 1.1 * h.sum()
    )
    additive = risk_bound(h, 1.0, 1.0, 0.01, 100, quantizers={"data": ("additive", 0.1)}).approximation
    assert additive == pytest.approx(float((h * 0.1 / (h + 0.1)).sum()))


def test_effective_dimension_counts_the_quantized_spectrum():
    h = power_law(100, 2.0)
    assert risk_bound(h, 1.0, 1.0, 0.01, 1000).effective_dimension == 3
    assert risk_bound(h, 1.0, 1.0, 0.001, 1000, quantizers={"data": ("additive", 1.0)}).effective_dimension == 100


def test_beyond_its_step_size_the_bound_does_not_apply():
    bound = risk_bound(power_law(200, 2.0), 1.0, 1.0, 0.3, 100)
    assert not bound.applies
    assert bound.total == inf


def test_the_bound_covers_formats_in_all_five_places():
    arguments = (power_law(10, 1.5), 1.0, 1.0, 0.05, 100, 1, placed(FP8, "all five"))
    assert expected_excess_risk(*arguments) < risk_bound(*arguments).total < inf


def growth(h, step, batch, quantizers, storage):
    """The factor a step of the expected risk, late in a long run: towards 1 where it settles."""
    risks = [
        expected_excess_risk(h, 1.0, 1.0, step, n, batch, quantizers=quantizers, average="none", storage=storage)
        for n in (3000, 3010)
    ]
    return (risks[1] / risks[0]) ** 0.1


STABLE = [
    (1, {}, None),
    (16, {}, None),
    (1, {"data": ("multiplicative", 0.2)}, None),
    (16, {"data": ("multiplicative", 0.2, "batch_common")}, None),
    (1, {"activations": ("multiplicative", 0.3), "parameters": ("multiplicative", 0.2)}, None),
    (16, {"output_gradients": ("multiplicative", 0.3, "batch_common")}, None),
    (4, {"parameters": ("multiplicative", 0.2)}, ("multiplicative", 1e-3)),
]


@pytest.mark.parametrize(("batch", "quantizers", "storage"), STABLE)
def test_the_stability_number_is_one_where_the_expected_risk_begins_to_grow_without_end(batch, quantizers, storage):
    h = power_law(30, 1.5)
    low, high = 1e-3, 2.0
    for _ in range(60):
        step = (low + high) / 2
        low, high = (step, high) if stability(h, step, batch, quantizers, storage) < 1 else (low, step)
    with pytest.warns(StabilityWarning):
        assert growth(h, 1.02 * low, batch, quantizers, storage) > 1.0005
    assert growth(h, 0.98 * low, batch, quantizers, storage) < 1.0001


def test_the_stability_number_separates_converging_from_diverging_runs():
    h = power_law(20, 1.5)
    assert stability(h, 0.2) < 1 < stability(h, 2.0)
    assert not quantized_sgd(h, 1.0, 1.0, 0.2, 300, replicas=64).diverged
    with pytest.warns(StabilityWarning, match=r"step_size: 2 has stability number inf"):
        run = quantized_sgd(h, 1.0, 1.0, 2.0, 300, replicas=64)
    assert run.diverged
    assert run.mean == inf


def test_a_diverged_run_with_formats_is_a_result_too():
    with pytest.warns(StabilityWarning):
        run = quantized_sgd(
            power_law(4, 1.0), 1.0, 1.0, 30.0, 400, replicas=64, quantizers={"data": "int8", "labels": "fp8_e4m3fn"}
        )
    assert run.diverged
    assert np.isinf(run.excess_risk.numpy()).any()


def test_the_number_without_quantizers_is_the_known_sum():
    h = power_law(10, 2.0)
    assert stability(h, 0.3, 4) == pytest.approx(0.3 / 4 * float((h / (2 - 0.3 * h * 1.25)).sum()), rel=1e-12)
    assert stability(h, 1.0, 1) == inf
