"""The house rules that a test can hold: which room may import which, and how large a module may grow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "formats": {"formats"},
    "hwsim": {"formats", "hwsim"},
    "models": {"models"},
    "studies": {"formats", "hwsim", "models", "studies"},
}
MODULES = [
    path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")) if not any(p.is_symlink() for p in path.parents)
]


def imported(path: Path) -> list[str]:
    """The absolute module names that a file imports from hwsim."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.split(".")[0] == "hwsim"]


def room_of(name: str) -> str:
    part = [*name.split("."), "hwsim"][1]
    return part if part in ROOMS else "hwsim"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_the_rooms_below_it(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    if path == ROOT / "hwsim" / "__init__.py":
        return
    outside = [name for name in imported(path) if room_of(name) not in ROOMS[room]]
    assert not outside, f"{path} imports {outside}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_stays_readable_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 320


@pytest.mark.parametrize("room", ["formats", "models", "studies", "configs"])
def test_the_rooms_at_the_root_are_the_packages_that_import(room: str) -> None:
    link = ROOT / "hwsim" / room
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == ROOT / room


def test_import_loads_no_library_that_only_a_first_use_needs() -> None:
    late = (
        "numba",
        "llvmlite",
        "triton",
        "scipy",
        "rich",
        "duckdb",
        "pyarrow",
        "torchvision",
        "torch._dynamo",
        "torch._inductor",
    )
    code = f"import hwsim, sys; print([name for name in {late} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
