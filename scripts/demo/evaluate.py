"""Measure base and adapters on the committed evaluation set: exact match, teacher-forced.

An answer counts when every token, the stop token included, is the argmax given the tokens before
it; for greedy decoding that is the same as generating the exact text.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from batching import IGNORED, collate, encode, load_tokenizer
from declared import invented_example
from grammar import CALL_STOP, TEXT_STOP, Example
from peft import PeftModel
from transformers import Gemma3ForCausalLM
from words import HELD_OUT

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
UNSEEN = 100
ADAPTERS_OF = {
    "base": (),
    "home": ("home",),
    "shop": ("shop",),
    "style": ("style",),
    "home+style": ("home", "style"),
}
COLUMNS = {
    "base": ("base", "home", "shop", "style", "invented"),
    "home": ("base", "home"),
    "shop": ("base", "shop"),
    "style": ("base", "style"),
    "home+style": ("base", "home", "style"),
}
OWN = {"base": ("base",), "home": ("home",), "shop": ("shop",), "style": ("style",)}
Score = dict[str, float]


def read(path: Path) -> dict[str, list[Example]]:
    """The evaluation set by `domain/split`."""
    groups: dict[str, list[Example]] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(text)
        is_call = record["expected"].startswith("<start_function_call>")
        example = Example(
            messages=tuple(record["messages"]),
            expected=record["expected"],
            stop=CALL_STOP if is_call else TEXT_STOP,
            tools=tuple(record["tools"] or ()),
        )
        groups.setdefault(f"{record['domain']}/{record['split']}", []).append(example)
    return groups


@torch.no_grad()
def matches(model: torch.nn.Module, tokenizer: object, examples: Sequence[Example]) -> list[bool]:
    """Whether each example is answered exactly, in the order given."""
    encoded = [encode(tokenizer, example) for example in examples]
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index].ids))
    results = [False] * len(encoded)
    for start in range(0, len(order), 25):
        chosen = order[start : start + 25]
        inputs, labels = collate([encoded[index] for index in chosen])
        found = model(input_ids=inputs, use_cache=False).logits.argmax(-1)
        exact = ((found == labels) | (labels == IGNORED)).all(-1).tolist()
        for index, value in zip(chosen, exact, strict=True):
            results[index] = value
    return results


def accuracy(model: torch.nn.Module, tokenizer: object, examples: Sequence[Example]) -> float:
    """Percentage of exact matches."""
    results = matches(model, tokenizer, examples)
    return round(100 * sum(results) / len(results), 1)


def set_scales(model: PeftModel, scales: Mapping[str, float]) -> None:
    """Activate the named adapters, each at its own scale; none means the bare base."""
    for module in model.modules():
        if hasattr(module, "set_scale"):
            active = list(scales) or list(model.peft_config)[:1]
            module.set_adapter(active)
            for name in active:
                module.set_scale(name, scales.get(name, 0.0))


def table(
    model: PeftModel,
    tokenizer: object,
    groups: Mapping[str, Sequence[Example]],
    columns: Mapping[str, Sequence[str]],
) -> dict[str, Score]:
    """Accuracy under every set of adapters, on the groups of the named domains."""
    results = {}
    for name, domains in columns.items():
        set_scales(model, dict.fromkeys(ADAPTERS_OF[name], 1.0))
        wanted = [group for group in groups if group.split("/")[0] in domains]
        results[name] = {g: accuracy(model, tokenizer, groups[g]) for g in wanted}
    return results


def sweep(
    model: PeftModel, tokenizer: object, groups: Mapping[str, Sequence[Example]]
) -> dict[str, Score]:
    """The home adapter at several scales, on its own requests and on the base's."""
    results = {}
    for scale in SCALES:
        set_scales(model, {"home": scale})
        wanted = ("home/values", "home/phrasings", "base/values")
        results[str(scale)] = {g: accuracy(model, tokenizer, groups[g]) for g in wanted}
    return results


def quantised(model: torch.nn.Module) -> None:
    """Round every linear weight and the embedding to int8 per row, in place."""
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "lora_" not in name:
            scale = weight.abs().amax(1, keepdim=True) / 127
            weight.data = (weight / scale).round() * scale


def load(base: Path, adapters: Path) -> PeftModel:
    """The base in float32 with all adapters attached."""
    model: PeftModel | Gemma3ForCausalLM
    model = Gemma3ForCausalLM.from_pretrained(base, dtype=torch.float32)
    names = sorted(path.name for path in adapters.iterdir())
    model = PeftModel.from_pretrained(model, adapters / names[0], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(adapters / name, adapter_name=name)
    return model.eval()


def show(title: str, results: Mapping[str, Score]) -> None:
    """A Markdown table: one row a group, one column a set of adapters."""
    columns = list(results)
    groups = list(dict.fromkeys(group for scores in results.values() for group in scores))
    print(f"\n| {title} | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for group in groups:
        cells = [f"{results[c][group]:.0f}" if group in results[c] else "" for c in columns]
        print(f"| {group} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="folder with base, adapters and evaluation.jsonl")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(arguments.demo / "base")
    groups = read(arguments.demo / "evaluation.jsonl")
    rng = random.Random(5)
    unseen = [invented_example(rng, HELD_OUT) for _ in range(UNSEEN)]
    model = load(arguments.demo / "base", arguments.demo / "adapters")
    with_unseen = {**groups, "invented/declared": unseen}
    report = {"float32": table(model, tokenizer, with_unseen, COLUMNS)}
    report["home at scale"] = sweep(model, tokenizer, groups)
    quantised(model)
    report["int8 base"] = table(model, tokenizer, groups, OWN)
    for title, results in report.items():
        show(title, results)
    if arguments.json:
        text = json.dumps(report, indent=1) + "\n"
        arguments.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
