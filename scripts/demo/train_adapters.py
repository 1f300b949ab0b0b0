"""Train the three demo adapters with PEFT, which writes their files.

Each adapter differs on purpose: plain LoRA, rank-stabilised LoRA, and a small rank. The style
adapter is trained beside the other two, a third of its steps each, so that it works together with
them; adapters that never met each other in training mostly spoil each other's work.
"""

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from batching import buckets, encode, load_tokenizer
from examples import domain_mixture, style_mixture
from grammar import Example
from peft import LoraConfig, PeftModel, get_peft_model
from train_base import completion_loss
from transformers import Gemma3ForCausalLM

BASE_NAME = "lorakit/demo-base"
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One adapter: its shape, its data and its schedule."""

    rank: int
    alpha: int
    rslora: bool
    mixture: Callable[[random.Random, str], Example]  # by the companion of the step
    steps: int
    companions: tuple[str, ...] = ("",)  # adapters to work beside, by turns; "" is the base alone
    batch: int = 28
    rate: float = 1.2e-2
    warmup: int = 20
    seed: int = 11


RECIPES = {
    "home": Recipe(
        rank=8,
        alpha=16,
        rslora=False,
        mixture=lambda rng, _: domain_mixture(rng, "home", replay=0.35),
        steps=600,
    ),
    "shop": Recipe(
        rank=16,
        alpha=8,
        rslora=True,
        mixture=lambda rng, _: domain_mixture(rng, "shop", replay=0.35),
        steps=400,
    ),
    "style": Recipe(
        rank=4,
        alpha=8,
        rslora=False,
        mixture=lambda rng, companion: style_mixture(rng, companion, replay=0.5),
        steps=450,
        companions=("", "home", "shop"),
        rate=1e-2,
    ),
}


def rate_at(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then linear to zero."""
    up = (step + 1) / recipe.warmup
    down = (recipe.steps - step) / (recipe.steps - recipe.warmup)
    return recipe.rate * min(1.0, up, down)


def wrapped(base: Path, recipe: Recipe) -> PeftModel:
    """The base in float32 with a fresh adapter on every linear layer."""
    model = Gemma3ForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.name_or_path = BASE_NAME
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=BASE_NAME,
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        use_rslora=recipe.rslora,
        target_modules=LINEARS,
    )
    return get_peft_model(model, config)


Weights = dict[str, torch.Tensor]


def put_base_weights(model: PeftModel, weights: Weights) -> None:
    for name, layer in model.base_model.model.named_modules():
        if hasattr(layer, "base_layer"):
            layer.base_layer.weight.data = weights[name]


def beside(base: Path, adapters: Path, companion: str) -> Weights:
    """The base's matrices with a companion adapter merged into them."""
    model = Gemma3ForCausalLM.from_pretrained(base, dtype=torch.float32)
    if companion:
        model = PeftModel.from_pretrained(model, adapters / companion).merge_and_unload()
    modules = model.named_modules()
    return {name: module.weight.data for name, module in modules if name.endswith(tuple(LINEARS))}


def train(model: PeftModel, tokenizer: object, recipe: Recipe, bases: dict[str, Weights]) -> None:
    """The whole run; prints the mean loss of every 50 steps."""
    rng = random.Random(recipe.seed)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.98), weight_decay=0.01)
    began, total = time.monotonic(), 0.0
    for step in range(recipe.steps):
        companion = recipe.companions[step % len(recipe.companions)]
        put_base_weights(model, bases[companion])
        examples = [recipe.mixture(rng, companion) for _ in range(recipe.batch)]
        sequences = [encode(tokenizer, example) for example in examples]
        count = sum(len(s.ids) - s.start for s in sequences)
        for inputs, labels in buckets(sequences):
            loss = completion_loss(model.base_model.model, inputs, labels) / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, recipe)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} loss {total / 50:.4f} {time.monotonic() - began:.0f} s")
            total = 0.0


def save(model: PeftModel, folder: Path) -> None:
    """PEFT's two files; its model card is left out."""
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path, help="folder of the trained base")
    parser.add_argument("output", type=Path, help="folder that gets one folder an adapter")
    parser.add_argument("--only", choices=sorted(RECIPES))
    parser.add_argument("--steps", type=int, help="instead of the recipe's own number")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(arguments.base)
    for name, recipe in RECIPES.items():
        if arguments.only in (None, name):
            recipe = replace(recipe, steps=arguments.steps or recipe.steps)
            torch.manual_seed(recipe.seed)
            model = wrapped(arguments.base, recipe)
            print(f"{name}: {sum(p.numel() for p in model.parameters() if p.requires_grad)}")
            bases = {
                companion: beside(arguments.base, arguments.output, companion)
                for companion in recipe.companions
            }
            train(model, tokenizer, recipe, bases)
            save(model, arguments.output / name)


if __name__ == "__main__":
    main()
