"""The example app as a site: the page, lorakit.js and what it runs on, models and adapters.

A site is a table of addresses; it is served as it is (serving.py), or written as a folder that any
host of static files serves.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from lorakit import __version__, demo
from lorakit.demo.own import Own, model_facts, own
from lorakit.demo.serving import Content
from lorakit.demo.story import REQUESTS
from lorakit.errors import MissingExtraError, ParameterError, WriteError
from lorakit.exporting.export import export
from lorakit.files.atomic import new_folder
from lorakit.files.cache import digest_of
from lorakit.graph.web import WebForm

VENDORED = (
    "transformers.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm",
    "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm",
)  # fmt: skip
MERGED = "home"  # the adapter of the merged model
FORMS: tuple[WebForm, ...] = ("none", "q8")  # the first is what a page opens
ABOUT = {"home": "lights, locks, heating", "shop": "a cart and deliveries", "style": "a pirate"}
# Kept for the next visit without a network. The runtime for GPUs is kept when it is first used.
NOT_KEPT = (".asyncify.", ".d.ts", ".md", "LICENSE", "package.json")


def site(models: Path, serve: Sequence[Path] = ()) -> dict[str, Content]:
    """The files of the app by address. models: an empty folder, where the models are exported to.
    serve: the user's own exports and adapters, and folders of them.

    Raises MissingExtraError where what lorakit.js runs on is not installed, ParameterError for a
    folder to serve that holds nothing for a page.
    """
    yours = own(serve, demo.ADAPTERS)
    page = folder(demo.folder() / "browser")
    modules = {f"lib/{name}": path for name, path in folder(library()).items()}
    exported = {f"models/{name}": path for name, path in _export(models).items()}
    adapters = folder(demo.folder() / "adapters")
    about = _about(models, [*page, *modules], adapters, yours)
    return {
        **page,
        **modules,
        **exported,
        **{f"adapters/{name}": path for name, path in adapters.items()},
        **yours.files,
        "site.json": json.dumps(about, indent=1).encode(),
    }


def write(table: Mapping[str, Content], destination: Path) -> int:
    """Write a site as a new folder; returns its bytes.

    Raises ParameterError where the folder exists and is not empty, WriteError where it cannot be
    written; then nothing is left behind.
    """
    try:
        with new_folder(destination) as temporary:
            for name, content in table.items():
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    path.write_bytes(content)
                else:
                    shutil.copyfile(content, path)
    except FileExistsError as error:
        raise ParameterError(str(error), hint="name a new folder") from error
    except OSError as error:
        raise WriteError(f"cannot write {destination}: {error.strerror or error}") from error
    return sum(path.stat().st_size for path in destination.rglob("*") if path.is_file())


def library() -> Path:
    """The folder of lorakit.js, with what it runs on. Raises MissingExtraError without that."""
    place = Path(str(files("lorakit"))) / "web"
    missing = [name for name in VENDORED if not (place / "vendor" / name).is_file()]
    if missing:
        raise MissingExtraError(
            "transformers.js, which lorakit.js runs on, is not in this installation",
            items=[f"missing: {name}" for name in missing],
            hint="from a clone, `make demo-browser` fetches it once; wheels bring it",
        )
    return place


def _export(models: Path) -> dict[str, Path]:
    """The demo's base with inputs for adapters, and merged with one."""
    # Unproven: tests prove both, and a visitor would wait for it.
    make = partial(export, demo.base_path(), quantize=FORMS, prove_it=False)
    make(models / "demo", mode="dynamic")
    make(models / f"demo-{MERGED}", adapter=demo.adapter_path(MERGED))
    return folder(models)


def _about(
    models: Path, page: list[str], adapters: Mapping[str, Path], yours: Own
) -> dict[str, Any]:
    """What the page is told of the site."""
    return {
        "version": __version__,
        "models": [
            _model(models / "demo", "Demo base, takes adapters"),
            _model(models / f"demo-{MERGED}", f"Demo, merged with {MERGED}"),
            *yours.models,
        ],
        "adapters": [
            {
                "name": name,
                "about": ABOUT[name],
                "path": f"adapters/{name}/",
                "digest": digest_of(adapters[f"{name}/adapter_model.safetensors"]),
            }
            for name in demo.ADAPTERS
        ]
        + yours.adapters,
        "suggestions": list(REQUESTS),
        "files": [name for name in page if not any(part in name for part in NOT_KEPT)],
    }


def _model(place: Path, label: str) -> dict[str, Any]:
    return {
        "id": place.name,
        "label": label,
        "path": f"models/{place.name}/",
        **model_facts(place),
        "conversation": False,  # it was trained on single requests
    }


def folder(place: Path) -> dict[str, Path]:
    """Every file in a folder, by its path in it; not hidden ones."""
    found = {path.relative_to(place): path for path in sorted(place.rglob("*")) if path.is_file()}
    return {
        name.as_posix(): path
        for name, path in found.items()
        if not any(part.startswith((".", "__")) for part in name.parts)
    }
