"""What an exported folder holds beside the graphs: config, generation config, tokenizer files.

transformers.js reads the chat template from tokenizer_config.json alone, and from config.json the
shape of a KV cache.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.base.folder import Base
from lorakit.chat.dialogue import Dialogue
from lorakit.errors import BaseModelError
from lorakit.files.atomic import write_synced
from lorakit.files.bounded import parse_json, read_bounded
from lorakit.formats.brought import same_templates
from lorakit.merge import companions
from lorakit.merge.folder import MAX_COMPANION
from lorakit.text.tokenizer import Tokenizer

CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer_config.json"
REWRITTEN = (GENERATION, TOKENIZER, "chat_template.jinja", "chat_template.json")
NAMED = "additional_chat_templates"  # transformers' folder of all but the usual one
LOADER = "PreTrainedTokenizerFast"  # what reads tokenizer.json as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Companions:
    """Files of a base that go along. templates: by name. stops: tokens that end an answer.
    replaced: whether the template is not the base's own."""

    files: tuple[tuple[str, bytes], ...]
    templates: Mapping[str, str]
    special: Mapping[str, str]
    stops: tuple[int, ...]
    tool_format: str | None
    replaced: bool = False

    @classmethod
    def of(
        cls, base: Base, tokenizer: Tokenizer, template: str | None = None, *, mute: bool = False
    ) -> Companions:
        """tokenizer: the base's. template: instead of the base's own. mute: there may be none.

        Raises BaseModelError (tokenizer_missing, template_missing) and FormatError.
        """
        dialogue = Dialogue(base.path, tokenizer)
        own = _templates(dialogue, mute=mute or template is not None)
        replaced = template is not None and not same_templates({"": template}, own)
        if template is not None and replaced:
            own = {"default": template}
            dialogue = Dialogue(base.path, tokenizer, own)
            dialogue.template  # noqa: B018  # a broken one is found here
        written = dialogue.tool_format
        return cls(
            files=tuple(companions(base)),
            templates=own,
            special=tokenizer.special_tokens,
            stops=tuple(sorted(dialogue.stop_tokens)),
            tool_format=written.name if written else None,
            replaced=replaced,
        )

    def write(self, folder: Path) -> None:
        """All but config.json. Raises OSError."""
        held = dict(self.files)
        for name, content in held.items():
            if name not in REWRITTEN:
                write_synced(folder / name, content)
        generation = _object(held.get(GENERATION))
        if self.stops:
            generation["eos_token_id"] = list(self.stops)
        _write(folder / GENERATION, generation)
        _write(folder / TOKENIZER, self._tokenizer(_object(held.get(TOKENIZER))))

    def replace_template(self, folder: Path) -> None:
        """Put templates into a folder that has the base's files: one that is not the base's, and
        named ones that lie in a folder of the base. Raises OSError.
        """
        if not self.replaced:
            _write_named(folder, self.templates)
            return
        path = folder / TOKENIZER
        config = _object(read_bounded(path, MAX_COMPANION) if path.exists() else None)
        config.pop("chat_template", None)
        for name in (TOKENIZER, "chat_template.json", "chat_template.jinja"):
            (folder / name).unlink(missing_ok=True)
        _write(path, config)
        write_synced(folder / "chat_template.jinja", self.templates["default"].encode())

    def _tokenizer(self, config: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {"tokenizer_class": LOADER, **self.special, **config}
        if list(self.templates) == ["default"]:
            found["chat_template"] = self.templates["default"]
        else:
            named = self.templates.items()
            found["chat_template"] = [{"name": n, "template": text} for n, text in named]
        return found


def _write_named(folder: Path, templates: Mapping[str, str]) -> None:
    """Those that a base keeps in a folder, which does not come along by itself."""
    path = folder / TOKENIZER
    config = _object(read_bounded(path, MAX_COMPANION) if path.exists() else None)
    if isinstance(config.get("chat_template"), list):  # all are there
        return
    for name, text in templates.items():
        if name != "default":
            (folder / NAMED).mkdir(exist_ok=True)
            write_synced(folder / NAMED / f"{name}.jinja", text.encode())


def _templates(dialogue: Dialogue, *, mute: bool) -> Mapping[str, str]:
    try:
        return dialogue.template.sources
    except BaseModelError:
        if not mute:
            raise
        return {}


def write_config(
    folder: Path,
    config: Mapping[str, Any],
    *,
    context: int,
    files: Sequence[str],
    dtype: str,
    about: Mapping[str, Any],
) -> None:
    """config.json: the base's, with what transformers.js and our page want to know.

    context: positions of the export. files: graphs with a file of weights each. dtype: what
    transformers.js takes where nobody says. Raises OSError.
    """
    page = {
        "dtype": dtype,
        "use_external_data_format": dict.fromkeys(files, 1),
        "lorakit": dict(about),
    }
    own = {**config, "max_position_embeddings": context, "transformers.js_config": page}
    _write(folder / CONFIG, own)


def _object(content: bytes | None) -> dict[str, Any]:
    """A JSON object that reading the tokenizer has found whole."""
    found = parse_json(content) if content is not None else {}
    return dict(found)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    write_synced(path, json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")
