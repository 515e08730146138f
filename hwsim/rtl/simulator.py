"""A netlist on many vectors at once: each net is a word of 64 vectors, each gate one bitwise operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsim.formats.backends.compiling import kept

from .netlist import Netlist

Words = NDArray[np.uint64]
Codes = NDArray[np.int64]
BLOCK = 8
FULL = np.uint64(0xFFFFFFFFFFFFFFFF)


@kept
def _run(kinds: Any, reads: Any, first: int, inputs: Any, outputs: Any, wanted: Any, nets: int) -> None:
    """outputs[o, word] of inputs[i, word], for blocks of words that fit the cache."""
    count = inputs.shape[1]
    net = np.zeros((nets, BLOCK), np.uint64)
    net[1, :] = FULL
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        for i in range(inputs.shape[0]):
            for v in range(size):
                net[2 + i, v] = inputs[i, start + v]
        for g in range(len(kinds)):
            a, b, c, out = net[reads[g, 0]], net[reads[g, 1]], net[reads[g, 2]], net[first + g]
            kind = kinds[g]
            if kind == 0:
                for v in range(BLOCK):
                    out[v] = ~a[v]
            elif kind == 1:
                for v in range(BLOCK):
                    out[v] = a[v] & b[v]
            elif kind == 2:
                for v in range(BLOCK):
                    out[v] = ~(a[v] & b[v])
            elif kind == 3:
                for v in range(BLOCK):
                    out[v] = a[v] | b[v]
            elif kind == 4:
                for v in range(BLOCK):
                    out[v] = ~(a[v] | b[v])
            elif kind == 5:
                for v in range(BLOCK):
                    out[v] = a[v] ^ b[v]
            elif kind == 6:
                for v in range(BLOCK):
                    out[v] = ~(a[v] ^ b[v])
            elif kind == 7:
                for v in range(BLOCK):
                    out[v] = (a[v] & ~c[v]) | (b[v] & c[v])
            elif kind == 8:
                for v in range(BLOCK):
                    out[v] = ~((a[v] & b[v]) | c[v])
            else:
                for v in range(BLOCK):
                    out[v] = ~((a[v] | b[v]) & c[v])
        for o in range(len(wanted)):
            for v in range(size):
                outputs[o, start + v] = net[wanted[o], v]


@kept
def _to_planes(columns: Any, width: int, found: Any) -> None:
    """found[c width + bit, word] of columns[c, vector]."""
    for c in range(columns.shape[0]):
        for word in range(found.shape[1]):
            first = 64 * word
            size = min(64, columns.shape[1] - first)
            for bit in range(width):
                packed = np.uint64(0)
                for v in range(size):
                    packed |= np.uint64((columns[c, first + v] >> bit) & 1) << np.uint64(v)
                found[c * width + bit, word] = packed


@kept
def _to_codes(words: Any, codes: Any) -> None:
    """codes[vector] of words[bit, word]."""
    for word in range(words.shape[1]):
        first = 64 * word
        for v in range(min(64, codes.size - first)):
            code = np.uint64(0)
            for bit in range(words.shape[0]):
                code |= ((words[bit, word] >> np.uint64(v)) & np.uint64(1)) << np.uint64(bit)
            codes[first + v] = np.int64(code)


def planes(codes: Codes, width: int) -> Words:
    """The bits of codes (vectors, or vectors x codes a port), as (bits, words of 64 vectors)."""
    columns = np.ascontiguousarray(codes.reshape(len(codes), -1).T)
    found = np.zeros((width * len(columns), -(-len(codes) // 64)), np.uint64)
    _to_planes(columns, width, found)
    return found


def codes_of(words: Words, count: int) -> Codes:
    """The codes of (bits, words); `count` of them. Bits beyond 63 are not held."""
    codes = np.zeros(count, np.int64)
    _to_codes(words[:64], codes)
    return codes


def simulate(netlist: Netlist, given: Mapping[str, Codes], widths: Mapping[str, int]) -> dict[str, Codes]:
    """The outputs of a netlist, a code a vector.

    Args:
        given: for each input port its codes: (vectors,), or (vectors, codes) for a port of several.
        widths: the bits of one code of each input port.
    """
    count = len(next(iter(given.values())))
    inputs = np.concatenate([planes(given[port], widths[port]) for port in netlist.inputs])
    return {port: codes_of(words, count) for port, words in simulate_words(netlist, inputs).items()}


def simulate_words(netlist: Netlist, inputs: Words) -> dict[str, Words]:
    """The outputs' bits, (bits, words) a port, of the inputs' bits in the netlist's order."""
    wanted = np.array([net for nets in netlist.outputs.values() for net in nets], np.int32)
    outputs = np.zeros((len(wanted), inputs.shape[1]), np.uint64)
    _run(netlist.kinds, netlist.reads, netlist.first, inputs, outputs, wanted, netlist.nets)
    found, at = {}, 0
    for port, nets in netlist.outputs.items():
        found[port] = outputs[at : at + len(nets)]
        at += len(nets)
    return found
