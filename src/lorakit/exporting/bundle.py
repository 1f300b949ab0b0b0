"""What an adapter's folder says beside its weights, for whoever uses an export with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorakit.exporting.plan import Chosen
from lorakit.formats.folder import member, read_object

FACTS = "lorakit.json"
KEPT = ("verdict", "prompt", "added_tokens", "default_scale")  # of it, in an export's record


def read_facts(place: Path) -> Mapping[str, Any]:
    """What the lorakit.json of an adapter's folder holds; empty where there is none.

    Raises FormatError, and SourceError where it cannot be read.
    """
    path = member(place, FACTS) if place.is_dir() else None
    return {} if path is None else read_object(path)


def kept_facts(chosen: Chosen) -> dict[str, Any]:
    """What goes into the record of an export."""
    return {key: chosen.facts[key] for key in KEPT if key in chosen.facts}


def bundled_template(adapters: Sequence[Chosen]) -> str | None:
    """The chat template that the adapters were trained with, where all that say one agree."""
    found = {template for each in adapters if (template := _prompt(each).get("template"))}
    return found.pop() if len(found) == 1 else None


def several_templates(adapters: Sequence[Chosen]) -> bool:
    """Whether adapters were trained with different templates."""
    return len({_prompt(each).get("template") for each in adapters} - {None}) > 1


def declares(adapters: Sequence[Mapping[str, Any]]) -> bool:
    """Whether prompts are to declare tools, by the facts of the adapters: they do where any was
    trained so, or says nothing."""
    shares = [_facts_prompt(each).get("declared") for each in adapters]
    return not shares or any(share != 0 for share in shares)


def _prompt(chosen: Chosen) -> Mapping[str, Any]:
    return _facts_prompt(chosen.facts)


def _facts_prompt(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    prompt = facts.get("prompt")
    return prompt if isinstance(prompt, dict) else {}
