"""Every task that ships, and every network, trains on an emulated machine that accounts for all of it."""

from pathlib import Path

import pytest
import torch
from task_files import binary_cifar, image_folder, mnist_folder

import hwsim
from hwsim.models import Task, batches, initial_model, task, tasks
from hwsim.models.networks.images import NETWORKS

SMALL_TEXT = {"layers": 1, "width": 8, "context": 16}
TINY = {"train_samples": 8, "test_samples": 2, "classes": 3}
CASES: list[tuple[str, dict[str, object]]] = [
    ("char_gpt", {**SMALL_TEXT, "heads": 2}),
    ("char_gpt", {**SMALL_TEXT, "heads": 2, "network": "torch"}),
    ("char_llama", {**SMALL_TEXT, "heads": 2, "key_value_heads": 1}),
    ("char_lstm", {"width": 8, "context": 16}),
    ("cifar10", {"network": "cnn"}),
    ("diabetes_regression", {}),
    ("digits", {"network": "cnn"}),
    ("digits_cnn", {"width": 2}),
    ("digits_mlp", {"width": 4}),
    ("digits_one_vs_all", {}),
    ("fashion_cnn", {"width": 2}),
    ("fashion_resnet20", {}),
    ("idx_images", {"network": "mlp"}),
    ("imagenet", {"network": "cnn", "size": 8}),
    ("linear_regression", {"d": 5, "n": 20, "test_n": 5}),
    ("mnist1d", {"width": 4, "per_class": 5}),
    ("mnist1d", {"width": 4, "per_class": 5, "network": "mlp"}),
    ("mnist5k", {"network": "mlp"}),
    ("synthetic_images", {**TINY, "network": "swin_mini", "size": 8}),
    ("synthetic_images", {**TINY, "network": "deit_mini_2", "size": 8}),
]  # fmt: skip
LARGE: list[tuple[str, dict[str, object]]] = [
    ("char_llama", {**SMALL_TEXT, "heads": 2, "layers": 2, "tied": True}),
    ("digits", {"network": "resnet20"}),
    ("imagenet", {"network": "deit_mini_4", "size": 32}),
    ("synthetic_images", {**TINY, "network": "resnet56", "size": 32}),
    ("synthetic_images", {**TINY, "network": "resnet18", "size": 32}),
    ("synthetic_images", {**TINY, "network": "resnet50", "size": 32}),
    ("synthetic_images", {**TINY, "network": "swin_t", "size": 32}),
    ("synthetic_images", {**TINY, "network": "deit_tiny_4", "size": 32}),
    ("synthetic_images", {**TINY, "network": "deit_tiny_16", "size": 32}),
    ("synthetic_images", {**TINY, "network": "vit_b_16", "size": 32}),
]
FILES = {"cifar10": binary_cifar, "imagenet": image_folder}
IDX = ("fashion_cnn", "fashion_resnet20", "idx_images")


def label(case: object) -> str:
    return case if isinstance(case, str) else str(case.get("network", "")) if isinstance(case, dict) else ""


@pytest.fixture
def small(name: str, options: dict[str, object], tmp_path: Path) -> Task:
    """The task with small options, on small files where it reads files."""
    write = mnist_folder if name in IDX else FILES.get(name)
    return task(name, **options, **({"folder": str(write(tmp_path))} if write else {}))


def trains(task: Task, datapath: str) -> None:
    data, model = task.load_data(), initial_model(task, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    with hwsim.emulate(model, datapath, optimizer=optimizer) as machine:
        for epoch in range(2):
            inputs, targets = next(batches(data, 4, seed=0, epoch=epoch))
            optimizer.zero_grad()
            loss = task.loss(model(inputs), targets)
            loss.backward()
            optimizer.step()
    assert loss.isfinite()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert machine.coverage() == {"operations": 1.0, "flops": 1.0}
    assert {row.gemm for row in machine.audit() if row.gemm} >= {"output", "grad_weight"}
    assert all(metric(model(inputs), targets).shape == () for metric in task.metrics.values())


def test_the_cases_are_every_task_and_every_network() -> None:
    assert {name for name, _ in CASES} == set(tasks())
    chosen = {options.get("network") for _, options in CASES + LARGE}
    assert chosen >= set(NETWORKS)


@pytest.mark.parametrize(("name", "options"), CASES, ids=label)
def test_a_task_takes_two_emulated_steps_and_all_of_them_is_accounted_for(small: Task) -> None:
    trains(small, "fp8_current")


@pytest.mark.large
@pytest.mark.parametrize(("name", "options"), LARGE, ids=label)
def test_a_larger_network_takes_two_emulated_steps_and_all_of_them_is_accounted_for(small: Task) -> None:
    trains(small, "fp8_current")
