"""Make a base for bench/calls.py: FunctionGemma's shape and format, a vocabulary of its size.

    python bench/call_base.py DIR

The weights are random (bench/make_base.py). The tokenizer is trained here, on this project's own
texts and the benchmark's tools; it cuts text as GPT-2's does, and is filled up to 262,144 tokens
with made-up words, so that masks are as wide as a real model's. Control tokens and chat template
are the demo's.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from make_base import make_base
from tokenizers import Tokenizer, pre_tokenizers, trainers

from lorakit.demo import base_path
from lorakit.files.atomic import write_atomic

ROOT = Path(__file__).parents[1]
VOCABULARY = 262_144
TRAINED = 24_000
COPIED = ("chat_template.jinja", "tokenizer_config.json", "generation_config.json")
NAMES = (
    "set_light", "play_music", "get_weather", "send_message", "set_alarm", "set_timer",
    "add_event", "open_app", "call_contact", "take_note", "search_web", "get_directions",
    "set_volume", "set_brightness", "toggle_wifi", "toggle_bluetooth", "read_news", "translate",
    "book_table", "turn_on_flashlight",
)  # fmt: skip
ROOMS = ("kitchen", "bath", "office", "living room")


def tools(seed: int = 0) -> list[dict[str, Any]]:
    """Twenty tools of the same parameters, in an order of the seed's own."""
    names = list(NAMES)
    random.Random(seed).shuffle(names)
    return [
        {
            "type": "function",
            "function": {
                "name": f"{name}_{seed}" if seed else name,
                "description": name.replace("_", " "),
                "parameters": {
                    "type": "object",
                    "properties": {
                        "level": {"type": "integer"},
                        "on": {"type": "boolean"},
                        "room": {"type": "string", "enum": list(ROOMS)},
                        "title": {"type": "string"},
                    },
                    "required": ["level", "on", "room", "title"],
                },
            },
        }
        for name in names
    ]


def make_call_base(folder: Path) -> Path:
    """Write the base unless it is there already; returns its folder."""
    make_base(folder)
    if (folder / "tokenizer.json").is_file():
        return folder
    demo = Path(base_path())
    for name in COPIED:
        shutil.copyfile(demo / name, folder / name)
    config = json.loads((folder / "config.json").read_text())
    own = json.loads((demo / "config.json").read_text())
    config |= {key: own[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    write_atomic(folder / "tokenizer.json", json.dumps(_tokenizer(demo)).encode())
    return folder


def _tokenizer(demo: Path) -> dict[str, Any]:
    """The demo's, with merges of our own and a full vocabulary."""
    described = json.loads((demo / "tokenizer.json").read_text())
    special = [token for token in described["added_tokens"] if token["special"]]
    described["added_tokens"] = special
    described["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False,
                                  "trim_offsets": True, "use_regex": True}  # fmt: skip
    described["model"] |= {
        "vocab": {token["content"]: token["id"] for token in special},
        "merges": [],
    }
    trained = Tokenizer.from_str(json.dumps(described))
    trainer = trainers.BpeTrainer(
        vocab_size=TRAINED,
        special_tokens=[token["content"] for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(_texts(), trainer)
    state: dict[str, Any] = json.loads(trained.to_str())
    words: dict[str, int] = state["model"]["vocab"]
    drawn = random.Random(0)
    while len(words) < VOCABULARY:
        words.setdefault("".join(drawn.choices(string.ascii_lowercase, k=9)), len(words))
    return state


def _texts() -> Iterator[str]:
    for path in sorted((ROOT / "docs").rglob("*.md")):
        yield path.read_text("utf-8")
    for seed in range(9):
        yield from [json.dumps(tools(seed)), " ".join(NAMES), " ".join(ROOMS)] * 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    print(make_call_base(parser.parse_args().folder))


if __name__ == "__main__":
    main()
