"""Verilog of circuits: modules that stand alone, test benches with golden vectors, and clocked wrappers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from .circuit import Circuit
from .simulator import Codes
from .stimuli import Stimuli
from .synthesis import run

HEADER = "// {name}: written by hwsim from its declaration; combinational.\n`timescale 1ns/1ns\n"


def module(circuit: Circuit, timeout: float = 600) -> str:
    """The circuit as one Verilog module, before synthesis.

    Raises:
        SynthesisError: Yosys failed or ran past the limit.
    """
    text = run(
        "read_rtlil in.il; proc; flatten; opt_clean; write_verilog -noattr out.v", {"in.il": circuit.rtlil()}, "out.v", timeout
    )
    return HEADER.format(name=circuit.name) + re.sub(r"^/\*.*?\*/\n", "", text, flags=re.S)


def bench(circuit: Circuit, stimuli: Stimuli) -> str:
    """A test bench that applies vectors and stops with an error at the first wrong output.

    The vectors stand in NAME_tb.hex beside it, one line each: the inputs, then the outputs, first port in the highest bits.
    """
    ports = (*circuit.inputs, *circuit.outputs)
    total = sum(port.bits for port in ports)
    wires = "\n".join(f"  wire [{p.bits - 1}:0] {p.name};" for p in ports)
    wanted = "\n".join(f"  wire [{p.bits - 1}:0] wanted_{p.name};" for p in circuit.outputs)
    fields = ", ".join([*(p.name for p in circuit.inputs), *(f"wanted_{p.name}" for p in circuit.outputs)])
    pins = ", ".join(f".{p.name}({p.name})" for p in ports)
    wrong = " || ".join(f"{p.name} !== wanted_{p.name}" for p in circuit.outputs)
    return f"""`timescale 1ns/1ns
module {circuit.name}_tb;
{wires}
{wanted}
  reg [{total - 1}:0] vectors [0:{stimuli.count - 1}];
  reg [{total - 1}:0] vector;
  integer n;
  assign {{{fields}}} = vector;
  {circuit.name} unit ({pins});
  initial begin
    $readmemh("{circuit.name}_tb.hex", vectors);
    for (n = 0; n < {stimuli.count}; n = n + 1) begin
      vector = vectors[n];
      #1;
      if ({wrong}) begin
        $display("FAIL {circuit.name} vector %0d: %h", n, vector);
        $fatal(1);
      end
    end
    $display("PASS {circuit.name} {stimuli.count} vectors");
    $finish;
  end
endmodule
"""


def bench_vectors(circuit: Circuit, stimuli: Stimuli) -> str:
    """The lines of NAME_tb.hex."""
    ports = [(p, stimuli.given[p.name]) for p in circuit.inputs] + [(p, stimuli.wanted[p.name]) for p in circuit.outputs]
    digits = -(-sum(port.bits for port, _ in ports) // 4)
    lines = []
    for n in range(stimuli.count):
        word = 0
        for port, codes in ports:
            word = word << port.bits | _joined(codes[n], port.width)
        lines.append(f"{word:0{digits}x}")
    return "\n".join(lines) + "\n"


def _joined(codes: Codes, width: int) -> int:
    found = 0
    for place, code in enumerate(codes.tolist() if codes.ndim else [int(codes)]):
        found |= (int(code) & ((1 << width) - 1)) << (place * width)
    return found


def clocked(circuit: Circuit) -> str:
    """A wrapper with an accumulator register, and an LFSR for each bundle of random bits; of a circuit from `c` to `d`.

    `clear` starts the sum at +0; the sum stands in `d`. The LFSR is Galois's, 32 bits, taps 32, 22, 2, 1: its bits are not
    those of the emulator's Philox words.
    """
    state = circuit.outputs[0]
    passed = [p for p in circuit.inputs if p.name != "c" and not p.name.startswith("random")]
    random = [p for p in circuit.inputs if p.name.startswith("random")]
    head = ", ".join(["input clk", "input clear", *(f"input [{p.bits - 1}:0] {p.name}" for p in passed)])
    pins = ", ".join(
        [
            *(f".{p.name}({p.name})" for p in passed),
            ".c(d)",
            ".d(next)",
            *(f".{p.name}({p.name}[{p.bits - 1}:0])" for p in random),
        ]
    )
    registers = "".join(
        f"  reg [31:0] {p.name} = 32'h{0x9E3779B9 + n:08x};\n"
        f"  always @(posedge clk) {p.name} <= ({p.name} >> 1) ^ ({p.name}[0] ? 32'h80200003 : 32'h0);\n"
        for n, p in enumerate(random)
    )
    return f"""`timescale 1ns/1ns
module {circuit.name}_clocked({head}, output reg [{state.bits - 1}:0] d);
  wire [{state.bits - 1}:0] next;
{registers}  {circuit.name} unit ({pins});
  always @(posedge clk) d <= clear ? {state.bits}'h0 : next;
endmodule
"""


def registers(circuit: Circuit) -> int:
    """The flip-flops of the clocked wrapper: the accumulator's, and 32 for each bundle of random bits."""
    return circuit.outputs[0].bits + 32 * sum(port.name.startswith("random") for port in circuit.inputs)


def has_state(circuit: Circuit) -> bool:
    """Whether a clocked wrapper makes sense: a running sum goes in and comes out in one format."""
    c = next((port for port in circuit.inputs if port.name == "c"), None)
    return c is not None and c.bits == circuit.outputs[0].bits and all(p.bits <= 32 for p in circuit.inputs if "random" in p.name)


def write(folder: Path, circuit: Circuit, stimuli: Stimuli, timeout: float = 600) -> list[Path]:
    """folder/NAME.v, folder/tb/NAME_tb.v with its vectors, and folder/clocked/NAME_clocked.v where there is a running sum."""
    files: dict[Path, str] = {
        folder / f"{circuit.name}.v": module(circuit, timeout),
        folder / "tb" / f"{circuit.name}_tb.v": bench(circuit, stimuli),
        folder / "tb" / f"{circuit.name}_tb.hex": bench_vectors(circuit, stimuli),
    }
    if has_state(circuit):
        files[folder / "clocked" / f"{circuit.name}_clocked.v"] = clocked(circuit)
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(files)


def some(stimuli: Stimuli, count: int) -> Stimuli:
    """Vectors spread evenly over all."""
    step = max(stimuli.count // count, 1)

    def thinned(codes: Mapping[str, Codes]) -> dict[str, Codes]:
        return {name: found[::step][:count] for name, found in codes.items()}

    return Stimuli(thinned(stimuli.given), thinned(stimuli.wanted))
