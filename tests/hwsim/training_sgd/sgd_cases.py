"""The problem and the quantizers that the tests of quantized SGD share."""

import numpy as np

COMPONENTS = ("data", "labels", "parameters", "activations", "output_gradients")
TARGETS = (*COMPONENTS, "all five")
AVERAGES = {"all": {"average": "all"}, "tail": {"average": "tail", "tail": 20}, "last": {"average": "last"}}
PROBLEM = {
    "eigenvalues": np.arange(1, 9) ** -1.5,
    "optimum": 1.0,
    "noise_variance": 0.5,
    "step_size": 0.1,
    "steps": 60,
}


def fixed(name, rounding, step):
    return {"format": name, "rounding": rounding, "scaling": {"rule": "fixed", "value": step}}


# No step is a multiple of another's, so that no quantizer meets values of its own grid.
STEPS = {"data": 0.5, "labels": 0.43, "parameters": 0.37, "activations": 0.31, "output_gradients": 0.53}

QUANTIZERS = {
    "additive": ("additive", 0.05),
    "dither": ("dither", 0.7),
    "multiplicative": ("multiplicative", 0.05),
    "rank one": ("multiplicative", 0.05, "rank_one"),
    "batch common": ("multiplicative", 0.05, "batch_common"),
    "float, stochastic": {"format": {"kind": "float", "exponent_bits": 5, "mantissa_bits": 1}, "rounding": "stochastic"},
    "integer, stochastic": {place: fixed("int8", "stochastic", step) for place, step in STEPS.items()},
    "integer, nearest": {place: fixed("int8", "nearest_even", step) for place, step in (STEPS | {"parameters": 0.05}).items()},
}


def placed(quantizer, target):
    """A quantizer, or the one of that name, in its place or in all five."""
    quantizer = QUANTIZERS[quantizer] if isinstance(quantizer, str) else quantizer
    places = COMPONENTS if target == "all five" else (target,)
    by_place = isinstance(quantizer, dict) and set(quantizer) == set(COMPONENTS)
    return {place: quantizer[place] if by_place else quantizer for place in places}
