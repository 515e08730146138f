"""A file is data: it runs no code that its user did not allow, and what it holds is shown as text."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from study_cases import TINY

from hwsim.models import TaskError
from hwsim.studies import trust as module
from hwsim.studies.trust import check_trust

OPTIONS = {"model": "mine.nets:make", "data": "mine.nets:load", "loss": "cross_entropy", "metrics": {"error": "other:error"}}


@pytest.mark.parametrize(
    ("trusted", "field", "message"),
    [
        ((), "model", r"got 'mine.nets:make', code that nobody allowed; allowed: modules of --trust \(none so far\)"),
        (("mine.net",), "model", r"modules of --trust \(mine.net\); add --trust mine.nets"),
        (("nets",), "model", "add --trust mine.nets"),
        (("mine",), "metrics.error", r"got 'other:error'.*add --trust other"),
        (("mine.nets", "othe"), "metrics.error", "add --trust other"),
    ],
)  # fmt: skip
def test_code_is_named_only_from_modules_that_are_trusted(trusted: tuple[str, ...], field: str, message: str) -> None:
    with pytest.raises(TaskError, match=message) as refusal:
        check_trust(OPTIONS, trusted)
    assert refusal.value.field == field


def test_trusted_modules_and_what_is_inside_of_them_pass() -> None:
    check_trust(OPTIONS, ("mine", "other"))
    check_trust({"width": 4, "words": "a:b"}, ())


def test_installed_packages_that_offer_tasks_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "entry_points", lambda group: [SimpleNamespace(module="mine.nets"), SimpleNamespace(module="other")]
    )
    check_trust(OPTIONS, ())


def test_untrusted_code_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hwsim.config import loads
    from hwsim.errors import ConfigError
    from hwsim.studies.files import StudyFile
    from hwsim.studies.plan import expand

    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = TINY.replace(
        "name: digits_mlp, epochs: 1, batch_size: 256, width: 4", "model: evil:x, data: evil:y, epochs: 1, batch_size: 1"
    )
    with pytest.raises(ConfigError, match=r"tiny.yaml:9: study.task.model: got 'evil:x', code that nobody allowed"):
        expand(StudyFile.of(loads(text, "tiny.yaml")))
    assert not (tmp_path / "ran").exists()
