"""Unmodified networks of torchvision and transformers: every weight's GEMMs in their roles, and plain torch's bits in fp32."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from emulator_cases import loss_of, same, tensors_of, unfused
from torch import Tensor, nn

from hwsim.emulator import Machine, emulate

ROLES = {
    "output": {"input", "weight", "result"},
    "grad_input": {"grad_output", "weight", "result"},
    "grad_weight": {"grad_output", "input", "result"},
}


def image_network(name: str) -> nn.Module:
    from torchvision import models

    if name == "mobilenet_v3_small":
        return models.mobilenet_v3_small(num_classes=4, dropout=0.0)
    return models.SwinTransformer([4, 4], 24, [2, 2], [3, 6], [4, 4], stochastic_depth_prob=0.0, num_classes=4)


def text_network(name: str, attention: str) -> nn.Module:
    import transformers as t

    if name == "gpt2":
        off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        config = t.GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=2, n_head=2, **off)
    else:
        config = t.LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=True,
        )  # fmt: skip
    return t.AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def vit() -> nn.Module:
    import transformers as t

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = t.ViTConfig(**sizes, image_size=16, patch_size=4, num_labels=4)
    return t.ViTForImageClassification(config)


IMAGES, TOKENS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(16).view(2, 8)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "mobilenet_v3_small": (lambda: image_network("mobilenet_v3_small"), {"x": IMAGES}),
    "swin": (lambda: image_network("swin"), {"x": IMAGES}),
    "vit by keyword": (vit, {"pixel_values": IMAGES[:, :, :16, :16]}),
    "gpt2, sdpa": (lambda: text_network("gpt2", "sdpa"), {"input_ids": TOKENS}),
    "gpt2, eager": (lambda: text_network("gpt2", "eager"), {"input_ids": TOKENS}),
    "llama, tied": (lambda: text_network("llama", "sdpa"), {"input_ids": TOKENS}),
}


def fresh(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NETWORKS[name][0]().train()


def step(model: nn.Module, name: str) -> None:
    outputs = model(**NETWORKS[name][1])
    loss_of(outputs if isinstance(outputs, Tensor) else outputs.logits).backward()


def emulated(name: str) -> tuple[nn.Module, Machine]:
    model = fresh(name)
    with emulate(model, "fp32") as machine:
        step(model, name)
    return model, machine


class Tables(nn.Module):
    """What vision transformers own beside their layers: a token, positions, relative positions, a scale of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.class_token, self.pos_embedding = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 5, 8))
        self.relative_position_bias_table, self.layer_scale = nn.Parameter(torch.zeros(9, 2)), nn.Parameter(torch.zeros(8, 1, 1))
        self.norm, self.ids = nn.LayerNorm((2, 4)), nn.Embedding(3, 8)
        self.layer = nn.Linear(8, 8)


class Experts(nn.Module):
    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))


def torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(image_size=16, patch_size=8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=4)


def swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 8, [2], [2], [4, 4], num_classes=4)


WEIGHTED: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "tables beside a layer": (Tables, ["layer"]),
    "lstm": (lambda: nn.Sequential(nn.LSTM(3, 4), nn.GRUCell(4, 4)), ["0", "1"]),
    "attention": (lambda: nn.Sequential(nn.MultiheadAttention(4, 2)), ["0", "0.out_proj"]),
    "attention of three widths": (lambda: nn.Sequential(nn.MultiheadAttention(4, 2, kdim=3, vdim=5)), ["0", "0.out_proj"]),
    "a parametrized weight": (
        lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))),
        ["0.parametrizations.weight"],
    ),
    "experts in one tensor": (lambda: nn.Sequential(Experts(up=(3, 6, 4), down=(3, 4, 6))), ["0"]),
    "experts of transformers": (lambda: nn.Sequential(Experts(gate_up_proj=(2, 8, 4), down_proj=(1, 4, 4))), ["0"]),
    "vision transformer": (
        torchvision_vit,
        [
            "conv_proj",
            *(
                f"encoder.layers.encoder_layer_0.{name}"
                for name in ("self_attention", "self_attention.out_proj", "mlp.0", "mlp.3")
            ),
            "heads.head",
        ],
    ),
    "swin": (
        swin,
        [
            "features.0.0",
            *(f"features.1.{i}.{n}" for i in range(2) for n in ("attn.qkv", "attn.proj", "mlp.0", "mlp.3")),
            "head",
        ],
    ),
    "gpt2": (
        lambda: text_network("gpt2", "sdpa"),
        [
            *(f"transformer.h.{i}.{n}" for i in range(2) for n in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")),
            "lm_head",
        ],
    ),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_first_and_last_layers_are_counted_among_those_with_a_gemm_s_matrix(name: str) -> None:
    make, layers = WEIGHTED[name]
    model = make()
    for count in range(1, len(layers) + 1):
        with emulate(model, {"gemm": "fp16", "first": {"layers": count, "gemm": "bf16"}}) as machine:
            placed = machine._engine.sites.datapath
        assert [path for path, _ in model.named_modules() if str(placed.layer(path).gemm.output.weight) == "bf16"] == layers[
            :count
        ]


@pytest.mark.large
@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_has_its_three_gemms_and_nothing_else_is_a_weight(name: str) -> None:
    model, machine = emulated(name)
    assert machine.coverage() == {"operations": 1.0, "flops": 1.0}
    found: dict[str, dict[str, set[str]]] = {}
    for row in machine.audit():
        if row.gemm:
            found.setdefault(row.site, {}).setdefault(row.gemm, set()).add(row.role)
    tables = (nn.Embedding, nn.LayerNorm)
    layers = {
        path
        for path, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter)
        and module.weight.dim() > 1
        and not isinstance(module, tables)
    }
    weighted = {site for site, gemms in found.items() if "weight" in gemms.get("output", ())}
    assert weighted == layers
    without_input_gradient = [site for site in layers if found[site].keys() != ROLES.keys()]
    assert len(without_input_gradient) <= 1
    assert all(found[site][gemm] == ROLES[gemm] for site in layers for gemm in found[site])
    products = {site: gemms for site, gemms in found.items() if site not in layers}
    assert all(gemms.keys() <= {"output", "grad_input"} for gemms in products.values())


@pytest.mark.large
@pytest.mark.parametrize("name", NETWORKS)
def test_fp32_is_plain_torch_bit_for_bit(name: str) -> None:
    model, _ = emulated(name)
    plain = fresh(name)
    with unfused(recurrent=False):
        step(plain, name)
    assert same(tensors_of(model), tensors_of(plain)) == []
