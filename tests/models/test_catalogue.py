"""Every task that ships takes a training step; the reference task learns what it is said to learn."""

import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from hwsim.models import Task, TaskError, batches, evaluate, initial_model, task, task_options, tasks
from hwsim.models.networks.images import NETWORKS
from hwsim.models.networks.resnet import CifarResNet
from hwsim.models.networks.text import Gpt

TINY: dict[str, dict[str, object]] = {
    "char_gpt": {"layers": 1, "heads": 2, "width": 8, "context": 16},
    "char_lstm": {"width": 8, "context": 16},
    "cifar10": {},
    "diabetes_regression": {},
    "digits_cnn": {"width": 2},
    "digits_mlp": {"width": 4},
    "digits_one_vs_all": {},
    "fashion_cnn": {"width": 2},
    "fashion_resnet20": {},
    "idx_images": {"network": "mlp"},
    "linear_regression": {"d": 5, "n": 20, "test_n": 5},
    "synthetic_images": {"network": "cnn", "size": 8, "train_samples": 8, "test_samples": 2},
}
FROM_FILES = {"cifar10": (3, 32), "fashion_cnn": (1, 28), "fashion_resnet20": (1, 28), "idx_images": (1, 28)}


def train(chosen: Task, model: nn.Module, epochs: int) -> None:
    data = chosen.load_data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(epochs):
        for inputs, targets in batches(data, 64, seed=0, epoch=epoch):
            optimizer.zero_grad()
            chosen.loss(model(inputs), targets).backward()
            optimizer.step()


def test_the_tiny_options_cover_every_task() -> None:
    assert tuple(sorted(TINY)) == tasks()


@pytest.mark.parametrize("name", TINY)
def test_a_step_gives_a_finite_loss_and_a_gradient_for_every_weight(name: str) -> None:
    chosen = task(name, **TINY[name])
    model = initial_model(chosen, 0)
    if name in FROM_FILES:
        channels, size = FROM_FILES[name]
        inputs, targets = torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    else:
        inputs, targets = next(batches(chosen.load_data(), 4, seed=0, epoch=0))
    loss = chosen.loss(model(inputs), targets)
    loss.backward()
    assert loss.shape == ()
    assert loss.isfinite()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(metric(model(inputs), targets).shape == () for metric in chosen.metrics.values())


@pytest.mark.parametrize("name", TINY)
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


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"vit_b_16"}))
def test_every_image_network_gives_a_score_for_each_class(name: str) -> None:
    chosen = task("synthetic_images", network=name, classes=7, size=16, channels=1, train_samples=2, test_samples=2)
    model = initial_model(chosen, 0)
    inputs, _ = next(batches(chosen.load_data(), 2, seed=0, epoch=0))
    assert model(inputs).shape == (2, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "resnet18", "channels": 2}, "channels: got 2; allowed for resnet18: 1 or 3"),
        ({"network": "vit_b_16", "size": 40}, "size: got images of 40 x 40; allowed for patches of 16: a multiple of 16"),
        ({"network": "cnn", "size": 3}, "size: got images of 3 x 3; allowed for two poolings: at least 4 x 4"),
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


def test_attention_heads_share_the_width_evenly() -> None:
    with pytest.raises(TaskError, match=r"^width: got 10 for 4 heads; allowed: a multiple of 4$"):
        task("char_gpt", width=10)


def test_gpt2_of_transformers_is_refused_in_words_where_the_package_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TaskError) as error:
        task("char_gpt", network="huggingface").make_model()
    assert str(error.value) == "network: 'huggingface' needs the package transformers: pip install 'hwsim[hf]'"


def test_gpt2_of_transformers_takes_a_step() -> None:
    pytest.importorskip("transformers", reason="the optional extra hf is not installed")
    chosen = task("char_gpt", network="huggingface", **TINY["char_gpt"])
    model = initial_model(chosen, 0)
    inputs, targets = next(batches(chosen.load_data(), 4, seed=0, epoch=0))
    chosen.loss(model(inputs), targets).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_importing_the_package_loads_no_data_library() -> None:
    loaded = (
        "import hwsim.models, sys; print([name for name in ('sklearn', 'torchvision', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_network_choices_are_options() -> None:
    assert task_options("cifar10")["network"].allowed == ", ".join(sorted(NETWORKS))
