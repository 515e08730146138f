"""The tutorial's commands, run one after the other; they print what the page says, `...` standing for anything."""

import doctest
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hwsim.studies.cli import app

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "tutorial.md").read_text()
COMMANDS = [
    tuple(part.partition("\n")[::2])
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, flags=re.M | re.S)
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]
]


def run(command: str) -> str:
    """What a command prints; `hwsim` runs in this process, with its words as a shell expands them."""
    if not command.startswith("hwsim "):
        return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True).stdout
    result = CliRunner().invoke(app, words.split("\0")[1:-1], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.large
def test_the_commands_of_the_tutorial_print_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.M | re.S)[0])
    for command, expected in COMMANDS:
        printed = run(command)
        assert doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS), f"$ {command}\n{printed}"


def test_the_tutorial_has_commands_from_check_to_rerun() -> None:
    verbs = [shlex.split(command, posix=False)[1] for command, _ in COMMANDS if command.startswith("hwsim ")]
    assert list(dict.fromkeys(verbs)) == ["check", "run", "list", "budget", "rerun"]
