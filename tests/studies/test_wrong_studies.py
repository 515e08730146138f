"""Every wrong study is refused before anything runs: file, line, YAML path, what was given, what is allowed, nearest match."""

import pytest
from study_cases import Edit, plan_of

from hwsim.errors import ConfigError

LR, TASK, SEEDS = "lr: 0.1", "batch_size: 256, width: 4", "seeds: [0, 1]"
GRID, BASELINE = "grid: {datapath: [fp32, mine]}", "baseline: fp32"


def trained(choice: str) -> Edit:
    """The edit that trains another task."""
    return "name: digits_mlp, epochs: 1, batch_size: 256, width: 4", f"name: {choice}, epochs: 1, batch_size: 4"


WRONG = [
    ((LR, "lr: 0"), "tiny.yaml:10: study.optimizer.lr: got 0 (a whole number); allowed: a number > 0"),
    ((LR, "lr: -0.5"), "tiny.yaml:10: study.optimizer.lr: got -0.5"),
    ((LR, "lr: .nan"), "tiny.yaml:10: study.optimizer.lr: got .nan"),
    ((LR, "lr: .inf"), "tiny.yaml:10: study.optimizer.lr: got .inf"),
    ((LR, "lr: '1e-3'"), "study.optimizer.lr: got '1e-3' (text); allowed: a number > 0; did you mean 1e-3 without quotes?"),
    ((LR, "lr: true"), "study.optimizer.lr: got true"),
    ((", lr: 0.1", ""), "tiny.yaml:10: study.optimizer.lr: missing"),
    (("name: sgd", "name: sdg"), "study.optimizer.name: got 'sdg'; allowed: adam, adamw, sgd; did you mean 'sgd'?"),
    (("name: sgd, ", ""), "study.optimizer.name: missing; allowed: adam, adamw, sgd"),
    ((LR, "lr: 0.1, momentun: 0.9"), "study.optimizer.momentun: unknown key"),
    ((LR, "lr: 0.1, momentun: 0.9"), "did you mean 'momentum'?"),
    ((LR, "lr: 0.1, momentum: -1"), "study.optimizer.momentum: got -1"),
    ((LR, "lr: 0.1, nesterov: true"), "nesterov: got true; allowed only with a momentum above 0 and no dampening"),
    (("name: sgd, lr: 0.1", "name: adam, lr: 0.1, betas: [0.9, 1.0]"), "study.optimizer.betas[1]: got 1.0"),
    (("name: sgd, lr: 0.1", "name: adam, lr: 0.1, betas: [0.9]"), "study.optimizer.betas: "),
    (("epochs: 1", "epochs: 0"), "tiny.yaml:9: study.task.epochs: got 0 (a whole number); allowed:"),
    (("epochs: 1", "epochs: 1.5"), "study.task.epochs: got 1.5"),
    (("epochs: 1", "epochs: true"), "study.task.epochs: got true"),
    (("epochs: 1, ", ""), "tiny.yaml:9: study.task.epochs: missing"),
    (("batch_size: 256", "batch_size: 0"), "study.task.batch_size: got 0"),
    (("batch_size: 256", "batch_size: 100000"), "tiny.yaml:9: study.task.batch_size: got 100000; allowed: 1 to 1"),
    (("digits_mlp", "digit_mlp"), "study.task.name: unknown task: got 'digit_mlp'"),
    (("epochs: 1", "epochs: 1, labels: int44"), "study.task.labels: format: got 'int44'"),
    (("epochs: 1", "epochs: 1, labels: int8"), "study.task.labels: got a cast for targets of torch.int64; allowed: with targets"),
    (("digits_mlp", "digit_mlp"), "did you mean 'digits_mlp'?"),
    (("width: 4", "widht: 4"), "tiny.yaml:9: study.task.widht: task 'digits_mlp': unknown option: got 'widht'"),
    (trained("digits, network: vit_b_16"), "study.task.network: got images of 8 x 8; allowed for patches of 16"),
    (trained("digits, network: swin"), "tiny.yaml:9: study.task.network: task 'digits': option 'network': got 'swin'"),
    (trained("digits, network: swin"), "did you mean 'swin_t'?"),
    (trained("char_gpt, file: absent.txt"), "study.task.file: got 'absent.txt', which is not there"),
    (trained("char_llama, heads: 3, width: 48"), "study.task.heads: got 3 for 2 key-value heads; allowed: a multiple of 2"),
    (("width: 4", "width: 0"), "option 'width': got 0; allowed: an integer of at least 1"),
    (
        ("name: digits_mlp, epochs: 1, batch_size: 256, width: 4", "model: 'study_cases:no_model', epochs: 1, batch_size: 2"),
        "task.data: missing",
    ),
    (("name: digits_mlp", "model: 'study_cases:no_model', data: 'study_cases:few_points'"), "study.task.width: unknown key"),
    ((SEEDS, "seeds: []"), "tiny.yaml:13: study.seeds: got a list of 0"),
    ((SEEDS, "seeds: [0, 1, 0]"), "tiny.yaml:13: study.seeds: got 0 twice; allowed: each seed once"),
    ((SEEDS, "seeds: [0, -1]"), "study.seeds[1]: got -1"),
    ((SEEDS, "seeds: [true]"), "study.seeds[0]: got true"),
    ((SEEDS, "seeds: [0.0]"), "study.seeds[0]: got 0.0"),
    ((SEEDS, "seeds: [9223372036854775808]"), "study.seeds[0]: got 9223372036854775808"),
    ((SEEDS, "seeds: 3"), "study.seeds: got 3"),
    ((SEEDS, "seed: [0]"), "tiny.yaml:13: study.seed: unknown key"),
    ((SEEDS, "seed: [0]"), "did you mean 'seeds'?"),
    (
        (SEEDS, "report: {published: [{title: a, source: b, header: [bits, STE], rows: [['1', '89.6'], ['2']]}]}"),
        "tiny.yaml:13: study.report.published[0]: rows[1]: got 1 texts; allowed: 2, one a column",
    ),
    ((SEEDS, "threads: 0"), "study.threads: got 0"),
    ((GRID, "grid: {datapath: []}"), "tiny.yaml:12: study.grid.datapath: got a list of 0"),
    (("seeds: [0, 1]", "coverage: {fail_under: 1.5}"), "tiny.yaml:13: study.coverage.fail_under: got 1.5"),
    (("seeds: [0, 1]", "coverage: {fail_undr: 1.0}"), "study.coverage.fail_undr: unknown key; allowed: fail_under, unknown_ops"),
    (("seeds: [0, 1]", "coverage: {unknown_ops: ignore}"), "study.coverage.unknown_ops: got 'ignore'; allowed: "),
    ((GRID, "grid: {datapath: fp32}"), "study.grid.datapath: got 'fp32'"),
    ((GRID, "grid: {datapth: [fp32]}"), "study.grid.datapth: got the axis 'datapth'; allowed: datapath, threads"),
    ((GRID, "grid: {datapth: [fp32]}"), "did you mean 'datapath'?"),
    ((GRID, "grid: {optimizer: [sgd]}"), "study.grid.optimizer: got the axis 'optimizer'"),
    ((GRID, "grid: {seeds: [1]}"), "study.grid.seeds: got the axis 'seeds'"),
    ((GRID, "grid: {optimizer.lr: [0.1, -1]}"), "tiny.yaml:12: study.grid['optimizer.lr'][1]: got -1"),
    ((GRID, "grid: {optimizer.lrr: [0.1]}"), "tiny.yaml:12: study.grid['optimizer.lrr'][0]: unknown key"),
    ((GRID, "grid: {task.batch_size: [99999]}"), "study.grid['task.batch_size'][0]: got 99999; allowed: 1 to"),
    ((GRID, "grid: {task.widht: [3]}"), "study.grid['task.widht'][0]: task 'digits_mlp': unknown option: got 'widht'"),
    ((GRID, "grid: {datapath: [fp32, mien]}"), "tiny.yaml:12: study.grid.datapath[1]: datapath: got 'mien'"),
    ((GRID, "grid: {datapath: [fp32, mien]}"), "did you mean 'mine'?"),
    ((GRID, "grid: {datapath: [32, mine]}"), "tiny.yaml:12: study.grid.datapath[0]: got 32 (a whole number); allowed: a"),
    ((GRID, "grid: {datapath: [fp32, {vector: bf16}]}"), "study.grid.datapath[1]: name: missing"),
    ((GRID, "grid: {datapath: [fp32, {name: x, vektor: bf16}]}"), "tiny.yaml:12: study.grid.datapath[1].vektor: unknown key"),
    ((GRID, "grid: {datapath: [fp32, {name: x, vector: bf61}]}"), "study.grid.datapath[1].vector"),
    ((GRID, "grid: {datapath.vector: [bf61]}"), "study.grid['datapath.vector'][0]"),
    ((GRID, "grid: {datapath: [fp32, {name: fp32, vector: bf16}]}"), "got the name 'fp32' for two machines"),
    ((GRID, "grid: {datapath: [fp32, bf16, fp32]}"), "are the same run; allowed: points that differ"),
    ((GRID, "grid: {datapath: [fp32, {name: same}]}"), "datapath fp32 and datapath same are the same run"),
    ((GRID, "grid: {datapath: [fp32], threads: [1, 1]}"), "are the same run"),
    ((GRID, "zip: {datapath: [fp32, mine], threads: [1]}"), "got axes of different lengths (datapath 2, threads 1)"),
    ((GRID, GRID + "\n  zip: {datapath: [fp32]}"), "tiny.yaml:13: study.zip.datapath: is an axis of `grid` too"),
    ((GRID, GRID + "\n  exclude: [{optimizer.lr: 0.1}]"), "got 'optimizer.lr'; allowed: datapath"),
    ((GRID, GRID + "\n  exclude: [{datapath: min}]"), "tiny.yaml:13: study.exclude[0]: matches no point of the grid"),
    ((GRID, GRID + "\n  exclude: [{}]"), "study.exclude[0]: matches no point of the grid"),
    ((GRID, GRID + "\n  exclude: [{datapath: [fp32, mine]}]"), "study.exclude: leaves no point to run"),
    ((BASELINE, "baseline: fp23"), "tiny.yaml:11: study.baseline: got 'fp23'; allowed: fp32, mine; did you mean 'fp32'?"),
    ((GRID, GRID + "\n  exclude: [{datapath: fp32}]"), "study.baseline: got 'fp32'; allowed: mine"),
    ((SEEDS, "report: {budget: [bf16]}"), "study.report.budget[0]: got 'bf16'; allowed: fp32, mine"),
    ((SEEDS, "report: {budget: [fp32]}"), "study.report.budget[0]: got 'fp32', which rounds nowhere"),
    ((SEEDS, "report: {metric: acuracy}"), "metric: got 'acuracy'; allowed: accuracy, test_loss, train_loss; did you mean"),
    ((SEEDS, "report: {budget_epochs: 0}"), "study.report.budget_epochs: got 0"),
    ((SEEDS, "report: {enough: [mine]}"), "study.report.enough: got mine; allowed: two names or more, each once"),
    ((SEEDS, "report: {enough: [mine, mine]}"), "study.report.enough: got mine, mine; allowed: two names or more, each once"),
    ((SEEDS, "report: {enough: [mine, fp31]}"), "study.report.enough[1]: got 'fp31'; allowed: fp32, mine; did you mean 'fp32'"),
    (("name: tiny", "name: ../tiny"), "tiny.yaml:8: study.name: got '../tiny'"),
    (("name: tiny", "name: .hidden"), "study.name: got '.hidden'"),
    (("name: tiny", "name: 8"), "study.name: got 8"),
    (("  name: tiny\n", ""), "study.name: missing"),
    (("study:", "studdy:"), "tiny.yaml:7: studdy: unknown key; allowed: study, formats, macs, datapaths; did you mean 'study'?"),
    (("kind: float", "kind: flaot"), "tiny.yaml:2: formats.my_e3m2.kind"),
    (("kind: float", "kind: []"), "tiny.yaml:2: formats.my_e3m2.kind: got []; allowed: "),
    (("my_e3m2: {kind: float, exponent_bits: 3, mantissa_bits: 2, specials: finite}", "my_e3m2:"), "formats.my_e3m2: got None"),
    (("exponent_bits: 3", "exponent_bits: 12"), "tiny.yaml:2: formats.my_e3m2.exponent_bits: got 12; allowed"),
    (("  my_e3m2:", "  fp16:"), "tiny.yaml:2: formats.fp16: got 'fp16', the name of a shipped format"),
    (("    gemm: {all", "    gemmm: {all"), "tiny.yaml:6: datapaths.mine.gemmm: unknown key"),
    (("input: my_e3m2", "input: my_e3m3"), "format: got 'my_e3m3'"),
    (("input: my_e3m2", "input: my_e3m3"), "did you mean 'my_e3m2'?"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), WRONG, ids=lambda value: value if isinstance(value, str) else value[1])
def test_a_wrong_study_is_refused_with_its_place_and_what_is_allowed(edit: Edit, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        plan_of(edit)
    assert message in str(refusal.value)
    assert str(refusal.value).startswith("tiny.yaml:")
