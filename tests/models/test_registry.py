"""A builder's keyword parameters are its options; names, words and values outside them are refused in words."""

import math
from typing import Annotated

import pytest

from hwsim.models import Registry, Task, TaskError
from hwsim.models.registry import AtLeast, OneOf


@pytest.fixture
def registry() -> Registry:
    registry = Registry()

    @registry.register
    def blobs(
        *,
        count: Annotated[int, AtLeast(1)] = 3,
        noise: Annotated[float, AtLeast(0)] = 0.5,
        shape: Annotated[str, OneOf(("round", "square"))] = "round",
        folder: str = ".",
        shuffled: bool = True,
    ) -> Task:
        """Blobs of points.

        More about them.
        """
        return Task(make_model=lambda: (count, noise, shape, folder, shuffled), load_data=None, loss=None, metrics={}, source="")

    return registry


def test_a_task_takes_its_name_and_description_from_its_builder(registry: Registry) -> None:
    task = registry.build("blobs")
    assert (task.name, task.description) == ("blobs", "Blobs of points.")


def test_options_replace_defaults_and_an_integer_passes_for_a_number(registry: Registry) -> None:
    assert registry.build("blobs").make_model() == (3, 0.5, "round", ".", True)
    made = registry.build("blobs", noise=2, shape="square").make_model()
    assert made == (3, 2.0, "square", ".", True)
    assert type(made[1]) is float


def test_options_are_listed_with_their_defaults_and_what_is_allowed(registry: Registry) -> None:
    assert {name: (option.default, option.allowed) for name, option in registry.options("blobs").items()} == {
        "count": (3, "an integer of at least 1"),
        "noise": (0.5, "a finite number of at least 0"),
        "shape": ("round", "round, square"),
        "folder": (".", "a text"),
        "shuffled": (True, "true or false"),
    }


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("count", 0, "an integer of at least 1"),
        ("count", True, "an integer of at least 1"),
        ("count", 2.0, "an integer of at least 1"),
        ("count", "2", "an integer of at least 1"),
        ("noise", -0.1, "a finite number of at least 0"),
        ("noise", math.nan, "a finite number of at least 0"),
        ("noise", math.inf, "a finite number of at least 0"),
        ("noise", "1e-3", "a finite number of at least 0"),
        ("noise", False, "a finite number of at least 0"),
        ("shape", "sqare", "round, square; did you mean 'square'?"),
        ("shape", 1, "round, square"),
        ("folder", None, "a text"),
        ("shuffled", 1, "true or false"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(registry: Registry, option: str, value: object, allowed: str) -> None:
    with pytest.raises(TaskError) as error:
        registry.build("blobs", **{option: value})
    assert str(error.value) == f"task 'blobs': option {option!r}: got {value!r}; allowed: {allowed}"
    assert error.value.field == option


def test_an_unknown_task_is_refused_with_the_nearest_name(registry: Registry) -> None:
    for refuse in (registry.build, registry.options):
        with pytest.raises(TaskError) as error:
            refuse("blob")
        assert str(error.value) == "unknown task: got 'blob'; allowed: blobs; did you mean 'blobs'?"


def test_an_unknown_option_is_refused_with_the_nearest_name(registry: Registry) -> None:
    with pytest.raises(TaskError) as error:
        registry.build("blobs", cuont=1)
    assert str(error.value) == (
        "task 'blobs': unknown option: got 'cuont'; allowed: count, folder, noise, shape, shuffled; did you mean 'count'?"
    )


def test_a_second_task_of_the_same_name_is_refused_and_the_first_stays(registry: Registry) -> None:
    def blobs() -> Task:
        raise AssertionError

    with pytest.raises(TaskError, match=r"^task 'blobs' is already registered, by .*test_registry\..*blobs$"):
        registry.register(blobs)
    assert registry.build("blobs").description == "Blobs of points."


def positional(count: int = 1) -> Task: ...


def required(*, count: int) -> Task: ...


def listed(*, count: list[int] = []) -> Task: ...  # noqa: B006


@pytest.mark.parametrize("builder", [positional, required, listed])
def test_a_builder_whose_parameters_cannot_be_options_is_refused(builder) -> None:
    with pytest.raises(TaskError, match=r"allowed: keyword-only, with a default, of type int, float, str or bool$"):
        Registry().register(builder)


def test_a_default_that_its_own_option_forbids_is_refused() -> None:
    def crowd(*, count: Annotated[int, AtLeast(1)] = 0) -> Task: ...

    with pytest.raises(TaskError, match=r"^task 'crowd': option 'count': got 0; allowed: an integer of at least 1$"):
        Registry().register(crowd)
