"""Saved conversations: what a Session writes, and reads again.

A saved conversation is a JSON object. All fields are checked, on writing and on reading, by the
rules for a model's input: what can be saved can be loaded.

    format "lorakit-session"    version 4    messages    tools or null
    adapters  {name: scale} or null          sampling  {parameter: value} or null
    rendering {option: value} of RenderOptions, or null
    sources   {name: reference} of the adapters, safe to show, or null
    sha256    of the other fields, as JSON with sorted keys and nothing between

Version 3 had no sources, version 2 no rendering either, version 1 neither sampling nor sha256. All
are read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any, cast

from lorakit.chat.messages import MAX_NODES, prepare_messages, prepare_tools
from lorakit.chat.rendering import DEFAULT, RenderOptions
from lorakit.errors import FormatError, ParameterError, SourceError, WriteError
from lorakit.files.atomic import write_atomic
from lorakit.files.bounded import parse_json, read_bounded
from lorakit.model.adapters import as_scales
from lorakit.model.types import RenderKeywords, Tools, keywords_of
from lorakit.runtime.params import SamplingOptions, SamplingParams, sampling_params
from lorakit.values import shown

FORMAT, VERSION = "lorakit-session", 4
FIELDS = {
    1: ("messages", "tools", "adapters"),
    2: ("messages", "tools", "adapters", "sampling", "sha256"),
    3: ("messages", "tools", "adapters", "sampling", "rendering", "sha256"),
    4: ("messages", "tools", "adapters", "sampling", "rendering", "sources", "sha256"),
}
MAX_FILE = 64 << 20  # bytes of a saved conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What is saved of a conversation. sources: where its adapters came from, where it is known."""

    messages: Sequence[Mapping[str, Any]]
    tools: Tools | None
    adapters: Mapping[str, float] | None
    sampling: SamplingParams | None
    rendering: RenderOptions
    sources: Mapping[str, str] = field(default_factory=dict)


def write_saved(path: str | os.PathLike[str], saved: Saved) -> None:
    """Write a conversation, whole or not at all. Raises ParameterError and WriteError."""
    try:
        text = _encoded(_content(saved))
        _check(json.loads(text))
    except FormatError as error:
        message = f"the conversation cannot be saved: {error.message}"
        raise ParameterError(message, items=error.items) from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ParameterError(f"the conversation cannot be saved as JSON: {error}") from error
    if len(text) > MAX_FILE:
        raise ParameterError(f"the conversation has more than {MAX_FILE} bytes")
    try:
        write_atomic(Path(path), text)
    except (OSError, ValueError) as error:  # a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise WriteError(f"cannot write {path}: {reason}") from error
    except TypeError as error:
        raise ParameterError(f"a path is expected, not {path!r:.80}") from error


def read_saved(path: str | os.PathLike[str]) -> Saved:
    """Read what `write_saved` wrote. Raises SourceError and FormatError."""
    content = _read(Path(path))
    try:
        found = _check(content)
    except FormatError as error:
        message = f"{path} is not a saved conversation: {error.message}"
        raise FormatError(message, items=error.items, hint=error.hint) from error
    return Saved(
        messages=content["messages"],
        tools=content["tools"],
        adapters=content["adapters"],
        sampling=found["sampling"],
        rendering=found["rendering"] or DEFAULT,
        sources=found["sources"] or {},
    )


def digest_of(content: Mapping[str, Any]) -> str:
    """What the field sha256 of a saved conversation says of the others."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _content(saved: Saved) -> dict[str, Any]:
    rendering = saved.rendering
    content = {
        "format": FORMAT,
        "version": VERSION,
        "messages": saved.messages,
        "tools": saved.tools,
        "adapters": saved.adapters,
        "sampling": None if saved.sampling is None else _plain(asdict(saved.sampling)),
        "rendering": None if rendering == DEFAULT else {**keywords_of(rendering)},
        "sources": dict(saved.sources) or None,
    }
    return {**content, "sha256": digest_of(content)}


def _read(path: Path) -> Any:
    """JSON of bounded size, which could be written again."""
    try:
        raw = read_bounded(path, MAX_FILE)
        if raw is None:
            raise FormatError(f"{path} is larger than {MAX_FILE} bytes")
        content = parse_json(raw, items=MAX_NODES)
        _encoded(content)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not valid JSON: {error}") from error
    return content


def _encoded(content: object) -> bytes:
    """JSON in UTF-8. Raises ValueError for lone surrogates, NaN and circular values, and
    TypeError."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1).encode()


def _check(content: Any) -> dict[str, Any]:
    """Raise FormatError with all faults; returns what became of each field."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FormatError(f'it has no "format": "{FORMAT}"')
    version = content.get("version")
    if type(version) is not int or version not in FIELDS:
        known = " or ".join(map(str, FIELDS))
        raise FormatError(f"it has version {version!r:.20}, not {known}")
    names = {"format", "version", *FIELDS[version]}
    faults = [f"{name!r:.80} is not known" for name in content if name not in names]
    faults += [f"{name} is missing" for name in sorted(names - content.keys())]
    if faults:
        raise FormatError("its fields are not those of a conversation", items=faults)
    if "sha256" in names and content["sha256"] != digest_of(content):
        raise FormatError(
            "it is damaged, or was changed by hand",
            hint="version 1 may be written by hand: it has no sha256, sampling or rendering",
        )
    found: dict[str, Any] = {}
    for name, check in _CHECKS.items():
        try:
            value = content.get(name)
            found[name] = None if value is None and name != "messages" else check(value)
        except ParameterError as error:
            faults += error.items or (f"{name}: {error.message}",)
    if faults:
        raise FormatError("its fields cannot be read", items=faults)
    return found


def _messages(value: object) -> None:
    if value != []:
        prepare_messages(value)  # type: ignore[arg-type]  # checked there


def _tools(value: object) -> None:
    if value != []:
        prepare_tools(_list(value))


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ParameterError(f"expected a list, found {type(value).__name__}")
    return value


def _adapters(value: object) -> None:
    if not isinstance(value, dict):
        raise ParameterError(f"expected names with scales, found {type(value).__name__}")
    as_scales(value)


def _sampling(value: object) -> SamplingParams:
    if not isinstance(value, dict):
        raise ParameterError(f"expected parameters, found {type(value).__name__}")
    return sampling_params(None, cast(SamplingOptions, value | _biases(value)))  # checked there


def _biases(saved: Mapping[str, Any]) -> dict[str, Any]:
    """logit_bias with token ids as numbers: keys of JSON are text."""
    biases = saved.get("logit_bias")
    if not isinstance(biases, dict):
        return {}
    return {
        "logit_bias": {
            int(token) if token.isdecimal() and len(token) < 19 else token: bias
            for token, bias in biases.items()
        }
    }


def _rendering(value: object) -> RenderOptions:
    known = RenderKeywords.__annotations__
    if not isinstance(value, dict) or not value.keys() <= known.keys():
        raise ParameterError(f"expected some of {', '.join(known)}, found {shown(value)}")
    return RenderOptions(**value)


def _sources(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise ParameterError(f"expected names with references, found {shown(value)}")
    return value


_CHECKS: dict[str, Callable[[object], Any]] = {
    "messages": _messages,
    "tools": _tools,
    "adapters": _adapters,
    "sampling": _sampling,
    "rendering": _rendering,
    "sources": _sources,
}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Converts numbers of other libraries to Python's, for JSON."""
    return {name: _number(value) for name, value in values.items()}


def _number(value: Any) -> Any:
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, dict):
        return _plain(value)
    if isinstance(value, tuple):
        return [_number(item) for item in value]
    return int(value) if isinstance(value, Integral) else float(value)
