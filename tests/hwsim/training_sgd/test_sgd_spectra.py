"""Spectra, bases, and what quantized data look like in them."""

import numpy as np
import pytest
import torch
from sgd_cases import fixed

from hwsim.errors import ConfigError
from hwsim.formats import Draw
from hwsim.training.normals import normals_
from hwsim.training.quantizers import parse_quantizer, quantize_
from hwsim.training.spectra import exponential, power_law, rotation, spectral_distortion, spiked

BASES = ["identity", "hadamard", "random"]


def test_spectra():
    assert power_law(3, 2.0) == pytest.approx([1, 1 / 4, 1 / 9])
    assert exponential(3, 1.0) == pytest.approx(np.exp([0, -1, -2]))
    assert spiked(4, [2.0, 1.0], 0.1) == pytest.approx([2, 1, 0.1, 0.1])


@pytest.mark.parametrize("basis", BASES)
def test_bases_are_orthogonal(basis):
    u = rotation(basis, 16, seed=1)
    assert torch.allclose(u @ u.T, torch.eye(16, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(
    "given",
    [("additive", 0.05), ("multiplicative", 0.1), ("multiplicative", 0.1, "rank_one"), fixed("int8", "stochastic", 0.5)],
    ids=str,
)
def test_the_spectrum_of_quantized_data_is_that_of_a_sample(given, basis):
    h, u = power_law(8, 1.5), rotation(basis, 8, seed=1)
    x = normals_(torch.empty(400_000, 1, 8, dtype=torch.float64), Draw(seed=1)).mul_(torch.as_tensor(h).sqrt()) @ u.T
    x = x.contiguous()
    quantize_(x, parse_quantizer(given, "data"), Draw(seed=2), torch.empty(x.numel(), dtype=torch.float64))
    sample = torch.linalg.eigvalsh(x[:, 0].T @ x[:, 0] / len(x)).flip(0)
    assert spectral_distortion(h, 1.0, given, u).spectrum == pytest.approx(sample.numpy(), rel=0.015)


def test_additive_errors_raise_a_floor_and_multiplicative_ones_scale():
    h = power_law(16, 2.0)
    assert spectral_distortion(h, 1.0, ("additive", 0.1)).spectrum == pytest.approx(h + 0.1)
    assert spectral_distortion(h, 1.0, ("multiplicative", 0.1)).spectrum == pytest.approx(1.1 * h)


def test_a_hadamard_rotation_turns_multiplicative_errors_into_additive_ones():
    h = power_law(256, 2.0)
    turned = spectral_distortion(h, 1.0, ("multiplicative", 0.01), rotation("hadamard", 256))
    assert turned.spectrum == pytest.approx(h + 0.01 * h.mean(), rel=1e-9)
    aligned = spectral_distortion(h, 1.0, ("multiplicative", 0.01))
    assert turned.approximation > 15 * aligned.approximation


def test_the_approximation_error_has_its_closed_form():
    h = power_law(200, 2.0)
    distortion = spectral_distortion(h, 1.0, ("multiplicative", 0.01))
    assert distortion.approximation == pytest.approx((0.01 / 1.01) ** 2 * h.sum() / 2, rel=1e-9)
    assert distortion.irreducible == pytest.approx(0.01 / 1.01 * h.sum() / 2, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: rotation("hadamard", 200),
            "dimension: got 200 for a Hadamard matrix; allowed: powers of two, such as 128 and 256",
        ),
        (lambda: rotation("hadamrd", 16), "did you mean 'hadamard'"),
        (lambda: power_law(0, 1.0), "dimension: got 0; allowed: a whole number from 1 on"),
        (lambda: spiked(1, [1.0, 2.0], 0.1), "spikes: got 2 for dimension 1"),
        (lambda: spectral_distortion(power_law(4, 1.0), 1.0, "fp8_e5m2", rotation("hadamard", 4)), "is biased, or saturates"),
    ],
)
def test_bad_input_is_named(call, text):
    with pytest.raises(ConfigError, match=text):
        call()
