"""A study's own functions may lie in the working directory."""

import sys
from pathlib import Path

import pytest

from hwsim.studies.cli import main

MODULE = """
import torch
from torch import nn

def make():
    return nn.Linear(2, 3)

def load():
    return torch.ones(4, 2), torch.zeros(4, dtype=torch.long), torch.ones(2, 2), torch.zeros(2, dtype=torch.long)
"""
STUDY = """
study:
  name: mine
  task: {model: "my_functions:make", data: "my_functions:load", epochs: 1, batch_size: 4}
  optimizer: {name: sgd, lr: 0.1}
  seeds: [0]
"""


@pytest.mark.parametrize(
    ("edit", "code", "said"), [(("", ""), 0, "a study of 1 runs"), (("make", "mkae"), 2, "did you mean 'make'?")]
)
def test_the_command_finds_them_there(
    edit: tuple[str, str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "my_functions.py").write_text(MODULE)
    (tmp_path / "mine.yaml").write_text(STUDY.replace(*edit))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hwsim", "check", "mine.yaml", "--trust", "my_functions"])
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "my_functions", raising=False)
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert (ended.value.code, said in captured.out + captured.err) == (code, True)
