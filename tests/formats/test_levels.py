"""Codebooks, additive powers of two, posits, logarithmic numbers: values and roundings, against other ways to find them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

import pytest
import torch
from rounding_cases import FORMATS, same

import hwsim
from hwsim.formats import Codebook, Draw, Format, FormatError, Levels, Logarithmic, Posit, Projection, Rounding
from hwsim.formats.level_lowering import declared, lower_any, unpack
from hwsim.formats.operators import quantize_tensor
from hwsim.formats.reference import project
from hwsim.formats.scaled import ScaleLayout

INF, NAN = float("inf"), float("nan")
NF4 = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]
"""Dettmers et al., QLoRA, appendix E."""


def rounded(values: list[float], fmt: Format | str, **projection: Any) -> list[float]:
    rounding = Rounding.parse(projection.pop("rounding", "nearest_even"))
    fmt = hwsim.format(fmt)
    x = torch.tensor(values, dtype=torch.float64)
    result: list[float] = quantize_tensor(x, fmt, Projection(rounding, **projection)).tolist()
    return result


class TestValues:
    def test_nf4_has_the_published_levels_in_the_order_of_its_codes(self) -> None:
        nf4 = hwsim.format("nf4")
        assert nf4.decode(torch.arange(16)).double().tolist() == NF4
        assert nf4.values().tolist() == nf4.decode(torch.arange(16)).tolist()

    @pytest.mark.parametrize(
        ("name", "bits", "values"),
        [("binary", 1, [-1, 1]), ("ternary", 2, [-1, 0, 1]), ("uapot2", 2, [0, 0.25, 0.5, 1])],
    )
    def test_small_codebooks(self, name: str, bits: int, values: list[float]) -> None:
        fmt = hwsim.format(name)
        assert (fmt.bits, fmt.values().tolist(), fmt.max) == (bits, values, 1.0)

    @pytest.mark.parametrize(
        ("name", "terms"),
        [
            ("apot3", [[1, 2, 3]]),
            ("apot4", [[1, 2, 4], [3]]),
            ("apot5", [[1, 3, 5], [2, 4, 6]]),
            ("apot6", [[1, 3, 6], [2, 4, 7], [5]]),
            ("apot7", [[1, 4, 7], [2, 5, 8], [3, 6, 9]]),
        ],
    )
    def test_additive_powers_of_two_are_those_of_the_released_code(self, name: str, terms: list[list[int]]) -> None:
        """`build_power_value` starts at 1/2 and divides by the largest sum, which is left to the scale here."""
        choices = [[0.0, *(2.0**-e for e in term)] for term in terms]
        magnitudes = {2 * sum(choice) for choice in product(*choices)}
        assert hwsim.format(name).values().tolist() == sorted(magnitudes | {-m for m in magnitudes})

    def test_what_a_code_beyond_the_levels_means(self) -> None:
        assert hwsim.format("ternary").decode(torch.tensor([3])).isnan().item()

    def test_levels_are_float32_numbers(self) -> None:
        fmt = hwsim.format({"kind": "codebook", "levels": [-1, 0, 0.3]})
        assert fmt.values().dtype == torch.float32
        assert fmt.values().tolist() == torch.tensor([-1, 0, 0.3]).tolist()

    @pytest.mark.parametrize(("bits", "fraction_bits"), [(8, 3), (6, 0), (16, 10), (12, 9)])
    def test_logarithmic_values_and_boundaries_are_correctly_rounded_powers(self, bits: int, fraction_bits: int) -> None:
        gmpy2 = pytest.importorskip("gmpy2")
        levels, half = Logarithmic(bits, fraction_bits).lattice, 1 << (bits - 2)
        nearest, down = gmpy2.context(precision=24), gmpy2.context(precision=53, round=gmpy2.RoundDown)
        for log in range(1 - half, half, 1 if bits <= 8 else 97):
            place = levels.codes.index(log % (2 * half))
            value = nearest.exp2(gmpy2.mpq(log, 1 << fraction_bits))
            boundary = down.exp2(gmpy2.mpq(2 * log - 1, 2 << fraction_bits))
            assert (levels.values[place], levels.boundaries[place - 1]) == (float(value), float(boundary))


def posit_value(string: str, es: int) -> Fraction:
    """Standard for Posit Arithmetic (2022), section 3.2: ((1 - 3s) + f) 2^((1 - 2s)(4r + e + s)), 4 being 2^es."""
    s = int(string[0])
    rest = string[1:]
    run = len(rest) - len(rest.lstrip(rest[0]))
    r = run - 1 if rest[0] == "1" else -run
    tail = rest[run + 1 :]
    e = int((tail[:es] or "0").ljust(es, "0"), 2) if es else 0
    fraction = tail[es:]
    f = Fraction(int(fraction, 2), 1 << len(fraction)) if fraction else Fraction(0)
    return ((1 - 3 * s) + f) * Fraction(2) ** ((1 - 2 * s) * (r * 2**es + e + s))


class TestPosits:
    @pytest.mark.parametrize(("bits", "es"), [(3, 2), (5, 1), (8, 0), (8, 1), (8, 2), (8, 3), (10, 2), (16, 2)])
    def test_every_code_has_the_value_of_the_standards_formula(self, bits: int, es: int) -> None:
        fmt, nar = Posit(bits, es), 1 << (bits - 1)
        codes = [code for code in range(0, 1 << bits, 1 if bits < 16 else 37) if code not in (0, nar)]
        expected = [float(posit_value(format(code, f"0{bits}b"), es)) for code in codes]
        assert fmt.decode(torch.tensor(codes)).double().tolist() == expected
        assert fmt.decode(torch.tensor([0])).item() == 0
        assert fmt.decode(torch.tensor([nar])).isnan().item()

    @pytest.mark.parametrize(("name", "largest", "smallest"), [("posit8_2", 2**24, 2**-24), ("posit16_1", 2**28, 2**-28)])
    def test_the_ends_of_the_range(self, name: str, largest: float, smallest: float) -> None:
        fmt = hwsim.format(name)
        assert (fmt.max, fmt.min, fmt.smallest_subnormal) == (largest, -largest, smallest)
        assert rounded([1e300, 1e-300, -1e300, -1e-300, 0.0, -0.0], fmt) == [largest, smallest, -largest, -smallest, 0, 0]

    @pytest.mark.parametrize(("bits", "es"), [(5, 1), (6, 2), (8, 0), (8, 2)])
    def test_nearest_rounds_the_code_string(self, bits: int, es: int) -> None:
        """Codes of ten more bits are cut after `bits` by the rule of integers: half up, a half to the even code."""
        fmt, more = Posit(bits, es), 10
        longer = torch.arange(1, 1 << (bits - 1 + more), 7)
        x = torch.tensor([float(posit_value(format(int(c), f"0{bits + more}b"), es)) for c in longer], dtype=torch.float64)
        kept, rest, half = longer >> more, longer & ((1 << more) - 1), 1 << (more - 1)
        expected = kept + ((rest > half) | ((rest == half) & (kept % 2 == 1))).long()
        expected = expected.clamp(1, (1 << (bits - 1)) - 1)
        assert torch.equal(fmt.encode(quantize_tensor(x, fmt)), expected)
        assert torch.equal(quantize_tensor(-x, fmt), -quantize_tensor(x, fmt))

    def test_infinities_become_nar_where_overflow_says_so_and_finite_numbers_never(self) -> None:
        given = [INF, -INF, 1e30]
        assert rounded(given, "posit8_1", overflow="saturate") == [4096, -4096, 4096]
        assert str(rounded(given, "posit8_1", overflow="nan")) == "[nan, nan, 4096.0]"


class TestRounding:
    @pytest.mark.parametrize(
        ("mode", "expected"),
        [
            ("nearest_even", [-1, 0, 0, 0, 0, 1]),
            ("nearest_away", [-1, -1, 0, 0, 1, 1]),
            ("nearest_zero", [-1, 0, 0, 0, 0, 1]),
            ("toward_zero", [0, 0, 0, 0, 0, 0]),
            ("toward_positive", [0, 0, 0, 1, 1, 1]),
            ("toward_negative", [-1, -1, -1, 0, 0, 0]),
            ("to_odd", [-1, -1, -1, 1, 1, 1]),
        ],
    )
    def test_modes(self, mode: str, expected: list[float]) -> None:
        levels = Codebook((0.0, 1.0, 2.0, -1.0))
        assert rounded([-0.7, -0.5, -0.3, 0.3, 0.5, 0.7], levels, rounding=mode) == expected

    @pytest.mark.parametrize("mode", ["nearest_even", "nearest_zero", "toward_zero"])
    def test_binary_is_the_sign_with_zero_positive(self, mode: str) -> None:
        assert rounded([-2, -1e-300, -0.0, 0.0, 1e-300, 7], "binary", rounding=mode) == [-1, -1, 1, 1, 1, 1]

    def test_beyond_the_levels_the_last_one_is_taken_by_every_mode(self) -> None:
        for mode in ("nearest_even", "toward_zero", "toward_positive", "toward_negative", "to_odd", "stochastic"):
            assert rounded([9.0, INF, -9.0, -INF], "nf4", rounding=mode) == [1, 1, -1, -1]

    @pytest.mark.parametrize("name", ["nf4", "apot5"])
    def test_nearest_is_nearest(self, name: str) -> None:
        fmt = hwsim.format(name)
        values = [Fraction(v) for v in fmt.values().tolist()]
        for x in torch.linspace(-1.1, 1.6, 301, dtype=torch.float64).tolist():
            place = bisect_left(values, x)
            best = min(values[max(place - 1, 0) : place + 1], key=lambda v: abs(v - Fraction(x)))
            assert rounded([x], fmt) == [float(best)]

    def test_logarithmic_nearest_is_nearest_in_the_logarithm(self) -> None:
        x = torch.rand(2000, dtype=torch.float64).sub(0.5).mul(15.8).exp2()
        given = quantize_tensor(x, hwsim.format("lns8"))
        assert torch.equal((given.log2() * 8).round(), (x.log2() * 8).round().clamp(-63, 63))

    def test_logarithmic_numbers_below_half_a_step_under_the_smallest_are_zero(self) -> None:
        smallest = hwsim.format("lns8").smallest_subnormal
        assert rounded([smallest * 2**-0.0624, smallest * 2**-0.0626], "lns8") == [smallest, 0.0]

    @pytest.mark.parametrize("variant", ["A", "B", "C"])
    @pytest.mark.parametrize("name", ["binary", "codes_in_any_order", "posit8_0", "lns8", "far_apart"])
    def test_stochastic_goes_out_in_as_many_draws_as_the_variant_says(self, name: str, variant: str) -> None:
        fmt, n = FORMATS[name], 4
        projection = Projection(Rounding("stochastic", n, variant))  # type: ignore[arg-type]
        assert isinstance(fmt.lattice, Levels)
        low, high = (Fraction(v) for v in fmt.lattice.values[:2])
        inner, outer = (low, high) if abs(low) < abs(high) else (high, low)
        for eighths in range(1, 8 * 2**n, 3):
            v = Fraction(eighths, 8 * 2**n)
            x, away = inner + v * (outer - inner), outer
            if name == "binary" and x < 0:
                v, away = 1 - v, inner
            outwards = sum(project(x, fmt, projection, draw << (32 - n)) == away for draw in range(2**n))
            scaled = v * 2**n
            assert outwards == {"A": scaled.__floor__(), "B": (scaled + Fraction(1, 2)).__floor__(), "C": round(scaled)}[variant]

    @pytest.mark.parametrize("backend", ["torch", "numba"])
    @pytest.mark.parametrize("name", ["binary", "far_apart", "posit8_2", "lns8"])
    def test_scaled_quotients_are_rounded_once_from_their_exact_value(self, name: str, backend: str) -> None:
        fmt = FORMATS[name]
        assert isinstance(fmt.lattice, Levels)
        middle = len(fmt.lattice.values) // 2
        points = [*fmt.lattice.boundaries[middle - 1 : middle + 2], *fmt.lattice.values[middle - 1 : middle + 2], 0.3, 5e-324]
        for dtype in (torch.float32, torch.float64):
            scale = torch.tensor([3.0, 1 / 3, -0.7, 2.0**-130, 0.0, INF, NAN], dtype=dtype)
            near = (torch.tensor(points, dtype=torch.float64) * scale[:, None].double()).to(dtype)
            away = torch.full_like(near, INF)
            x = torch.cat([near, near.nextafter(away), near.nextafter(-away), near.new_tensor([[INF, 5e-324]]).expand(7, 2)], 1)
            for mode in ("nearest_even", "to_odd", "stochastic(3)", "stochastic(32)"):
                projection = Projection(Rounding.parse(mode), nan="max")
                for rescale, finite in product((True, False), repeat=2):
                    columns = x[:, :-2] if finite else x
                    given = [
                        quantize_tensor(columns, fmt, projection, scale, ScaleLayout(0), Draw(seed=2), name, rescale)
                        for name in (backend, "reference")
                    ]
                    assert same(*given), (mode, rescale, finite, dtype)

    @pytest.mark.parametrize("backend", ["torch", "numba"])
    @pytest.mark.parametrize(
        ("scale", "x"),
        [(8444261.0, 4644961.0), (12846865.0, 11504806.0), (12267290.0, 11302583.0)],
        ids=["below", "below", "above"],
    )
    def test_a_quotient_that_float64_takes_for_a_boundary_is_on_its_own_side(self, scale: float, x: float, backend: str) -> None:
        fmt = Logarithmic(12, 9)
        assert x / scale in fmt.lattice.boundaries
        assert Fraction(x) / Fraction(scale) not in map(Fraction, fmt.lattice.boundaries)
        numbers, divisor = torch.cat([torch.tensor([x, -x]), torch.randn(998) * scale]), torch.tensor(scale)
        given = [quantize_tensor(numbers, fmt, scale=divisor, backend=name) for name in (backend, "reference")]
        assert same(*given)


class TestOperator:
    @pytest.mark.parametrize("name", ["nf4", "posit16_1", "lns8", "apot4"])
    def test_a_packed_rule_is_the_rule(self, name: str) -> None:
        rule = lower_any(hwsim.format(name), Projection(Rounding("stochastic", 7), nan="max"))
        assert unpack(rule.packed()).packed() == rule.packed()
        assert len(rule.packed()) < 1000

    def test_a_class_that_nothing_can_import_is_refused(self) -> None:
        @dataclass(frozen=True)
        class Local(Codebook):
            pass

        with pytest.raises(FormatError, match="a class within a function; allowed: formats defined in a module"):
            declared(Local((1.0, 2.0)))

    # opcheck itself looks at .grad of tensors that are no leaves.
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
    def test_opcheck(self) -> None:
        rule = lower_any(hwsim.format("nf4"), Projection(nan="zero")).packed()
        x = torch.randn(3, 4, requires_grad=True)
        torch.library.opcheck(torch.ops.hwsim.quantize.default, (x, rule, None, [], list(Draw().numbers), x.dtype))

    def test_compiled_graphs_gradients_and_transforms(self) -> None:
        nf4, scale, x = hwsim.format("nf4"), torch.tensor(0.5), torch.randn(5)

        def f(x: torch.Tensor) -> torch.Tensor:
            return quantize_tensor(x * 2, nf4, scale=scale) + 1

        assert torch.equal(torch.compile(f, backend="eager", fullgraph=True)(x), f(x))
        assert torch.equal(torch.func.grad(lambda x: f(x).sum())(x), torch.full((5,), 2.0))

    @pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)])
    @pytest.mark.parametrize("backend", ["reference", "torch", "numba", None])
    def test_any_shape(self, shape: tuple[int, ...], backend: str | None) -> None:
        x = torch.full(shape, 0.9)
        assert same(quantize_tensor(x, hwsim.format("ternary"), backend=backend), torch.ones(shape))

    @pytest.mark.usefixtures("two_threads")
    @pytest.mark.parametrize("mode", ["nearest_even", "stochastic"])
    def test_strides_and_threads(self, mode: str) -> None:
        x, nf4, projection = torch.randn(300, 700), hwsim.format("nf4"), Projection(Rounding.parse(mode))
        expected = quantize_tensor(x, nf4, projection, backend="torch")
        given = quantize_tensor(x.t().contiguous().t(), nf4, projection, backend="numba")
        assert same(given, expected)
        assert given.stride() == (1, 300)

    @pytest.mark.parametrize("backend", ["torch", "numba"])
    def test_nan_is_refused_with_its_index(self, backend: str) -> None:
        with pytest.raises(FormatError, match=r"x\[1\]: got nan, which becomes NaN"):
            quantize_tensor(torch.tensor([1.0, NAN]), hwsim.format("nf4"), backend=backend)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "codebook", "levels": [1]}, "levels: got 1 levels; allowed: 2 to 65536"),
        ({"kind": "codebook", "levels": [0, -0.0]}, "levels: got 0.0 twice"),
        ({"kind": "codebook", "levels": [0, 1e39]}, "levels: got 1e[+]39; allowed: finite numbers within float32"),
        ({"kind": "posit", "bits": 8, "es": -1}, "es: got -1; allowed: a whole number from 0 to 3"),
        ({"kind": "posit", "bits": 32}, "bits: got 32; allowed: a whole number from 3 to 16"),
        ({"kind": "logarithmic", "bits": 8, "fraction_bits": 6}, "fraction_bits: got 6 of 8 bits"),
        ({"kind": "apot", "bits": 6, "base_bits": 3}, "base_bits: got 3; allowed: 2, or what divides 5"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        hwsim.format(given)


@pytest.mark.parametrize(("overflow", "message"), [("wrap", "got 'wrap'"), ("infinity", "no infinity"), ("nan", "no NaN")])
def test_overflow_that_levels_cannot_follow_is_refused(overflow: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        rounded([1.0], "nf4", overflow=overflow)
