"""Train the demo base model from scratch and write a plain Hugging Face folder.

Gemma-3 architecture, completion-only loss, Muon on the hidden matrices and AdamW on embeddings and
norms, part of every batch copy drills. The schedule counts steps, never seconds.
"""

import argparse
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from batching import IGNORED, buckets, encode, load_tokenizer
from drills import Drills, Sequence
from examples import declared_mixture, undeclared_mixture
from torch.nn.functional import cross_entropy
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GenerationConfig

LAYERS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that a run depends on besides the scripts."""

    steps: int = 1800
    warmup: int = 60
    plain: int = 24
    declared: int = 3
    first_drills: int = 28
    last_drills: int = 8
    muon_rate: float = 0.02
    adam_rate: float = 5e-3
    seed: int = 7


def configuration(vocabulary: int) -> Gemma3TextConfig:
    """Gemma 3 in small: five layers with a sliding window, one global."""
    return Gemma3TextConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=32,
        max_position_embeddings=1024,
        sliding_window=128,
        layer_types=["sliding_attention"] * (LAYERS - 1) + ["full_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        lorakit_name="lorakit/demo-base",  # by which adapters know it, wherever it lies
    )


def completion_loss(
    model: Gemma3ForCausalLM, inputs: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Summed cross-entropy of the labelled positions; logits are computed for them alone."""
    hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
    wanted = labels != IGNORED
    return cross_entropy(model.lm_head(hidden[wanted]), labels[wanted], reduction="sum")


def rate_factor(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then flat for 30% of the steps, then linear to zero."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    flat = 0.3 * recipe.steps
    return min(1.0, (recipe.steps - step) / (recipe.steps - flat))


def optimizers(model: Gemma3ForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for matrices inside the layers, AdamW for the rest."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "layers" not in n]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def sequences_of_step(
    step: int, recipe: Recipe, rng: random.Random, drills: Drills, tokenizer: object
) -> list[Sequence]:
    """Drills, whose share falls over the run, and requests without and with declarations."""
    done = step / recipe.steps
    count = round(recipe.first_drills + (recipe.last_drills - recipe.first_drills) * done)
    examples = [undeclared_mixture(rng) for _ in range(recipe.plain)]
    examples += [declared_mixture(rng) for _ in range(recipe.declared)]
    return [drills.drill() for _ in range(count)] + [encode(tokenizer, e) for e in examples]


def train(model: Gemma3ForCausalLM, tokenizer: object, recipe: Recipe) -> None:
    """The whole run; prints the mean loss of every 100 steps."""
    rng = random.Random(recipe.seed)
    drills = Drills.create(tokenizer.backend_tokenizer, first_plain=13, seed=recipe.seed)
    optimizers_ = optimizers(model, recipe)
    rates = [group["lr"] for o in optimizers_ for group in o.param_groups]
    began, total = time.monotonic(), 0.0
    for step in range(recipe.steps):
        sequences = sequences_of_step(step, recipe, rng, drills, tokenizer)
        count = sum(len(s.ids) - s.start for s in sequences)
        for inputs, labels in buckets(sequences):
            loss = completion_loss(model, inputs, labels) / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        groups = [group for o in optimizers_ for group in o.param_groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * rate_factor(step, recipe)
        for optimizer in optimizers_:
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} loss {total / 100:.4f} {time.monotonic() - began:.0f} s")
            total = 0.0


def save(model: Gemma3ForCausalLM, tokenizer: object, folder: Path) -> None:
    """Weights in float16 with the configuration and the stop tokens."""
    stops = ["<eos>", "<end_of_turn>", "<start_function_response>"]
    model.generation_config = GenerationConfig(
        bos_token_id=1,
        eos_token_id=tokenizer.convert_tokens_to_ids(stops),
        pad_token_id=0,
        do_sample=False,
    )
    model.half().save_pretrained(folder)


def main() -> None:
    defaults = Recipe()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", type=Path, help="folder with tokenizer and template")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    tokenizer = load_tokenizer(arguments.tokenizer)
    model = Gemma3ForCausalLM(configuration(len(tokenizer)))
    print(f"{sum(p.numel() for p in model.parameters())} parameters")
    train(model, tokenizer, Recipe(steps=arguments.steps, seed=arguments.seed))
    save(model, tokenizer, arguments.output)


if __name__ == "__main__":
    main()
