"""What an adapter's folder says beside its weights, for whoever uses an export with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorakit.errors import FormatError
from lorakit.exporting.plan import Chosen
from lorakit.formats.brought import meant
from lorakit.formats.folder import member, read_object
from lorakit.values import finite

FACTS = "lorakit.json"
MAX_TEMPLATE = 1 << 20  # characters
KEPT = ("verdict", "prompt", "added_tokens", "default_scale")  # of it, in an export's record


def read_facts(place: Path) -> Mapping[str, Any]:
    """What the lorakit.json of an adapter's folder holds; empty where there is none.

    Raises FormatError for what is not of the kind that it must be, and SourceError where it cannot
    be read.
    """
    path = member(place, FACTS) if place.is_dir() else None
    if path is None:
        return {}
    facts = read_object(path)
    prompt = facts.get("prompt") or {}
    tools = prompt.get("tools") or [] if isinstance(prompt, dict) else []
    kinds = {
        "verdict": _texts(facts.get("verdict")),
        "prompt": isinstance(prompt, dict),
        "prompt.template": isinstance(prompt, dict) and _text(prompt.get("template")),
        "prompt.declared": isinstance(prompt, dict) and _share(prompt.get("declared")),
        "prompt.tools": isinstance(tools, list) and all(map(_is_tool, tools)),
        "added_tokens": isinstance(facts.get("added_tokens") or [], list),
    }
    wrong = [name for name, right in kinds.items() if not right]
    if wrong or not _is_unicode(facts):
        raise FormatError(
            f"{path} does not say what it must of an adapter",
            items=wrong or ["it holds text that is not Unicode"],
            hint="mend it, or remove the file: the adapter works without",
        )
    return facts


def _text(value: object) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= MAX_TEMPLATE)


def _texts(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(v, str) for v in value))


def _share(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and finite(value) and 0 <= value <= 1)


def _is_tool(tool: object) -> bool:
    said = tool.get("function", tool) if isinstance(tool, dict) else None
    return isinstance(said, dict) and isinstance(said.get("name"), str)


def _is_unicode(value: object) -> bool:
    """Whether it can be written: JSON may hold halves of characters."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def kept_facts(chosen: Chosen) -> dict[str, Any]:
    """What goes into the record of an export."""
    return {key: chosen.facts[key] for key in KEPT if key in chosen.facts}


def bundled_template(adapters: Sequence[Chosen]) -> str | None:
    """The chat template that the adapters were trained with, where all that say one agree."""
    found = {meant(text): text for each in adapters if (text := each.templates.get("default"))}
    return found.popitem()[1] if len(found) == 1 else None


def declares(adapters: Sequence[Mapping[str, Any]]) -> bool:
    """Whether prompts are to declare tools, by the facts of the adapters: they do where any was
    trained so, or says nothing."""
    shares = [_facts_prompt(each).get("declared") for each in adapters]
    return not shares or any(share != 0 for share in shares)


def _facts_prompt(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    prompt = facts.get("prompt")
    return prompt if isinstance(prompt, dict) else {}
