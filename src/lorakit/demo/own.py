"""Folders of the user's beside the demo: exports and adapters at the address of the page.

A page may fetch from its own server, and from others only where they allow it (CORS); so what it is
to open is served with it. Of a folder, what a page asks for is, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorakit.base.folder import read_json
from lorakit.errors import ParameterError
from lorakit.exporting.onnx import DTYPES
from lorakit.files.cache import digest_of

AT = "own"
ADAPTER, EXPORT = "adapter_config.json", "config.json"
WEIGHTS = ("adapter_model.safetensors", "adapters.safetensors")
RECORD = "lorakit.json"


@dataclass(frozen=True, slots=True)
class Own:
    """files: by their addresses. models, adapters: what the page is told of them."""

    files: dict[str, Path] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    adapters: list[dict[str, Any]] = field(default_factory=list)


def own(places: Sequence[Path], taken: Sequence[str] = ()) -> Own:
    """What is in folders, each an export, an adapter, or a folder of them. taken: names of adapters
    that the page has already. Raises ParameterError where one holds neither.
    """
    found, adapters, models = Own(), set(taken), set[str]()
    for place in places:
        parts = list(_parts(place))
        if not parts:
            raise ParameterError(
                f"{place} holds no export and no adapter that a page could open",
                hint=f"name a folder with onnx/ and {EXPORT} or with {ADAPTER}, or one of such",
            )
        for part in parts:
            if (part / ADAPTER).is_file():
                _add_adapter(found, part, _free(part.resolve().name, adapters))
            else:
                _add_export(found, part, _free(part.resolve().name, models))
    return found


def model_facts(place: Path) -> dict[str, Any]:
    """Which forms an export holds, by transformers.js's names of dtypes, and the bytes of the first
    one; of an export that lorakit did not write, the bytes of all.
    """
    if not (place / RECORD).is_file():
        return {"bytes": sum(path.stat().st_size for path in place.glob("onnx/*.onnx*"))}
    forms: Mapping[str, Any] = read_json(place / RECORD).get("forms", {})
    sizes = [form["bytes"] for form in forms.values()]
    return {
        "forms": [DTYPES[form] for form in DTYPES if form in forms],
        "bytes": sizes[0] if sizes else 0,
    }


def _parts(place: Path) -> Iterator[Path]:
    if not place.is_dir():
        return
    inside = [path for path in sorted(place.iterdir()) if path.is_dir()]
    yield from filter(_is_one, [place] if _is_one(place) else inside)


def _is_one(place: Path) -> bool:
    export = (place / EXPORT).is_file() and (place / "onnx").is_dir()
    return export or (place / ADAPTER).is_file()


def _free(name: str, taken: set[str]) -> str:
    """The name, or with a number what is not taken yet; it is taken then."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free)
    return free


def _add_export(found: Own, place: Path, name: str) -> None:
    at = f"{AT}/models/{name}"
    for path in (*place.glob("*.json"), *place.glob("onnx/*.onnx*")):
        found.files[f"{at}/{path.relative_to(place).as_posix()}"] = path
    about = {"id": f"own-{name}", "label": f"{name}, yours", "path": f"{at}/"}
    found.models.append({**about, **model_facts(place), "conversation": True})


def _add_adapter(found: Own, place: Path, name: str) -> None:
    at = f"{AT}/adapters/{name}"
    weights = [place / file for file in WEIGHTS if (place / file).is_file()]
    for path in (place / ADAPTER, *weights):
        found.files[f"{at}/{path.name}"] = path
    about = {"name": name, "about": "yours", "path": f"{at}/"}
    pinned = {"digest": digest_of(weights[0])} if len(weights) == 1 else {}
    found.adapters.append({**about, **pinned})
