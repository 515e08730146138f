import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def linear() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return nn.Linear(5, 3), (torch.randn(8, 5), torch.randn(8, 3))
