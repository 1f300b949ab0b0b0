"""Tiny random bases, batches, and the gradients that PEFT gives for them, example by example."""

import random
import warnings
from dataclasses import dataclass

import numpy as np
import pytest

from lorakit.base.folder import Base
from lorakit.formats.peft.write import write_peft
from lorakit.training.core.spec import LoraSpec
from torch_cases import tiny_base

torch = pytest.importorskip("torch", reason="training needs the extra train")
transformers = pytest.importorskip("transformers", reason="training needs the extra train")

from lorakit.training.core.model import load_model  # noqa: E402
from lorakit.training.core.numerics import Numerics  # noqa: E402

PLAIN = Numerics(dtype="float32")
WINDOW = 12
SHAPE = {
    "vocab_size": 5000,  # three tiles
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NO_HEADS = {k: v for k, v in SHAPE.items() if k != "head_dim"}
KINDS = ["sliding_attention", "full_attention", "sliding_attention"]
CONFIGS = {
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SHAPE, sliding_window=WINDOW, layer_types=KINDS, query_pre_attn_scalar=8
    ),
    "softcap": lambda: transformers.Gemma3TextConfig(
        **SHAPE,
        sliding_window=WINDOW,
        layer_types=KINDS,
        query_pre_attn_scalar=8,
        final_logit_softcapping=4.0,
    ),
    "llama": lambda: transformers.LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "mistral": lambda: transformers.MistralConfig(**SHAPE, sliding_window=WINDOW),
    "qwen2": lambda: transformers.Qwen2Config(**NO_HEADS, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**SHAPE),
    "phi3": lambda: transformers.Phi3Config(**NO_HEADS),
    "longrope": lambda: transformers.Phi3Config(
        **NO_HEADS,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [2.0, 3.0, 4.0, 5.0],
            "original_max_position_embeddings": 32,
        },
        original_max_position_embeddings=32,
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=5000, n_positions=256, n_embd=32, n_layer=3, n_head=4, eos_token_id=2
    ),
}


@dataclass(frozen=True)
class Row:
    ids: tuple[int, ...]
    answers: tuple[bool, ...]


def base_of(family, folder) -> Base:
    return Base.open(tiny_base(folder / family, CONFIGS[family](), seed=3))


def rows_of(prefix, tails, seed=0, vocabulary=5000):
    """Rows that share a prefix; the second half of each tail is to be learnt."""
    draw = random.Random(seed)
    common = [draw.randrange(3, vocabulary) for _ in range(prefix)]
    rows = []
    for tail in tails:
        ids = common + [draw.randrange(3, vocabulary) for _ in range(tail)]
        first = prefix + tail // 2
        rows.append(Row(tuple(ids), tuple(i >= first for i in range(len(ids)))))
    return rows


def model_of(base, spec=None, *, moved=True, **options):
    """A model whose parameters are all away from their first values."""
    model = load_model(base, spec or LoraSpec(rank=4), **({"numerics": PLAIN} | options))
    if moved:
        draw = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=draw)
                if parameter.ndim == 1:  # a magnitude
                    parameter.mul_(1 + 0.1 * noise)
                else:
                    parameter.add_(noise * 0.05)
    return model


def ours(model, rows, **options):
    """Loss, and gradients by name."""
    loss, count = model.loss(rows, **options)
    assert count == sum(sum(row.answers[1:]) for row in rows)
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.state().items()}
    for parameter in model.parameters():
        parameter.grad = None
    return loss.item(), found


def peft_of(base, adapter, folder):
    """PEFT on what we wrote, ready to be trained."""
    peft = pytest.importorskip("peft", reason="the oracle is PEFT")
    write_peft(adapter, folder, decoder=base.decoder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = transformers.AutoModelForCausalLM.from_pretrained(
            base.path, dtype=torch.float32, attn_implementation="eager"
        )
        return peft.PeftModel.from_pretrained(plain, folder, is_trainable=True).eval()


def naive(model, rows):
    """Loss and gradients of one example after another, through the logits, by our names."""
    total = 0.0
    for row in rows:
        logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, :-1]
        labels = torch.tensor(row.ids[1:])
        kept = torch.tensor(row.answers[1:])
        total = total + torch.nn.functional.cross_entropy(
            logits[kept], labels[kept], reduction="sum"
        )
    model.zero_grad()
    total.backward()
    found = {_own(name): p.grad for name, p in model.named_parameters() if p.requires_grad}
    return total.item(), found


def _own(name: str) -> str:
    name = name.removeprefix("base_model.model.").replace(".default", "").removesuffix(".weight")
    for theirs, own in (
        (".lora_A", ".a"),
        (".lora_B", ".b"),
        (".lora_magnitude_vector", ".magnitude"),
        (".lora_embedding_A", ".a"),
        (".lora_embedding_B", ".b"),
        (".token_adapter.trainable_tokens_delta", ".rows"),
    ):
        name = name.replace(theirs, own)
    for table in ("model.embed_tokens", "transformer.wte"):
        name = name.replace(table, "embedding")
    return name


def apart(found, truth) -> float:
    """The worst relative difference of two losses with gradients, tensor by tensor."""
    assert found[1].keys() == truth[1].keys()
    worst = abs(found[0] - truth[0]) / abs(truth[0])
    for name, gradient in truth[1].items():
        size = float(gradient.abs().max())
        assert size > 0, name
        worst = max(worst, float((found[1][name] - gradient).abs().max()) / size)
    assert np.isfinite(worst)
    return worst
