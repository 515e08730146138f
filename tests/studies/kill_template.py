"""`kill_template.py STUDY`: for each folder on stdin, a fork of this process runs the study there on two workers.

Its number is said, and how it ended. What takes long, importing, is done once.
"""

import multiprocessing
import os
import sys
from pathlib import Path

import torch

from hwsim.studies.executors import local
from hwsim.studies.files import load_study
from hwsim.studies.progress import Quiet
from hwsim.studies.runner import run_study


def main(study: str) -> None:
    # Threads that torch has started would be missing in a fork.
    torch.set_num_threads(1)
    local._Worker.context = multiprocessing.get_context("fork")  # type: ignore[assignment]
    file = load_study(study)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.setsid()
            # What it printed, its own forks would print too, among the numbers below.
            summary = run_study(file, Path(line.strip()), local.Local(2), Quiet(lambda text: None))
            os._exit(len(summary.failed))
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
