"""The example package: a format, a task, an executor and a sink of a third party, found by their entry points."""

import configparser
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugin"


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """An environment in which the package is installed: on the path, with the entry points that its pyproject declares."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / f"hwsim_example-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = configparser.ConfigParser()
    points.read_dict(project["entry-points"])
    with (info / "entry_points.txt").open("w") as file:
        points.write(file)
    paths = [str(info.parent), str(PLUGIN), *filter(None, sys.path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.mark.large
def test_a_study_uses_what_a_package_adds(installed: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hwsim.studies", "run", str(PLUGIN / "study.yaml"), "--output", str(tmp_path / "out")]
    options = ["--executor", "serial", "--log", "lines"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=installed, check=False)
    assert done.returncode == 0, done.stderr
    assert "plugin: 2 runs done, 0 were finished before" in done.stdout
    records = [json.loads(path.read_text()) for path in (tmp_path / "out" / "runs").glob("*/run.json")]
    assert {record["run"]["task"]["name"] for record in records} == {"two_moons"}
    kinds = {
        record["run"]["datapath"]["gemm"]["output"]["weight"]["format"]["kind"]
        for record in records
        if record["run"]["datapath"]["name"] != "fp32"
    }
    assert kinds == {"sqrt_levels"}
    lines = [json.loads(line) for path in (tmp_path / "out" / "lines").iterdir() for line in path.read_text().splitlines()]
    assert sorted(line["epoch"] for line in lines) == [0, 0, 1, 1]
    assert all(line["accuracy"] > 0.5 for line in lines if line["epoch"] == 1)
