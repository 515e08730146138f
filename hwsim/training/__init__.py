"""Training algorithms whose weights end on the hardware's own values."""

from .adaround import AdaRound, fit_rounding
from .breakpoints import Breakpoints, breakpoints, prox
from .constructions import (
    GuaranteeWarning,
    distance,
    l1_slopes,
    mcp,
    mcp_like,
    quantization_rate,
    rate_bound,
    squared_l2_slopes,
    stairs,
)
from .deploy import DeploymentCheck, HardwareWeight, LayerCheck, check_deployment, to_hardware
from .dorefa import dorefa_activation, dorefa_gradient, dorefa_weight
from .glm import ABSOLUTE, LOGISTIC, POISSON, SQUARES, Glm
from .level_quantizers import LSBQ, Asymmetric, FormatLevels, LevelQuantizer, Ternary, Uniform
from .lsq import LSQ
from .pact import PACT
from .par import PAR
from .parq import PARQ, split_parameters
from .proxmaps import Aprox, BinaryRelax, Hard, Parq, Progress, ProxMap, ProxQuant, Soft
from .schedules import Linear, Sigmoid
from .solvers import Solution, Stopping, accelerated, admm, objective, proximal_gradient
from .stochastic import Trajectory, aprox, convergence_bound, prox_sgd

__all__ = [
    "ABSOLUTE",
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
    "Breakpoints",
    "DeploymentCheck",
    "FormatLevels",
    "Glm",
    "GuaranteeWarning",
    "Hard",
    "HardwareWeight",
    "LayerCheck",
    "LevelQuantizer",
    "Linear",
    "Parq",
    "Progress",
    "ProxMap",
    "ProxQuant",
    "Sigmoid",
    "Soft",
    "Solution",
    "Stopping",
    "Ternary",
    "Trajectory",
    "Uniform",
    "accelerated",
    "admm",
    "aprox",
    "breakpoints",
    "check_deployment",
    "convergence_bound",
    "distance",
    "dorefa_activation",
    "dorefa_gradient",
    "dorefa_weight",
    "fit_rounding",
    "l1_slopes",
    "mcp",
    "mcp_like",
    "objective",
    "prox",
    "prox_sgd",
    "proximal_gradient",
    "quantization_rate",
    "rate_bound",
    "split_parameters",
    "squared_l2_slopes",
    "stairs",
    "to_hardware",
]
