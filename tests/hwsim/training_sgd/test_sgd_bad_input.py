"""What quantized SGD and its theory refuse, and in which words."""

import pytest
import torch
from sgd_cases import PROBLEM, fixed

from hwsim.errors import ConfigError
from hwsim.training.bounds import risk_bound
from hwsim.training.regression import StabilityWarning
from hwsim.training.risk import expected_excess_risk
from hwsim.training.sgd import quantized_sgd

REFUSED = [
    ({"eigenvalues": [1.0, -0.5]}, "eigenvalues: got -0.5 at index 1; allowed: variances, from 0 on"),
    ({"eigenvalues": []}, "eigenvalues: got shape"),
    ({"eigenvalues": [1.0, float("nan")]}, "eigenvalues: got nan at index 1; allowed: finite numbers"),
    ({"optimum": [1.0, 2.0]}, "optimum: got 2 entries for 8 eigenvalues"),
    ({"noise_variance": -1.0}, "noise_variance: got -1.0; allowed: a variance, from 0 on"),
    ({"step_size": 0.0}, "step_size: got 0.0; allowed: a positive step"),
    ({"steps": 0}, "steps: got 0; allowed: a whole number from 1 on"),
    ({"batch_size": 1.5}, "batch_size: got 1.5; allowed: a whole number from 1 on"),
    ({"average": "tail", "tail": 61}, "tail: got 61 iterates of a run of 60; allowed: 1 to 60"),
    ({"average": "tail"}, "tail: got None with average 'tail'"),
    ({"tail": 5}, "tail: got 5 with average 'all'"),
    ({"average": "tial"}, "did you mean 'tail'"),
    ({"quantizers": {"weights": ("additive", 0.1)}}, "quantizers: got 'weights'; allowed: activations, data, labels"),
    ({"quantizers": {"data": ("additive", -0.1)}}, "quantizers.data: additive: got -0.1; allowed: a finite variance from 0 on"),
    ({"quantizers": {"data": ("aditive", 0.1)}}, "quantizers.data: law: got 'aditive'.*did you mean 'additive'"),
    ({"quantizers": {"data": ("additive", 0.1, "rank_one")}}, "only 'multiplicative' errors are shared"),
    ({"quantizers": {"data": ("dither", 0.0)}}, "dither: got 0.0; allowed: a positive step"),
    ({"quantizers": {"data": ("additive",)}}, "quantizers.data: got"),
    ({"quantizers": {"data": 3}}, "quantizers.data: got 3; allowed"),
    ({"quantizers": {"data": "fp8_e4m3f"}}, "^quantizers.data: .*did you mean 'fp8_e4m3fn'"),
    (
        {"quantizers": {"data": {"format": "int8", "scaling": {"rule": "absmax", "granularity": {"channel": 0}}}}},
        "got a scale per channel",
    ),
]


@pytest.mark.parametrize(("changes", "text"), REFUSED)
@pytest.mark.parametrize("function", [quantized_sgd, expected_excess_risk])
def test_a_wrong_argument_is_named(function, changes, text):
    with pytest.raises(ConfigError, match=text):
        function(**PROBLEM | changes)


THEORY_REFUSES = [
    ({"quantizers": {"activations": {"format": "int8", "scaling": "absmax"}}}, "its scale depends on the whole tensor"),
    ({"quantizers": {"data": "mxfp4"}}, "its scale depends on the whole tensor"),
    ({"quantizers": {"data": "fp32"}}, "formats of up to 16 bits"),
    ({"quantizers": {"data": "uint4"}}, "quantizers.data: uint4 gives zero-mean data a mean"),
    ({"storage": "bf16"}, "storage: got bf16; the error of a stored format depends on the whole law of the weights"),
]


@pytest.mark.parametrize(("changes", "text"), THEORY_REFUSES)
def test_what_the_theory_does_not_cover_is_said(changes, text):
    with pytest.raises(ConfigError, match=text):
        expected_excess_risk(**PROBLEM | changes)


@pytest.mark.parametrize(
    ("quantizer", "text"),
    [
        ("fp8_e5m2", "quantizers.data: fp8_e5m2 is biased; the bounds assume"),
        (fixed({"kind": "integer", "bits": 4, "symmetric": True}, "stochastic", 0.2), "saturates"),
    ],
)
def test_the_bounds_refuse_biased_quantizers(quantizer, text):
    eigenvalues, optimum, noise, step, steps = PROBLEM.values()
    with pytest.raises(ConfigError, match=text):
        risk_bound(eigenvalues, optimum, noise, step, steps, quantizers={"data": quantizer})


def test_a_step_beyond_stability_warns_with_the_number():
    with pytest.warns(StabilityWarning, match=r"step_size: 0.7 has stability number 1\.\d+; below 1 it is stable"):
        expected_excess_risk(**PROBLEM | {"step_size": 0.7})


@pytest.mark.parametrize(
    ("matrix", "text"),
    [(torch.eye(3), r"rotation: got shape \(3, 3\); allowed: \(8, 8\)"), (2 * torch.eye(8), "allowed: an orthogonal matrix")],
)
def test_a_rotation_has_to_be_one(matrix, text):
    with pytest.raises(ConfigError, match=text):
        quantized_sgd(**PROBLEM, rotation=matrix)


def test_replicas_are_counted():
    with pytest.raises(ConfigError, match="replicas: got 0; allowed: a whole number from 1 on"):
        quantized_sgd(**PROBLEM, replicas=0)
