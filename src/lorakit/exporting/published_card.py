"""The card as it is published: the folder's own completed, or one that says what is known.

Figures of lorakit.json and parity.json that it does not say are added; in its code the folder's
name becomes that of the repository.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lorakit.errors import FormatError
from lorakit.exporting.contents import PARITY, Contents
from lorakit.exporting.front_matter import Wanted, completed, is_owned
from lorakit.formats.folder import read_object
from lorakit.sources.reference import Hub
from lorakit.training.card import fenced, plain

LIBRARIES = {"onnx": "transformers.js", "safetensors": "transformers"}  # else as the target
TITLES = ("form", "adapters", "KL", "top-1", "largest difference", "same answers")
_FENCE = re.compile(r"^(```+)(\w*)\n(.*?)^\1", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


def published_card(contents: Contents, written: str, place: Hub, base: str, *, forced: bool) -> str:
    """The text of README.md. written: what the folder has; forced: the base is the caller's word.

    Raises FormatError where its front matter is not what the Hub takes.
    """
    wanted = Wanted(
        base_model=base,
        relation=_relation(contents),
        library=_library(contents),
        tags=_tags(contents),
    )
    text = completed(written or _new(contents, place, base), wanted, forced_base=forced)
    old = _TITLE.search(text)
    if written and old:
        text = _FENCE.sub(lambda found: _code(found, old[1].strip(), contents, place, base), text)
    for name in _local_names(contents):
        text = text.replace(f"`{plain(name)}`", f"`{plain(base)}`")
    more = [*_measured(contents, text), *_proven(contents, text), *_changed(contents)]
    return "\n".join([text.rstrip("\n"), *more, ""]) if more else text


def _local_names(contents: Contents) -> Iterator[str]:
    """What the base is called here, where that says nothing to others."""
    about = contents.record.get("base")
    called = about.get("name") if isinstance(about, dict) else contents.record.get("base_name")
    adapters = [each.get("name") for each in contents.adapters]
    if isinstance(called, str) and called and not is_owned(called) and called not in adapters:
        yield called


def _inside(contents: Contents) -> bool:
    """Whether an export has adapters in it."""
    return bool(contents.adapters) and contents.record.get("adapters") != "dynamic"


def _relation(contents: Contents) -> str:
    if contents.kind == "adapter":
        return "adapter"
    return "finetune" if contents.kind == "model" or _inside(contents) else "quantized"


def _library(contents: Contents) -> str:
    if contents.kind == "export":
        target = str(contents.record.get("to"))
        return LIBRARIES.get(target, target)
    if contents.kind == "model":
        return "transformers"
    return "mlx" if "adapters.safetensors" in contents.files else "peft"


def _tags(contents: Contents) -> tuple[str, ...]:
    if contents.kind == "adapter":
        return ("lora",)
    if contents.kind == "model":
        return ()
    return (str(contents.record.get("to")), "lorakit", *(["lora"] if _inside(contents) else []))


def _new(contents: Contents, place: Hub, base: str) -> str:
    """A card for a folder that has none."""
    what = {"adapter": "A LoRA adapter for", "model": "A model made from", "export": "Made from"}
    names = [plain(each.get("name")) for each in contents.adapters]
    said = f" with {', '.join(f'`{name}`' for name in names)}" if names else ""
    line = ["lorakit", "chat", f"hf:{base}", "-a", str(place)]
    if contents.kind != "adapter":
        line = ["lorakit", "chat", str(place)]
    lines = [f"# {plain(place.name)}", "", f"{what[contents.kind]} `{plain(base)}`{said}."]
    if contents.kind != "export":
        lines += ["", "## Use it", "", *fenced("", [shlex.join(line)])]
    return "\n".join([*lines, ""])


def _code(found: re.Match[str], name: str, contents: Contents, place: Hub, base: str) -> str:
    """A block of code in which a folder's name becomes what it is called now."""
    fence, language, body = found.groups()
    lines = body.split("\n")
    if language:
        lines = [_spoken(line, name, place, base) for line in lines]
    else:
        lines = [_typed(line, name, contents, place, base) for line in lines]
    return f"{fence}{language}\n" + "\n".join(lines) + fence


def _spoken(line: str, name: str, place: Hub, base: str) -> str:
    """A line of a program."""
    if f"{name}/" in line:  # a path in the folder, which is on this machine
        return line
    if "lorakit.open(" in line:
        own = f'open("{name}"' in line
        return re.sub(r'open\("[^"]*"', f'open("{place if own else f"hf:{base}"}"', line)
    if "load_adapter(" in line:
        return line.replace(f'"{name}"', f'"{place}"')
    if place.inside:
        return line
    line = line.partition("  // a folder;")[0]  # which it is not any more
    return line.replace(f'"./{name}"', f'"{place.repo}"').replace(f'"{name}"', f'"{place.repo}"')


def _typed(line: str, name: str, contents: Contents, place: Hub, base: str) -> str:
    """A command line."""
    try:
        words = shlex.split(line)
    except ValueError:
        return line
    if not words or f"{name}/" in line:
        return line
    if words[0] == "lorakit":
        if words[1:2] == ["run"] and len(words) > 2 and "-a" in words:
            words[2] = f"hf:{base}"
        words = [_again(word, name, str(place)) for word in words]
        words = [f"{place}/{word}" if word in contents.files else word for word in words]
    elif not place.inside:
        words = [place.repo if word == name else word for word in words]
        words = _fetched(words, contents, place)
    if words == shlex.split(line):
        return line
    asked = line.endswith(' "..."')  # as people write it, and shlex would not
    return f'{shlex.join(words[:-1])} "..."' if asked else shlex.join(words)


def _fetched(words: list[str], contents: Contents, place: Hub) -> list[str]:
    """A line of llama.cpp, which fetches a model by its form and no adapter with it."""
    forms = contents.record.get("forms")
    if words[1:2] != ["-m"] or "--lora" in words or place.revision or not isinstance(forms, dict):
        return words
    named = {each.get("file"): form for form, each in forms.items() if isinstance(each, dict)}
    form = named.get(words[2]) if len(words) > 2 else None
    return words if form is None else [words[0], "-hf", f"{place.repo}:{form}", *words[3:]]


def _again(word: str, name: str, place: str) -> str:
    head, colon, scale = word.partition(":")
    return f"{place}{colon}{scale}" if head == name else word


def _measured(contents: Contents, text: str) -> Iterator[str]:
    """What is known of adapters from their evaluation and is not said."""
    known = [("Evaluation", contents.record)] if contents.kind == "adapter" else []
    known += [
        (f"Evaluation of {plain(each.get('name'))}", facts)
        for each in contents.adapters
        if isinstance(facts := each.get("facts"), dict)
    ]
    for title, facts in known:
        verdict = facts.get("verdict")
        sentences = [plain(each) for each in verdict] if isinstance(verdict, list) else []
        if sentences and not any(each in text for each in sentences):
            yield from ("", f"## {title}", "", *(f"- {each}" for each in sentences))


def _proven(contents: Contents, text: str) -> Iterator[str]:
    """How far an export is from base and adapter in float32, where it is not said."""
    if PARITY not in contents.files or PARITY in text:
        return
    found = read_object(contents.path(PARITY)).get("files")
    try:
        rows = [_row(each, side) for each in found.values() for side in each["sides"]]  # type: ignore[union-attr]
    except (AttributeError, KeyError, TypeError) as error:
        raise FormatError(f"{PARITY} is not as lorakit writes it", hint="export again") from error
    yield from ("", "## Against base and adapter in float32", "")
    yield f"| {' | '.join(TITLES)} |"
    yield "|---" * len(TITLES) + "|"
    yield from rows
    yield ""
    yield f"KL is a mean over positions, in nats. All figures are in `{PARITY}`."


def _row(parity: Mapping[str, Any], side: Mapping[str, Any]) -> str:
    answers = side["answers"]
    cells: Sequence[str] = (
        plain(parity["form"]),
        plain(side["name"]),
        *(plain(_short(side[key])) for key in ("kl", "top1", "max_difference")),
        f"{answers['same']} of {answers['asked']}",
    )
    return f"| {' | '.join(cells)} |"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float | int) else str(value)


def _changed(contents: Contents) -> Iterator[str]:
    if contents.changed:
        yield from ("", "Changed after it was measured, so that figures may be of other files:", "")
        yield from (f"- {plain(each)}" for each in contents.changed)
