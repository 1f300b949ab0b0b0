"""The model card of an export: README.md, as hubs and people read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lorakit.exporting.parity import SideParity
from lorakit.exporting.plan import ExportPlan
from lorakit.exporting.result import ExportedFile
from lorakit.sources.card import CARD as README
from lorakit.sources.card import named_license
from lorakit.training.card import declared, front, plain

WAYS = {
    "merged": "merged into its weights",
    "apart": "beside its weights, in the dtype of its hidden states",
    "composed": "in it, chosen among by number for each row",
}

TITLES = ("form", "adapters", "KL", "top-1", "largest difference", "same answers")
JUDGED = ("right calls", "right calls in float32")  # where the right ones are known


def card(plan: ExportPlan, record: Mapping[str, Any], files: Sequence[ExportedFile]) -> str:
    """The card's text. record: what lorakit.json holds but the digests."""
    name = plan.output.name
    lines = [
        *_front(plan, record, files),
        f"# {plain(name)}",
        "",
        _what(plan, record),
        "",
        "## Use it",
        "",
        *plan.target.use(name, record, next(iter(record["forms"].values()))["file"]),
    ]
    if record["from"] and record["adapters"] != "dynamic":
        lines += _adapters(record["from"])
    if any(file.parity for file in files):
        lines += ["", *_parity(files)]
    else:
        lines += ["", "It was not compared with what it was made of."]
    return "\n".join([*lines, "", *_files(record, plan.target.beside(plan)), ""])


def _front(
    plan: ExportPlan, record: Mapping[str, Any], files: Sequence[ExportedFile]
) -> Iterator[str]:
    inside = record["adapters"] != "dynamic" and record["from"]
    lora = record["from"] or record["adapters"] == "dynamic"
    tags = [plan.target.name, "lorakit", *(["lora"] if lora else [])]
    tags += ["function-calling"] if record["tool_format"] else []
    relation = "finetune" if inside else "quantized"
    yield from front(record["base_name"], relation, plan.target.library, tags, _license(plan))


def _license(plan: ExportPlan) -> str | None:
    """That of the base, where all that is inside says the same one: no other is known to hold."""
    inside = () if plan.kind == "dynamic" else plan.adapters
    found = {named_license(plan.base.path / README), *(each.license for each in inside)}
    return found.pop() if len(found) == 1 else None


def _adapters(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is known of them from their training."""
    for each in found:
        facts = each["facts"]
        prompt = facts.get("prompt") or {}
        known = [f"- {plain(sentence)}" for sentence in facts.get("verdict") or ()]
        if prompt.get("tools"):
            known += ["", declared(prompt)]
        if known:
            yield from ("", f"## {plain(each['name'])}", "", *known)


def _what(plan: ExportPlan, record: Mapping[str, Any]) -> str:
    base = f"`{plain(record['base_name'])}` as {plan.target.title}"
    kind, adapters = record["adapters"], record["from"]
    if kind == "dynamic":
        how = "whose graph takes LoRA adapters as inputs"
    elif not adapters:
        how = "without adapters"
    else:
        said = ", ".join(f"`{plain(each['name'])}` at scale {each['scale']:g}" for each in adapters)
        how = f"with {said} {WAYS[kind]}"
    made = "made with [lorakit](https://github.com/lorakit/lorakit)"
    return f"{base}, {how}; {made}. It holds {record['context']:,} tokens."


def _parity(files: Sequence[ExportedFile]) -> Iterator[str]:
    found = [(file, parity) for file in files if (parity := file.parity)]
    first = found[0][1]
    adapted = any(parity.sides[-1].name != "base" for _, parity in found)
    prompts = " or ".join(dict.fromkeys(parity.prompts for _, parity in found))
    yield f"## Against base{' and adapter' if adapted else ''} in float32"
    yield ""
    yield (
        f"On {plain(prompts)}, in {plain(first.runtime)}, against {plain(first.reference)}. "
        "KL is a mean over positions, in nats. Answers are greedy; those that call the same tools "
        "alike are the same."
    )
    yield ""
    judged = any(side.answers.wanted for _, parity in found for side in parity.sides)
    titles = TITLES + (JUDGED if judged else ())
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    for file, parity in found:
        for side in parity.sides:
            yield f"| {' | '.join(_row(file.form, side, judged=judged))} |"
    for file, parity in found:
        if parity.apart is not None:
            yield ""
            yield f"{file.form}: {parity.apart.sentence(file.form)}."
    notes = dict.fromkeys(note for _, parity in found for note in parity.warnings)
    if notes:
        yield ""
        yield from (f"- {plain(note)}" for note in notes)
    yield ""
    yield "All figures are in `parity.json`."


def _row(form: str, side: SideParity, *, judged: bool) -> Iterator[str]:
    answers = side.answers
    yield from (form, plain(side.name), f"{side.kl:.2g}", f"{side.top1:.1%}")
    yield from (f"{side.max_difference:.2g}", f"{answers.same} of {answers.asked}")
    if judged:
        yield from (
            f"{right} of {answers.wanted}" for right in (answers.right, answers.right_before)
        )


def _files(record: Mapping[str, Any], beside: str | None) -> Iterator[str]:
    yield "## Files"
    yield ""
    yield "| form | file | MB, with all its parts |"
    yield "|---|---|---|"
    for form, each in record["forms"].items():
        yield f"| {form} | `{each['file']}` | {each['bytes'] / 1e6:.1f} |"
    if beside is not None:
        yield f"| adapter | `{beside}` | |"
    yield ""
    yield "`lorakit.json` says what it was made of, and the SHA-256 of every file."
