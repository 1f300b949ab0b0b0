"""The model card of a trained adapter: README.md, as hubs and people read it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lorakit.chat.calls import function_of
from lorakit.training.evaluate.evaluation import Evaluation
from lorakit.training.evaluate.statistics import Share
from lorakit.training.verdict import headline

_SAFE = {"|": "\\|", "`": "'", "<": "&lt;", "[": "\\["}
MOST_ROWS = 40  # of a table


def card(facts: Mapping[str, Any], measured: Mapping[str, Evaluation | None]) -> str:
    """The card's text. facts: what lorakit.json holds; measured: as a TrainResult has it."""
    after, before, kept = (measured.get(name) for name in ("after", "before", "kept"))
    lines = [*_front(facts), f"# {plain(facts['name'])}", ""]
    lines.append(
        f"A LoRA adapter for `{plain(facts['base']['name'])}`, trained with "
        "[lorakit](https://github.com/lorakit/lorakit)."
    )
    lines += ["", *(f"- {plain(sentence)}" for sentence in facts["verdict"])]
    lines += ["", *_use(facts)]
    if after is not None:
        lines += ["", *_results(after, before, kept)]
    lines += ["", *_training(facts), "", "![Loss, evaluation and learning rate](curves.svg)"]
    return "\n".join([*lines, ""])


def _front(facts: Mapping[str, Any]) -> Iterator[str]:
    tags = ["lora", "lorakit", *(["function-calling"] if facts["prompt"]["tools"] else [])]
    yield from front(facts["base"]["name"], "adapter", "peft", tags)


def _use(facts: Mapping[str, Any]) -> Iterator[str]:
    name, base = plain(facts["name"]), plain(facts["base"]["name"])
    scale = facts["default_scale"]
    reference = name if scale == 1 else f"{name}:{scale:g}"
    line = shlex.join(["lorakit", "run", base, "-a", reference])
    yield "## Use it"
    yield ""
    yield from fenced("", [f'{line} "..."'])
    yield ""
    yield from fenced(
        "python",
        [
            "import lorakit",
            "",
            f"with lorakit.open({json.dumps(base)}) as model:",
            f"    adapter = model.load_adapter({json.dumps(name)})",
            f"    adapter.apply(scale={scale:g})",
            '    print(model.chat([{"role": "user", "content": "..."}]))',
        ],
    )
    yield ""
    yield "PEFT loads the folder too: `PeftModel.from_pretrained(model, folder)`."
    if facts["prompt"]["tools"]:
        yield ""
        yield declared(facts["prompt"])


def declared(prompt: Mapping[str, Any]) -> str:
    """Its tools, and whether to declare them."""
    names = ", ".join(f"`{plain(str(function_of(tool).get('name')))}`" for tool in prompt["tools"])
    share = prompt["declared"]
    if share == 0:
        how = "leave their declarations out of the prompt: the adapter knows them"
    elif share == 1:
        how = "declare them in the prompt, as in training"
    else:
        how = f"declare them in the prompt or not: {share:.0%} of the training prompts did"
    return f"Its tools: {names}. When you ask, {how}."


def _results(
    after: Evaluation, before: Evaluation | None, kept: Evaluation | None
) -> Iterator[str]:
    main = headline(after)
    yield "## Evaluation"
    yield ""
    yield f"On {len(after.outcomes)} held-out examples; intervals are Wilson's, of 95%."
    yield ""
    yield "| measure | with the adapter | base |"
    yield "|---|---|---|"
    if main.share:
        rows = _SHARES if main.name == "exact match" else {main.name: "exact"}
        for title, field in rows.items():
            share: Share = getattr(after, field)
            if share.total:
                yield f"| {title} | {share} | {getattr(before, field, '') if before else ''} |"
    if after.perplexity is not None:
        base = f"{before.perplexity:.3g}" if before and before.perplexity is not None else ""
        yield f"| perplexity | {after.perplexity:.3g} | {base} |"
    if kept is not None and kept.exact.total:
        yield f"| other requests, answered as before | {kept.exact} | |"
    if main.name == "exact match" and after.by_tool:
        yield ""
        yield "| tool | exact | of |"
        yield "|---|---|---|"
        shown = list(after.by_tool.items())[:MOST_ROWS]
        yield from (f"| `{plain(tool)}` | {each.count} | {each.total} |" for tool, each in shown)


_SHARES = {
    "exact match": "exact",
    "right tool": "names",
    "right arguments": "arguments",
    "no valid call": "invalid",
    "no call where no tool fits": "abstained",
}


def _training(facts: Mapping[str, Any]) -> Iterator[str]:
    adapter, run = facts["adapter"], facts["training"]
    yield "## Training"
    yield ""
    yield f"- {plain(adapter['kind'])}, rank {adapter['rank']}, {adapter['parameters']:,} numbers"
    yield f"- {run['steps']:,} steps, {run['seconds']:.0f} seconds"
    for file in facts["data"]:
        yield f"- {file['role']}: {file['examples']:,} examples, SHA-256 `{file['sha256'][:16]}...`"
    yield "- every setting, the digests of the data and the figures are in `lorakit.json`"


def front(
    base: str, relation: str, library: str, tags: Sequence[str], license: str | None = None
) -> Iterator[str]:
    """What a hub reads before a card of a model made from a base. Strings as JSON, which YAML
    reads too."""
    yield "---"
    if license is not None:
        yield f"license: {json.dumps(license)}"
    yield f"base_model: {json.dumps(base)}"
    yield f"base_model_relation: {relation}"
    yield f"library_name: {library}"
    yield "pipeline_tag: text-generation"
    yield "tags:"
    yield from (f"- {tag}" for tag in tags)
    yield "---"
    yield ""


def fenced(language: str, lines: Sequence[str]) -> list[str]:
    return [f"```{language}", *lines, "```"]


def plain(text: object) -> str:
    """Text of a file or a user that stays text: one line, no table's border, no HTML, no link."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    for mark, safe in _SAFE.items():
        line = line.replace(mark, safe)
    return line
