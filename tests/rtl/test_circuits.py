"""Circuits as written, before synthesis, beside the emulator."""

import pytest
import torch
from rtl.simulated import shortened, wrong

import hwsim
from hwsim.casts import Cast
from hwsim.errors import FormatError
from hwsim.fields import format_record
from hwsim.macs import Scaled, mac, matmul
from hwsim.rtl.converters import converter
from hwsim.rtl.stimuli import Stimuli, encoded, of_converter, of_unit
from hwsim.rtl.subjects import subjects
from hwsim.rtl.units import lowered

CONVERTERS = [
    ("fp8_e4m3fn", "nearest_even", "saturate"),
    ("fp8_e5m2", "stochastic(8)", "infinity"),
    ("fp8_e4m3fnuz", "to_odd", "nan"),
    ("e8m0fnu", "nearest_even", "saturate"),
    ("int8", "nearest_away", "saturate"),
    ("uint4", "toward_positive", "saturate"),
    ("nf4", "nearest_even", "saturate"),
    ("fp4_e2m1fn", "toward_negative", "saturate"),
]

UNITS = {
    "exact products, nearest even": {"operands": "fp8_e5m2", "accumulator": {"format": "fp16"}, "order": "sequential"},
    "products rounded, toward zero": {
        "operands": "fp8_e4m3fn",
        "product": {"format": "fp8_e5m2"},
        "accumulator": {"format": "bf16", "rounding": "toward_zero"},
        "order": "sequential",
    },
    "stochastic": {"operands": "fp8_e5m2", "accumulator": {"format": "fp12_e6m5", "rounding": "stochastic(6)"}, "order": "fma"},
    "fixed point": {
        "operands": "fp4_e2m1fn",
        "accumulator": {"format": {"kind": "fixed", "bits": 12, "fraction_bits": 3}, "rounding": "nearest_away"},
        "order": "sequential",
    },
    "integers that wrap": {"operands": "int4", "accumulator": {"format": "int8", "overflow": "wrap"}, "order": "sequential"},
    "a tree": {"operands": "fp4_e2m1fn", "accumulator": {"format": "fp8_e4m3"}, "order": "pairwise"},
    "chunks": {"operands": "fp8_e5m2", "accumulator": {"format": "fp16"}, "order": "chunked(4)"},
    "aligned, floor": {
        "operands": "fp8_e5m2",
        "accumulator": {"format": "bf16"},
        "order": {"fused": {"terms": 3, "fraction_bits": 6, "alignment": "floor"}},
    },
    "aligned, nearest": {
        "operands": "fp8_e4m3fn",
        "accumulator": {"format": "bf16"},
        "order": {"fused": {"terms": 3, "fraction_bits": 6, "alignment": "nearest"}},
    },
    "aligned, sticky": {
        "operands": "fp4_e2m1fn",
        "accumulator": {"format": "fp16"},
        "order": {"fused": {"terms": 3, "fraction_bits": 12, "alignment": "sticky", "e_zero": -20}},
    },
    "exact sums, promoted": {
        "operands": "fp4_e2m1fn",
        "accumulator": {"format": "fp16"},
        "order": {"fused": {"terms": 4, "fraction_bits": "exact"}},
        "promote": {"every": 8, "into": "fp32"},
    },
    "inputs and results flushed": {
        "operands": "fp8_e5m2",
        "product": {"format": "fp16"},
        "accumulator": {"format": "fp16"},
        "order": {"chunked": 2, "inner": "pairwise"},
        "flush_inputs": "positive",
        "flush_results": True,
    },
    "inputs flushed": {
        "operands": "fp8_e4m3fn",
        "accumulator": {"format": "fp8_e5m2"},
        "order": "sequential",
        "flush_inputs": "signed",
    },
    "C last": {"operands": "fp4_e2m1fn", "accumulator": {"format": "fp16"}, "order": "sequential", "c": "last"},
}


@pytest.mark.parametrize(("name", "rounding", "overflow"), CONVERTERS)
def test_a_converter_gives_the_emulators_codes(name, rounding, overflow):
    fmt = format_record(name)
    nan = "error" if fmt.has_nan else "max"
    cast = Cast(format=fmt, rounding=rounding, overflow=overflow, nan=nan)
    circuit = converter(cast)
    assert wrong(circuit, shortened(of_converter(cast, circuit, 1 << 18), 200)) == 0


def test_a_nan_that_is_refused_raises_the_invalid_wire():
    cast = Cast(format=format_record("fp4_e2m1fn"))
    circuit = converter(cast)
    stimuli = of_converter(cast, circuit, 1 << 18)
    assert [port.name for port in circuit.outputs] == ["y", "invalid"]
    assert stimuli.wanted["invalid"].any()
    assert wrong(circuit, shortened(stimuli, 200)) == 0


@pytest.mark.parametrize("what", UNITS)
def test_every_circuit_of_a_unit_gives_the_emulators_codes(what):
    unit = mac(UNITS[what])
    for circuit, stimuli in of_unit(unit, lowered(unit), 24):
        assert wrong(circuit, shortened(stimuli, 60)) == 0, circuit.name


@pytest.mark.parametrize("options", [{}, {"e_zero": -20}, {"e_zero": 3}], ids=str)
def test_a_product_with_a_scale_of_zero_is_a_zero_term(options):
    unit = mac(
        {
            "order": {"fused": {"terms": 4, "fraction_bits": 6, **options}},
            "operands": "fp8_e4m3fn",
            "accumulator": {"format": "fp32"},
            "scales": {"block": 2, "format": "fp8_e4m3fn", "applied": "product"},
        }
    )
    step, fp8 = lowered(unit).step, format_record("fp8_e4m3fn")
    # The last two products have large elements, and would cut the first two away.
    elements, scales = (
        torch.tensor([[1.25, 1.0, 256.0, 256.0]]),
        torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, -0.0]], [[1.0, 1.0]]]),
    )
    ones = torch.ones(1, 2)
    given = {
        "a": encoded(fp8, elements.expand(4, 4)),
        "b": encoded(fp8, elements.expand(4, 4)),
        "scale_a": encoded(fp8, scales[:, 0]),
        "scale_b": encoded(fp8, ones.expand(4, 2)),
        "c": encoded(unit.accumulator.format, torch.full((4,), 1.0)),
    }
    start = torch.tensor([[1.0]])
    sums = [matmul(Scaled(elements, scale), Scaled(elements.mT, ones.mT), unit, start).flatten() for scale in scales]
    assert wrong(step, Stimuli(given, {"d": encoded(unit.accumulator.format, torch.cat(sums))})) == 0


REFUSED = [
    ({"format": "mxfp4"}, "format: mxfp4 has no circuit"),
    ({"format": "int8", "scaling": "absmax"}, "scaling: has no circuit"),
    ({"format": "bf16", "transform": "hadamard_16"}, "transform: hadamard_16 has no circuit"),
    ({"format": "nf4", "rounding": "stochastic"}, "rounding: stochastic has no circuit"),
    ({"format": "posit16_1"}, "format: posit16_1 has 65535 levels"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_a_cast_without_a_circuit_is_refused_with_its_field(given, message):
    with pytest.raises(FormatError) as error:
        converter(Cast(**given))
    assert str(error.value).startswith(message)
    assert error.value.field == message.split(":")[0]


def test_a_unit_without_an_order_is_refused_with_its_field():
    with pytest.raises(FormatError, match="order: native has no circuit"):
        lowered(mac("native"))


def test_every_cast_and_unit_of_a_datapath_is_lowered_or_refused_with_a_field():
    found = subjects("b200_nvfp4")
    assert all(bool(one.circuits) != bool(one.refused) for one in found)
    assert any(one.refused.startswith("format: ") for one in found)
    assert any(one.unit for one in found)


def test_every_shipped_unit_and_format_is_lowered_or_refused_with_a_field():
    from hwsim.catalogue import Catalogue

    for name in Catalogue().names("macs"):
        late = "cdna3" in name and "fp32" not in name and "fp64" not in name
        for one in subjects(name, every=True):
            assert one.refused.startswith("late: ") if late else one.circuits, name
    fields = {one.refused.split(":")[0] for name in Catalogue().names("formats") for one in subjects(name) if one.refused}
    assert fields <= {"format", "scaling", "rounding"}


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(hwsim.HwsimError, match="did you mean 'int8_int32'"):
        subjects("int8_int33")
