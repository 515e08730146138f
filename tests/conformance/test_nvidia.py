"""NVIDIA's own converters, compiled for the host from the CUDA headers, against the `nvidia` preset and its unsaturated twin."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from hwsim.formats import Float, Format, Projection, Rounding
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.presets import preset

SOURCE = Path(__file__).with_name("nvidia.cpp")
E4M3, E5M2 = Float(4, 3, specials="fn"), Float(5, 2)
E8M0 = Float(8, 0, bias=127, specials="fn", subnormals=False, signed=False, zero=False)
NVIDIA = preset("nvidia")
CASES: dict[str, tuple[Format, Projection]] = {
    "e4m3_saturate": (E4M3, NVIDIA),
    "e4m3_overflow": (E4M3, Projection(overflow="nan")),
    "e5m2_saturate": (E5M2, NVIDIA),
    "e5m2_overflow": (E5M2, Projection(overflow="infinity")),
    "e3m2_saturate": (Float(3, 2, specials="finite"), NVIDIA),
    "e2m3_saturate": (Float(2, 3, specials="finite"), NVIDIA),
    "e2m1_saturate": (Float(2, 1, specials="finite"), NVIDIA),
}
HOST_ONLY = "#define NV_IF_ELSE_TARGET(CONDITION, YES, NO) NO\n"
"""Stands for libcu++'s header nv/target, which chooses between the paths of a GPU and of the host."""

E8M0_CASES = {"e8m0_down": "toward_zero", "e8m0_up": "toward_positive"}


def header_folder() -> Path | None:
    """The folder of the CUDA headers in the packages that ship them whole, or None."""
    for package in ("nvidia", "triton"):
        spec = importlib.util.find_spec(package)
        roots = (spec.submodule_search_locations or ()) if spec else ()
        for header in (path for root in roots for path in Path(root).glob("**/include/cuda_fp4.h")):
            if (header.parent / "crt" / "host_defines.h").exists():
                return header.parent
    return None


@pytest.fixture(scope="module")
def nvidia(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    headers = header_folder()
    if headers is None or not shutil.which("g++"):
        pytest.skip("needs g++ and the CUDA headers (pip install triton)")
    folder = tmp_path_factory.mktemp("nvidia")
    (folder / "nv").mkdir()
    (folder / "nv" / "target").write_text(HOST_ONLY)
    library = folder / "nvidia.so"
    includes = [f"-isystem{headers}", f"-isystem{folder}"]
    subprocess.run(
        ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-ffp-contract=off", *includes, SOURCE, "-o", library], check=True
    )
    return ctypes.CDLL(str(library))


def convert(library: ctypes.CDLL, name: str, x: torch.Tensor) -> torch.Tensor:
    codes = torch.empty(x.numel(), dtype=torch.uint8)
    function = getattr(library, f"{name}_{'double' if x.dtype is torch.float64 else 'float'}")
    function(ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(codes.data_ptr()), ctypes.c_long(x.numel()))
    return codes


def half_precision_values() -> torch.Tensor:
    """Every value of float16 and of bfloat16, as float32."""
    codes = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    return torch.cat([codes.view(torch.float16).float(), codes.view(torch.bfloat16).float()])


def beside(x: torch.Tensor) -> torch.Tensor:
    """Every x and the float64 values just above and below, which float32 cannot tell apart."""
    wide = x.double()
    far = torch.full_like(wide, torch.inf)
    return torch.cat([wide, torch.nextafter(wide, far), torch.nextafter(wide, -far)])


def differences(x: torch.Tensor, expected: torch.Tensor, given: torch.Tensor) -> list[tuple[float, float, float]]:
    equal = (expected == given) & (expected.signbit() == given.signbit()) | expected.isnan() & given.isnan()
    return list(zip(x[~equal].tolist(), expected[~equal].tolist(), given[~equal].tolist(), strict=True))[:8]


@pytest.mark.parametrize("name", CASES)
def test_nvidia_converts_half_precision_values_as_the_preset(nvidia: ctypes.CDLL, name: str) -> None:
    fmt, projection = CASES[name]
    x = half_precision_values()
    expected = fmt.decode(convert(nvidia, name, x))
    assert not differences(x, expected, quantize_tensor(x, fmt, projection))


@pytest.mark.parametrize("name", CASES)
def test_nvidia_rounds_float64_once_as_the_preset(nvidia: ctypes.CDLL, name: str) -> None:
    fmt, projection = CASES[name]
    x = beside(half_precision_values())
    expected = fmt.decode(convert(nvidia, name, x)).double()
    assert not differences(x, expected, quantize_tensor(x, fmt, projection))


@pytest.mark.parametrize(("name", "mode"), E8M0_CASES.items())
def test_nvidia_converts_scales_as_the_directed_modes(nvidia: ctypes.CDLL, name: str, mode: str) -> None:
    x = half_precision_values()
    expected = E8M0.decode(convert(nvidia, name, x))
    given = quantize_tensor(x.abs(), E8M0, Projection(Rounding(mode), nan="max"))  # type: ignore[arg-type]
    assert not differences(x, expected, given)


@pytest.mark.parametrize(
    ("name", "x", "code"),
    [
        ("e4m3_saturate", float("nan"), 0x7F),
        ("e5m2_saturate", float("nan"), 0x7F),
        ("e3m2_saturate", float("nan"), 0x1F),
        ("e2m1_saturate", float("nan"), 0x7),
        ("e4m3_saturate", float("inf"), 0x7E),
        ("e4m3_overflow", float("inf"), 0x7F),
        ("e5m2_saturate", float("inf"), 0x7B),
        ("e5m2_overflow", float("inf"), 0x7C),
        ("e8m0_down", -3.0, 0x80),
        ("e8m0_down", 0.0, 0x00),
    ],
)
def test_nvidia_gives_the_observed_codes(nvidia: ctypes.CDLL, name: str, x: float, code: int) -> None:
    assert convert(nvidia, name, torch.tensor([x])).tolist() == [code]
