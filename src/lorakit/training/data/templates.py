"""Examples from templates: wordings with slots, the values of the slots, and the calls they make.

A file of templates is a JSON object:

    {"slots": {"room": ["kitchen", "guest room"], "level": {"from": 1, "to": 100}},
     "templates": [{"request": "dim the {room} to {level} percent",
                    "call": {"name": "dim", "arguments": {"room": "{room}", "level": "{level}"}}},
                   {"request": "sing me a song", "reply": "I have no tool for that."}]}

An argument that is a slot alone has the value's type. `{city#2}` is a second value of the slot
`city`. "calls" lists several calls. "held_out": true keeps a wording out of training. Tools are
under "tools", or in the tools.json beside the file.
"""

from __future__ import annotations

import os
import random
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.errors import FormatError
from lorakit.files.bounded import as_path, parse_json, read_text
from lorakit.training.data.assemble import Declarations, assemble
from lorakit.training.data.example import Example
from lorakit.training.data.read import read_tools
from lorakit.training.data.shapes import BadRowError, Parts, calls_in, exchange

SLOT = re.compile(r"\{(\w+)(#\d+)?\}")
HELD_OUT = 5  # one of so many values is kept for the test
MAX_VALUES = 100_000  # of a slot
TRIES = 30  # draws in a row, for each example there is, without a new one: there are no more
Value = str | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The values of a slot: to train with, and to test with; the same where there are few."""

    train: tuple[Value, ...]
    test: tuple[Value, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A wording, and the calls or the reply that answer it."""

    place: str
    request: str
    calls: tuple[Mapping[str, Any], ...]
    reply: str
    held_out: bool


class Templates:
    """Wordings with slots, to draw examples from."""

    def __init__(
        self,
        templates: Sequence[Template],
        slots: Mapping[str, Slot],
        declarations: Declarations,
    ) -> None:
        self.templates = tuple(templates)
        self.slots = dict(slots)
        self._declarations = declarations

    def train(self, count: int, seed: int = 0) -> tuple[Example, ...]:
        """Different examples of the wordings to train on; fewer than `count` where there are no
        more."""
        rng = random.Random(seed)
        wordings = [t for t in self.templates if not t.held_out]
        return tuple(self._different(count, rng, [(t, False) for t in wordings]))

    def test(self, count: int, seed: int = 0) -> tuple[Example, ...]:
        """Half with wordings that are held out, half with values that training never draws."""
        rng = random.Random(seed + 1)
        unseen = [(t, False) for t in self.templates if t.held_out]
        valued = [(t, True) for t in self.templates if not t.held_out and self._has_unseen(t)]
        half = count // 2 if valued else count
        first = list(self._different(half if unseen else 0, rng, unseen))
        return (*first, *self._different(count - len(first), rng, valued))

    def _different(
        self, count: int, rng: random.Random, choices: Sequence[tuple[Template, bool]]
    ) -> Iterator[Example]:
        seen: set[str] = set()
        misses = 0
        while choices and len(seen) < count and misses < TRIES * (len(seen) + len(choices)):
            template, unseen = rng.choice(choices)
            request, example = self.draw(rng, template, unseen=unseen)
            misses += 1
            if request not in seen:
                seen.add(request)
                misses = 0
                yield example

    def draw(
        self, rng: random.Random, template: Template, *, unseen: bool = False
    ) -> tuple[str, Example]:
        """A request of a wording, and its example. Raises BadRowError for what does not fit."""
        values = self._values(rng, template, unseen)
        request = str(_filled(template.request, values))
        calls = [_filled_in(call, values) for call in template.calls]
        parts: Parts = exchange(request, calls, template.reply, None)
        return request, assemble(parts, template.place, self._declarations)

    def _values(self, rng: random.Random, template: Template, unseen: bool) -> dict[str, Value]:
        drawn: dict[str, Value] = {}
        for found in SLOT.finditer(template.request):
            slot = self.slots[found[1]]
            choices = slot.test if unseen else slot.train
            others = {value for name, value in drawn.items() if name.partition("#")[0] == found[1]}
            left = [v for v in choices if v not in others] if others else choices
            drawn.setdefault(found[0][1:-1], rng.choice(left or choices))
        return drawn

    def _has_unseen(self, template: Template) -> bool:
        slots = [self.slots[found[1]] for found in SLOT.finditer(template.request)]
        return any(slot.test != slot.train for slot in slots)


def read_templates(
    path: str | os.PathLike[str], *, tools: str | os.PathLike[str] | None = None
) -> Templates:
    """The templates of a file, each tried once. Raises SourceError and FormatError, which names
    everything that does not fit."""
    path = as_path(path)
    try:
        content = parse_json(read_text(path).encode())
    except ValueError as error:
        raise FormatError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("templates"), list):
        raise FormatError(f"{path} has no list of templates")
    faults = [f"{key}: unknown" for key in content.keys() - {"templates", "slots", "tools"}]
    slots = dict(_slots(content.get("slots", {}), faults))
    templates = [
        made
        for i, item in enumerate(content["templates"])
        if (made := _template(item, f"{path.name}[{i + 1}]", slots, faults)) is not None
    ]
    beside = path.with_name("tools.json")
    declared = content.get("tools")
    if tools is not None or (not declared and beside.is_file()):
        declared = read_tools(tools or beside)
    try:
        found = Templates(templates, slots, Declarations(declared))
        if not faults:
            faults += _tried(found)
    except BadRowError as error:
        faults.append(f"tools: {error.reason}")
    if faults:
        raise FormatError(f"{path} holds templates that cannot be used", items=faults)
    return found


def is_templates(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a JSON object of templates, by its name and its keys."""
    path = as_path(path)
    if path.suffix.lower() != ".json":
        return False
    try:
        content = parse_json(read_text(path).encode())
    except (ValueError, FormatError):
        return False
    return isinstance(content, dict) and "templates" in content


def _tried(templates: Templates) -> Iterator[str]:
    for template in templates.templates:
        try:
            templates.draw(random.Random(0), template)
        except BadRowError as error:
            yield f"{template.place}: {error.reason}"


def _slots(content: Any, faults: list[str]) -> Iterator[tuple[str, Slot]]:
    if not isinstance(content, dict):
        faults.append("slots: expected an object")
        return
    for name, given in content.items():
        values = _slot_values(given)
        if values is None:
            faults.append(f"slots.{name}: expected a list of values, or from and to")
        else:
            ordered = sorted(values, key=lambda value: zlib.crc32(str(value).encode()))
            test = set(ordered[: len(ordered) // HELD_OUT])
            train = tuple(value for value in values if value not in test)
            yield name, Slot(train=train, test=tuple(v for v in values if v in test) or train)


def _slot_values(given: Any) -> tuple[Value, ...] | None:
    if isinstance(given, dict) and given.keys() == {"from", "to"}:
        low, high = given["from"], given["to"]
        if isinstance(low, int) and isinstance(high, int) and low <= high < low + MAX_VALUES:
            return tuple(range(low, high + 1))
        return None
    if not isinstance(given, list) or not given or len(given) > MAX_VALUES:
        return None
    if not all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in given):
        return None
    return tuple(dict.fromkeys(given))


def _template(
    item: Any, place: str, slots: Mapping[str, Slot], faults: list[str]
) -> Template | None:
    known = {"request", "call", "calls", "reply", "held_out"}
    if not isinstance(item, dict) or not isinstance(item.get("request"), str):
        faults.append(f"{place}: expected an object with a request")
        return None
    faults += [f"{place}.{key}: unknown" for key in item.keys() - known]
    try:
        calls = calls_in(item.get("calls", item.get("call")), "call")
    except BadRowError as error:
        faults.append(f"{place}: {error.reason}")
        return None
    said = {found[0] for found in SLOT.finditer(item["request"])}
    for name in sorted({found[1] for found in SLOT.finditer(item["request"])} - slots.keys()):
        faults.append(f"{place}: there is no slot {name}")
    for name in sorted({found[0] for found in SLOT.finditer(str(calls))} - said):
        faults.append(f"{place}: the request does not say {name}, which its call has")
    return Template(
        place=place,
        request=item["request"],
        calls=tuple(calls),
        reply=str(item.get("reply") or ""),
        held_out=bool(item.get("held_out")),
    )


def _filled(text: str, values: Mapping[str, Value]) -> Value:
    """A text with its slots filled; a slot alone is the value itself."""
    if (alone := SLOT.fullmatch(text)) is not None:
        return values[alone[0][1:-1]]
    return SLOT.sub(lambda found: str(values[found[0][1:-1]]), text)


def _filled_in(value: Any, values: Mapping[str, Value]) -> Any:
    if isinstance(value, Mapping):
        return {key: _filled_in(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled_in(item, values) for item in value]
    return _filled(value, values) if isinstance(value, str) else value
