"""What has to be chosen before torch and Triton are first imported."""

import os

# Workers share the cores out: threads of two workers that spin while they wait for one another slow both down twentyfold.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // workers, 1))
    os.environ["OMP_WAIT_POLICY"] = "passive"

import torch

# Where there is no GPU, Triton kernels run in Triton's interpreter.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
