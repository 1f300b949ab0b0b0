"""What stands at the top of a model card, as the Hub wants it: read, judged, completed.

The keys are those of the Hub's documentation (docs/hub/model-cards, modelcard.md); the YAML is read
and written by the Hub's own client.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.errors import FormatError
from lorakit.sources.hub_client import client
from lorakit.values import shown

RELATIONS = ("adapter", "finetune", "quantized", "merge")
_WORD = re.compile(r"[\w.+-]{1,96}", re.ASCII)
_OWNED = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_PATH = re.compile(r"[~./\\]|[A-Za-z]:[\\/]|file:")
_BLOCK = re.compile(r"\s*---[ \t]*\r?\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a card's front matter has to say. tags: at least these."""

    base_model: str
    relation: str
    library: str
    tags: tuple[str, ...]


def is_owned(name: object) -> bool:
    """Whether it can be somebody's repository, owner and name, and no path."""
    return isinstance(name, str) and _OWNED.fullmatch(name) is not None and ".." not in name


def is_path(name: str) -> bool:
    """Whether it is a path of some machine: it begins as one, or has too many parts for a name."""
    return _PATH.match(name) is not None or "\\" in name or name.count("/") > 1


def bases_of(text: str) -> list[str]:
    """The base models that a card names. Raises FormatError."""
    found = _parsed(text).data.to_dict().get("base_model")
    return [each for each in (found if isinstance(found, list) else [found]) if each]


def completed(text: str, wanted: Wanted, *, forced_base: bool) -> str:
    """A card's text whose front matter says all that is wanted; what it says already stays.

    forced_base: the base model is the caller's word and not only what is known.
    Raises FormatError listing what the Hub does not take.
    """
    card = _parsed(text)
    data: dict[str, Any] = card.data.to_dict()
    before = dict(data)
    named = (
        [data["base_model"]] if isinstance(data.get("base_model"), str) else data.get("base_model")
    )
    if forced_base or not named or not all(map(is_owned, named)):
        data["base_model"] = wanted.base_model
    data.setdefault("base_model_relation", wanted.relation)
    data.setdefault("library_name", wanted.library)
    data.setdefault("pipeline_tag", "text-generation")
    tags = data.setdefault("tags", [])
    if isinstance(tags, list):
        data["tags"] = [*tags, *(tag for tag in wanted.tags if tag not in tags)]
    faults = list(_faults(data))
    if faults:
        raise FormatError(
            "the front matter of README.md is not what the Hub takes",
            items=faults,
            hint="mend what stands between the lines of dashes at its top",
        )
    if data == before:
        return text
    for key, value in data.items():
        if value != before.get(key):
            card.data[key] = value
    return str(card)


def _faults(data: Mapping[str, Any]) -> Iterator[str]:
    bases = data["base_model"]
    for each in bases if isinstance(bases, list) else [bases]:
        if not is_owned(each):
            yield f"base_model: expected org/repo, found {shown(each)}"
    if data["base_model_relation"] not in RELATIONS:
        said = shown(data["base_model_relation"])
        yield f"base_model_relation: expected {', '.join(RELATIONS)}, found {said}"
    for key in ("library_name", "pipeline_tag"):
        if not _is_word(data[key]):
            yield f"{key}: expected a word, found {shown(data[key])}"
    tags = data["tags"]
    if not isinstance(tags, Sequence) or isinstance(tags, str):
        yield f"tags: expected a list, found {shown(tags)}"
    else:
        yield from (f"tags: expected words, found {shown(tag)}" for tag in tags if not _is_tag(tag))


def _is_word(value: object) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _is_tag(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 96 and value.isprintable()


def _parsed(text: str) -> Any:
    """A card by the Hub's own class, which checks evaluation results too."""
    if not _BLOCK.match(text):
        text = f"---\n\n---\n{text}"  # else the client warns
    try:
        client().ModelCard(text)
        return client().RepoCard(text)  # a ModelCard takes a word in place of a list apart
    except Exception as error:  # YAML's own, ValueError, TypeError: a user's text
        said = " ".join(str(error).split())
        raise FormatError(
            f"the front matter of README.md cannot be read: {said:.300}",
            hint="mend what stands between the lines of dashes at its top",
        ) from error
