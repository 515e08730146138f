"""The error budget: what each cast and each accumulator of a datapath costs, measured and predicted."""

from .budget import budget
from .causes import Facts
from .table import Budget, Row, spearman

__all__ = ["Budget", "Facts", "Row", "budget", "spearman"]
