"""The pages of the shipped studies: what they ask, what they found, and the lists of both."""

from pathlib import Path

import pytest
from study_cases import Here, edited

from hwsim.catalogue import CONFIGS, shipped_studies
from hwsim.studies import references
from hwsim.studies.files import load_study
from hwsim.studies.references import question, regenerate, studies_page, write_index

PAGES = Path(__file__).parents[2] / "docs" / "results"


def test_the_list_of_shipped_studies_is_up_to_date_and_says_what_each_asks() -> None:
    text = studies_page()
    assert (CONFIGS / "studies" / "README.md").read_text() == text, "`make results` writes it"
    for name in shipped_studies():
        file = load_study(name)
        assert file.study.description
        assert f"\n## {name}\n\n{question(file)}\n" in text


def test_every_shipped_study_has_a_page_of_results_and_every_page_a_study() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")} - {"README"}
    assert pages == set(shipped_studies())


def test_the_list_of_results_has_each_pages_answer(tmp_path: Path) -> None:
    (tmp_path / "second.md").write_text("# second\n\nWhy?\n\n**Because of b.**\n\n**not this**\n")
    (tmp_path / "first.md").write_text("# first\n\n**Because of a.**\n")
    (tmp_path / "README.md").write_text("an old list")
    write_index(tmp_path)
    lines = (tmp_path / "README.md").read_text().splitlines()
    assert lines[0] == "# Reference results"
    assert lines[-2:] == ["- [first](first.md): Because of a.", "- [second](second.md): Because of b."]


def test_a_regenerated_page_has_its_figures_and_stands_in_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tmp_path / "tiny.yaml"
    study.write_text(edited(("seeds: [0, 1]", "seeds: [0]\n  report: {sites: []}")))
    monkeypatch.setattr(references, "load_study", lambda name: load_study(tmp_path / f"{name}.yaml"))
    monkeypatch.setattr(references, "executors", lambda: {"local": Here})
    pages = tmp_path / "pages"
    path = regenerate("tiny", tmp_path / "results", pages, None, lambda text: None)
    assert path == pages / "tiny.md"
    text = path.read_text()
    figures = [line.rpartition("](")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert figures
    assert all((pages / figure).read_bytes().startswith(b"<?xml") for figure in figures)
    assert {f"plots/{file.name}" for file in (pages / "plots").iterdir()} == set(figures)
    assert (tmp_path / "results" / "tiny" / "report.html").is_file()
    assert "- [tiny](tiny.md): " in (pages / "README.md").read_text()
