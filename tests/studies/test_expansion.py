"""What a study stands for: which runs, in which order, under which ids."""

import pytest
from study_cases import Edit, plan_of, study_of

from hwsim.studies.plan import Plan, expand

GRID = "grid: {datapath: [fp32, mine]}"
BOTH_SEEDS = "seeds: [0, 1]"


def seen(plan: Plan) -> list[tuple[object, ...]]:
    return [(place.datapath, *place.settings.values(), place.seed) for place in plan.places]


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (GRID, [("fp32",), ("mine",)]),
        ("grid: {threads: [1, 2]}", [("fp32", 1), ("fp32", 2)]),
        ("grid: {datapath: [fp32, mine], threads: [1, 2]}", [("fp32", 1), ("fp32", 2), ("mine", 1), ("mine", 2)]),
        ("zip: {datapath: [fp32, mine], optimizer.lr: [0.1, 0.2]}", [("fp32", 0.1), ("mine", 0.2)]),
        ("grid: {threads: [1, 2]}\n  zip: {task.width: [4]}", [("fp32", 1, 4), ("fp32", 2, 4)]),
        (GRID[:-1] + ", threads: [1, 2]}\n  exclude: [{datapath: mine, threads: 2}]", [("fp32", 1), ("fp32", 2), ("mine", 1)]),
        (GRID[:-1] + ", threads: [1, 2, 3]}\n  exclude: [{threads: [2, 3]}]", [("fp32", 1), ("mine", 1)]),
        ("grid: {datapath: [fp32, {name: own, vector: bf16}]}", [("fp32",), ("own",)]),
        ("datapath: bf16\n  grid: {datapath.vector: [bf16, fp16]}", [("bf16", "bf16"), ("bf16", "fp16")]),
    ],
)  # fmt: skip
def test_axes_expand_in_the_order_of_the_file_with_seeds_last(axes: str, expected: list[tuple[object, ...]]) -> None:
    plan = plan_of((GRID, axes), ("  baseline: fp32\n", ""))
    assert seen(plan) == [(*point, seed) for point in expected for seed in (0, 1)]
    assert [place.id for place in plan.places] == list(plan.runs)


def test_a_dotted_axis_reaches_into_the_datapath_and_leaves_the_rest() -> None:
    plan = plan_of((GRID, "datapath: mine\n  grid: {datapath.vector: [bf16, fp16]}"), ("  baseline: fp32\n", ""))
    machines = [run.datapath for run in plan.runs.values() if run.seed == 0]
    assert [str(machine.vector) for machine in machines] == ["bf16", "fp16"]
    assert {str(machine.gemm.output.input) for machine in machines} == {"my_e3m2"}


def test_a_run_is_complete_down_to_the_defaults_of_its_task_and_the_widths_of_its_formats() -> None:
    run = list(plan_of((", width: 4", "")).runs.values())[-1]
    assert run.task.options == {"width": 64}
    assert run.optimizer.model_dump()["nesterov"] is False
    assert run.datapath.model_dump(mode="json")["gemm"]["output"]["input"]["format"]["mantissa_bits"] == 2


def test_the_id_of_a_fixed_configuration_is_the_same_in_every_version() -> None:
    assert next(iter(plan_of().runs)) == "02bcadc30a81"


@pytest.mark.parametrize(
    "edit",
    [
        ("epochs: 1, batch_size: 256, width: 4", "width: 4, batch_size: 256, epochs: 1"),
        ("lr: 0.1", "momentum: 0, lr: 0.1"),
        ("lr: 0.1", "lr: 1e-1"),
        ("my_e3m2", "renamed"),
        ("mine", "yours"),
        ("Every operand", "Each operand"),
        ("name: tiny", "name: other"),
        ("input: my_e3m2, weight: my_e3m2", "weight: {format: my_e3m2, rounding: nearest_even}, input: my_e3m2"),
    ],
)
def test_what_is_only_for_readers_and_the_order_of_keys_leave_ids_as_they_are(edit: Edit) -> None:
    assert list(plan_of(edit).runs) == list(plan_of().runs)


@pytest.mark.parametrize(
    ("edit", "fp32_changes"),
    [
        (("mantissa_bits: 2", "mantissa_bits: 3"), False),
        (("mantissa_bits: 2", "mantissa_bits: 2, subnormals: false"), False),
        (("scaling: absmax", "scaling: power_of_two"), False),
        (("lr: 0.1", "lr: 0.2"), True),
        (("width: 4", "width: 5"), True),
        (("epochs: 1", "epochs: 2"), True),
        (("seeds: [0, 1]", "seeds: [2, 3]"), True),
        (("seeds: [0, 1]", "threads: 2"), True),
    ],
)
def test_whatever_a_result_depends_on_changes_the_id(edit: Edit, fp32_changes: bool) -> None:
    before, after = ({(place.datapath, place.seed): place.id for place in plan_of(*edits).places} for edits in ((), (edit,)))
    assert before.get(("mine", 0)) != after.get(("mine", 0))
    assert (before.get(("fp32", 0)) != after.get(("fp32", 0))) == fp32_changes


def test_an_override_may_have_the_name_of_a_label_and_still_counts() -> None:
    gemm = "gemm: {all: {input: my_e3m2"
    named = "model: 'study_cases:layer_called_name', data: 'study_cases:few_points', loss: half_squared_error"
    task = ("name: digits_mlp, epochs: 1, batch_size: 256, width: 4", f"{named}, epochs: 1, batch_size: 1")
    plans = [
        plan_of(task, (f"    {gemm}", f"    overrides: {{name: {{vector: {fmt}}}}}\n    {gemm}")) for fmt in ("bf16", "fp16")
    ]
    assert [place.id for place in plans[0].places][-1] != [place.id for place in plans[1].places][-1]


def test_a_budget_adds_each_role_alone_and_all_but_it_to_the_twin_and_the_whole() -> None:
    plan = plan_of((BOTH_SEEDS, "seeds: [0]\n  report: {budget: [mine]}"))
    roles = ("input", "weight", "grad_output")
    parts = ["none", "all", *(f"{what} {role}" for role in roles for what in ("only", "all but"))]
    assert [place.part for place in plan.places] == ["", "", *parts]
    ids = {place.part: place.id for place in plan.places if place.part}
    grid = {place.datapath: place.id for place in plan.places if not place.part}
    assert (ids["none"], ids["all"]) == (grid["fp32"], grid["mine"])
    assert len(plan.runs) == 2 + 2 * len(roles)


def test_shorter_budget_runs_are_runs_of_their_own() -> None:
    plan = plan_of(("epochs: 1", "epochs: 3"), (BOTH_SEEDS, "report: {budget: [mine], budget_epochs: 1}"))
    epochs = {place.part: plan.runs[place.id].task.epochs for place in plan.places}
    assert epochs.pop("") == 3
    assert set(epochs.values()) == {1}


def test_the_default_seeds_are_three() -> None:
    assert study_of((f"  {BOTH_SEEDS}\n", "")).study.seeds == (0, 1, 2)


def test_the_same_study_has_the_same_hash_and_another_one_has_not() -> None:
    assert plan_of().hash == expand(study_of()).hash
    assert plan_of().hash != plan_of(("seeds: [0, 1]", "seeds: [1, 0]")).hash
