"""What the data sets contain, and what is said when their files are not there or not whole."""

import gzip
import random
import struct
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from task_files import binary_cifar, cifar_record, idx, image_folder, python_cifar
from torchvision.transforms._presets import ImageClassification

from hwsim.models import TaskError, task
from hwsim.models.catalogue.images import FASHION_FOLDER
from hwsim.models.datasets.text import vocabulary, windows

CLASSES = [0, 1, 1]


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """Three training images and two test images; one file of each kind is gzipped."""
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(0x803, 3, 28, 28))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">II", 0x801, 3) + bytes(CLASSES)))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(0x803, 2, 28, 28)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(0x801, 2))
    return tmp_path


@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp"])
def test_digits_are_split_within_each_class_and_standardised_by_the_training_part(name: str) -> None:
    data = task(name).load_data()
    assert (data.train_inputs.shape, data.test_inputs.shape) == ((1442, 1, 8, 8), (355, 1, 8, 8))
    assert data.train_inputs.dtype is torch.float32
    assert data.test_targets.bincount().tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert data.train_inputs.double().mean().item() == pytest.approx(0, abs=1e-6)
    assert data.train_inputs.double().std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_digits_are_the_recorded_ones() -> None:
    assert task("digits_cnn").load_data().checksum == "3f13eb758c320a1673c98f14f369adc3046c85c5a76a5979ef4a6c47ed3dfb40"


def test_diabetes_rows_are_split_and_standardised_by_the_training_part() -> None:
    data = task("diabetes_regression").load_data()
    assert (data.train_inputs.shape, data.test_targets.shape) == ((354, 10), (88, 1))
    rows = torch.cat([data.train_inputs, data.train_targets], 1).double()
    torch.testing.assert_close(rows.mean(0), torch.zeros(11, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.std(0, correction=0), torch.ones(11, dtype=torch.float64), atol=1e-6, rtol=0)


def test_one_vs_all_targets_mark_the_digit_among_its_rivals() -> None:
    chosen, classes = task("digits_one_vs_all").load_data(), task("digits_mlp").load_data()
    assert torch.equal(chosen.train_inputs, classes.train_inputs.flatten(1))
    assert torch.equal(chosen.test_targets.argmax(-1), classes.test_targets)
    assert chosen.train_targets.sum(-1).unique().tolist() == [-8.0]
    assert chosen.train_targets.unique().tolist() == [-1.0, 1.0]


class TestPowerLaw:
    def test_features_have_the_declared_spectrum(self) -> None:
        data = task("linear_regression", d=8, n=20_000, a=1.5).load_data()
        second_moments = data.train_inputs.double().square().mean(0)
        expected = torch.arange(1, 9, dtype=torch.float64) ** -1.5
        # Five standard deviations of a mean of squared normals.
        torch.testing.assert_close(second_moments, expected, atol=0, rtol=5 * (2 / 20_000) ** 0.5)

    def test_only_the_training_labels_carry_the_declared_noise(self) -> None:
        data = task("linear_regression", d=8, n=20_000, noise=0.5).load_data()
        noise = data.train_targets.double() - data.train_inputs.double().sum(1, keepdim=True)
        assert noise.std().item() == pytest.approx(0.5, rel=5 * (0.5 / 20_000) ** 0.5)
        assert torch.equal(data.test_targets, data.test_inputs.double().sum(1, keepdim=True).float())

    def test_the_seed_of_the_task_decides_the_draws(self) -> None:
        def load(seed: int) -> str:
            return task("linear_regression", d=4, n=8, test_n=2, seed=seed).load_data().checksum

        assert load(0) == load(0) != load(1)


class TestText:
    def test_targets_are_the_characters_that_follow(self) -> None:
        text = "ab" * 50 + "abcd"
        data = windows(text, 4)
        assert vocabulary(text) == ["a", "b", "c", "d"]
        assert data.train_inputs.tolist() == [[0, 1, 0, 1]] * 23
        assert data.train_targets.tolist() == [[1, 0, 1, 0]] * 23
        assert data.test_inputs.tolist() == [[1, 0, 1, 0], [1, 0, 1, 0]]
        assert data.test_targets.tolist() == [[0, 1, 0, 1], [0, 1, 0, 1]]

    def test_a_context_longer_than_the_text_is_refused(self) -> None:
        with pytest.raises(TaskError, match=r"^context: got 10; allowed for a text of 100 characters: at most 9$"):
            windows("x" * 100, 10)

    def test_may_be_any_file_in_utf8(self, tmp_path: Path) -> None:
        (tmp_path / "poem.txt").write_text("äb" * 100, encoding="utf-8")
        chosen = task("char_gpt", file=str(tmp_path / "poem.txt"), context=4)
        assert chosen.source == f"the user's {tmp_path / 'poem.txt'}"
        text = chosen.load_data().train_inputs
        assert text[0].tolist() == [1, 0, 1, 0]
        assert chosen.make_model()(text[:1]).shape[-1] == 2

    @pytest.mark.parametrize(
        ("content", "given", "message"),
        [
            (b"text", "peom.txt", "which is not there; allowed: a text file; did you mean 'poem.txt'?"),
            (b"caf\xe9", "poem.txt", "which is not UTF-8 at byte 3; allowed: UTF-8"),
            (b"", "poem.txt", "which is empty; allowed: a text"),
        ],
    )
    def test_a_file_that_is_no_text_is_refused(self, content: bytes, given: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "poem.txt").write_bytes(content)
        with pytest.raises(TaskError) as error:
            task("char_lstm", file=str(tmp_path / given)).load_data()
        assert str(error.value) == f"file: got {str(tmp_path / given)!r}, {message}"


class TestIdxFiles:
    def test_are_read_plain_or_gzipped(self, mnist: Path) -> None:
        data = task("fashion_cnn", folder=str(mnist)).load_data()
        assert (data.train_inputs.shape, data.test_inputs.shape) == ((3, 1, 28, 28), (2, 1, 28, 28))
        assert data.train_targets.tolist() == CLASSES
        assert data.test_targets.tolist() == [0, 1]
        pixels = torch.tensor([i % 251 for i in range(3 * 28 * 28)], dtype=torch.float64).view(3, 1, 28, 28)
        expected = (pixels - pixels.mean()) / pixels.std(correction=0)
        torch.testing.assert_close(data.train_inputs.double(), expected, atol=1e-6, rtol=0)

    def test_are_repeated_in_three_channels_for_a_colour_network(self, mnist: Path) -> None:
        grey = task("idx_images", folder=str(mnist)).load_data()
        coloured = task("idx_images", folder=str(mnist), network="resnet18").load_data()
        assert all(torch.equal(coloured.train_inputs[:, [c]], grey.train_inputs) for c in range(3))

    def test_that_are_absent_are_named_with_their_folder_and_how_to_get_them(self, tmp_path: Path) -> None:
        with pytest.raises(TaskError) as error:
            task("fashion_resnet20", folder=str(tmp_path)).load_data()
        assert str(error.value) == (
            f"folder: got {str(tmp_path)!r}, which has no train-images-idx3-ubyte[.gz]; allowed: "
            "a folder with the IDX files of MNIST (for Fashion-MNIST on Debian: apt install dataset-fashion-mnist)"
        )
        assert error.value.field == "folder"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (idx(0x801, 3), "begins with '00000801'; allowed: 00000803, then 3 lengths"),
            (b"", "begins with ''; allowed: 00000803, then 3 lengths"),
            (idx(0x803, 3, 28, 28)[:-1], "has 2367 bytes; allowed by its header: 2368"),
            (idx(0x803, 3, 8, 8), "are 8 x 8; allowed: 28 x 28"),
        ],
    )
    def test_that_are_not_what_their_name_says_are_refused(self, mnist: Path, content: bytes, message: str) -> None:
        (mnist / "train-images-idx3-ubyte").write_bytes(content)
        with pytest.raises(TaskError) as error:
            task("fashion_cnn", folder=str(mnist)).load_data()
        assert str(error.value).endswith(message)


class TestCifar:
    @pytest.fixture(params=["binary", "for Python"])
    def folder(self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        return binary_cifar(tmp_path) if request.param == "binary" else python_cifar(tmp_path, monkeypatch)

    def test_is_read_in_both_versions(self, folder: Path) -> None:
        data = task("cifar10", folder=str(folder)).load_data()
        assert (data.train_inputs.shape, data.test_inputs.shape) == ((5, 3, 32, 32), (1, 3, 32, 32))
        assert (data.train_targets.tolist(), data.test_targets.tolist()) == ([0, 1, 2, 3, 4], [5])
        red = data.train_inputs[:, 0]
        torch.testing.assert_close(red[:, 0, 0] * 200**0.5, torch.tensor([-20.0, -10, 0, 10, 20]))
        assert (data.train_inputs[:, 1].flatten(1).argmax(1) == 1023).all()

    @pytest.mark.parametrize(
        ("break_it", "message"),
        [
            (
                lambda file: file.unlink(),
                "which has no data_batch_3.bin; allowed: a folder with CIFAR-10, the binary version or that for Python",
            ),
            (lambda file: file.write_bytes(bytes(3072)), "data_batch_3.bin has 3072 bytes; allowed: a multiple of 3073"),
        ],
    )
    def test_files_absent_or_cut_short_are_refused(self, tmp_path: Path, break_it, message: str) -> None:
        break_it(binary_cifar(tmp_path) / "data_batch_3.bin")
        with pytest.raises(TaskError) as error:
            task("cifar10", folder=str(tmp_path)).load_data()
        assert str(error.value).endswith(message)

    def test_a_version_for_python_that_is_not_the_published_one_is_refused(self, tmp_path: Path, monkeypatch) -> None:
        folder = python_cifar(tmp_path, monkeypatch)
        (folder / "data_batch_3").write_bytes(cifar_record(3))
        with pytest.raises(TaskError) as error:
            task("cifar10", folder=str(folder)).load_data()
        assert str(error.value) == (
            f"folder: got {str(folder)!r}, which is not what torchvision expects; allowed: a whole cifar-10-batches-py"
        )


class TestImageFolders:
    def test_are_read_as_torchvision_reads_them_for_its_networks(self, tmp_path: Path) -> None:
        data = task("imagenet", folder=str(image_folder(tmp_path)), size=14).load_data()
        assert (data.train_targets.tolist(), data.test_targets.tolist()) == ([0, 0, 0, 1, 1, 1], [0, 1])
        preset = ImageClassification(crop_size=14, resize_size=16)
        files = sorted((tmp_path / "train" / "n01443537").iterdir())
        expected = torch.stack([preset(Image.open(file).convert("RGB")) for file in files])
        torch.testing.assert_close(data.train_inputs[torch.tensor([3, 4, 5])], expected)
        assert torch.equal(data.train_inputs[3:], data.train_inputs[torch.tensor([3, 4, 5])])

    def test_are_classified_among_as_many_classes_as_there_are_folders(self, tmp_path: Path) -> None:
        chosen = task("imagenet", folder=str(image_folder(tmp_path)), size=32, network="cnn")
        assert chosen.make_model()(chosen.load_data().test_inputs[:2]).shape == (2, 2)

    def test_have_a_checksum_of_the_files_names_and_lengths_and_of_the_size(self, tmp_path: Path) -> None:
        def checksum(size: int) -> str:
            return task("imagenet", folder=str(tmp_path), size=size).load_data().checksum

        image_folder(tmp_path)
        before = checksum(14)
        assert checksum(14) == before != checksum(16)
        next((tmp_path / "val" / "n01440764").iterdir()).rename(tmp_path / "val" / "n01440764" / "other.png")
        assert checksum(14) != before

    def test_that_are_absent_or_differ_in_their_classes_are_refused(self, tmp_path: Path) -> None:
        folder = image_folder(tmp_path / "imagenet")
        with pytest.raises(TaskError, match=r"allowed: a folder with train/CLASS/IMAGE; did you mean 'imagenet'\?$"):
            task("imagenet", folder=str(tmp_path / "imagnet")).load_data()
        (folder / "val" / "n01443537").rename(folder / "val" / "n01443538")
        with pytest.raises(TaskError, match=r"'n01443537' in one of train and val; allowed: the same classes in both$"):
            task("imagenet", folder=str(folder)).load_data()

    def test_a_file_that_is_no_image_is_named(self, tmp_path: Path) -> None:
        (image_folder(tmp_path) / "val" / "n01440764" / "0.png").write_text("no image")
        data = task("imagenet", folder=str(tmp_path), size=8).load_data()
        with pytest.raises(TaskError, match=r"^folder: .*0\.png cannot be read: "):
            data.test_inputs[:1]


class TestMnist5k:
    def test_is_split_within_each_class_and_standardised_by_the_training_part(self) -> None:
        data = task("mnist5k").load_data()
        assert (data.train_inputs.shape, data.test_inputs.shape) == ((4000, 1, 28, 28), (1000, 1, 28, 28))
        assert data.test_targets.bincount().tolist() == [100] * 10
        assert data.train_inputs.double().mean().item() == pytest.approx(0, abs=1e-6)
        assert data.checksum == "f897e99b9d61e991ab4bc1460483471fb79d2c1742419e05e62d8980380c85b0"


class TestMnist1d:
    def test_is_what_the_published_seed_generates_and_leaves_the_global_generators_alone(self) -> None:
        def state() -> tuple[object, ...]:
            return random.getstate(), numpy.random.get_state()[1].tolist()  # noqa: NPY002

        before = state()
        data = task("mnist1d", per_class=20).load_data()
        assert state() == before
        assert (data.train_inputs.shape, data.test_inputs.shape) == ((160, 1, 40), (40, 1, 40))
        assert torch.cat([data.train_targets, data.test_targets]).bincount().tolist() == [20] * 10
        signals = torch.cat([data.train_inputs, data.test_inputs]).double()
        assert (signals.mean().item(), signals.std(correction=0).item()) == pytest.approx((0, 1), abs=1e-6)


@pytest.mark.large
@pytest.mark.skipif(not Path(FASHION_FOLDER).is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_the_distribution_is_whole() -> None:
    data = task("fashion_cnn").load_data()
    assert (data.train_inputs.shape, data.test_inputs.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert data.train_targets.bincount().tolist() == [6000] * 10
    assert data.test_targets.bincount().tolist() == [1000] * 10
