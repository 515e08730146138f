"""Training algorithms whose weights end on the hardware's own values."""

from .adaround import AdaRound, fit_rounding
from .bounds import Bound, risk_bound, stability
from .breakpoints import Breakpoints, breakpoints, prox
from .constructions import (
    distance,
    l1_slopes,
    mcp,
    mcp_like,
    quantization_rate,
    rate_bound,
    squared_l2_slopes,
    stairs,
)
from .deploy import DeploymentCheck, LayerCheck, check_deployment, unit_layer
from .dorefa import dorefa_activation, dorefa_gradient, dorefa_weight
from .equivalent import EquivalentNoise, equivalent_noise
from .glm import ABSOLUTE, LOGISTIC, POISSON, SQUARES, Glm
from .hardware import HardwareWeight, to_hardware
from .level_quantizers import LSBQ, Asymmetric, FormatLevels, LevelQuantizer, Ternary, Uniform, learned_codebook
from .lsq import LSQ
from .pact import PACT
from .par import PAR, GuaranteeWarning
from .parq import PARQ, split_parameters
from .proxmaps import Aprox, BinaryRelax, Hard, Parq, Progress, ProxMap, ProxQuant, Soft
from .quantizers import COMPONENTS, Noise
from .regression import StabilityWarning
from .risk import RiskSplit, expected_excess_risk
from .schedules import Linear, Sigmoid
from .sgd import Ensemble, quantized_sgd
from .solvers import Solution, Stopping, accelerated, admm, objective, proximal_gradient
from .spectra import Distortion, exponential, power_law, rotation, spectral_distortion, spiked
from .stochastic import Trajectory, aprox, constant_step_bound, convergence_bound, prox_sgd

__all__ = [
    "ABSOLUTE",
    "COMPONENTS",
    "LOGISTIC",
    "LSBQ",
    "LSQ",
    "PACT",
    "PAR",
    "PARQ",
    "POISSON",
    "SQUARES",
    "AdaRound",
    "Aprox",
    "Asymmetric",
    "BinaryRelax",
    "Bound",
    "Breakpoints",
    "DeploymentCheck",
    "Distortion",
    "Ensemble",
    "EquivalentNoise",
    "FormatLevels",
    "Glm",
    "GuaranteeWarning",
    "Hard",
    "HardwareWeight",
    "LayerCheck",
    "LevelQuantizer",
    "Linear",
    "Noise",
    "Parq",
    "Progress",
    "ProxMap",
    "ProxQuant",
    "RiskSplit",
    "Sigmoid",
    "Soft",
    "Solution",
    "StabilityWarning",
    "Stopping",
    "Ternary",
    "Trajectory",
    "Uniform",
    "accelerated",
    "admm",
    "aprox",
    "breakpoints",
    "check_deployment",
    "constant_step_bound",
    "convergence_bound",
    "distance",
    "dorefa_activation",
    "dorefa_gradient",
    "dorefa_weight",
    "equivalent_noise",
    "expected_excess_risk",
    "exponential",
    "fit_rounding",
    "l1_slopes",
    "learned_codebook",
    "mcp",
    "mcp_like",
    "objective",
    "power_law",
    "prox",
    "prox_sgd",
    "proximal_gradient",
    "quantization_rate",
    "quantized_sgd",
    "rate_bound",
    "risk_bound",
    "rotation",
    "spectral_distortion",
    "spiked",
    "split_parameters",
    "squared_l2_slopes",
    "stability",
    "stairs",
    "to_hardware",
    "unit_layer",
]
