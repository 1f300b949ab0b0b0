"""What two sides are compared on: what the user names, else prompts made here.

A few texts through the model's own tokenizer; seeded ids from the whole vocabulary, since texts
touch few of its rows; and what switches parts of an adapter on: invocation tokens, replaced rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter
from lorakit.errors import FormatError, ParameterError
from lorakit.files.bounded import parse_json, read_text
from lorakit.files.npz import read_npz
from lorakit.model.load import unused_name

if TYPE_CHECKING:
    from lorakit.model.model import Model
    from lorakit.text.tokenizer import TextTokenizer

TEXTS = (
    "The quick brown fox jumps over the lazy dog, and then it sleeps until noon.",
    "def area(width: float, height: float) -> float:\n    return width * height\n",
    "Wie spät ist es in Tokio? 3.14 * 2 = 6.28; naïve café, 東京 🙂",
)
SAMPLES = {  # not a line of them is in the text that int8 and int4 are calibrated on
    "English": "The museum reopened in April after two years of repairs. Visitors now enter "
    "through the old stables, where a model of the town shows how the river changed its course in "
    "1743. Upstairs, the paintings hang in the order in which the family bought them, so that a "
    "small portrait of a dog stands beside the largest landscape of the collection. Nobody knows "
    "who painted it, although the frame carries a date and the name of a shop in Antwerp. On "
    "Fridays the curator leads a tour that ends on the roof, from which one can see the coast.",
    "code": "class Stack:\n    def __init__(self):\n        self._items = []\n\n"
    "    def push(self, item):\n        self._items.append(item)\n\n"
    "    def pop(self):\n        if not self._items:\n"
    '            raise IndexError("pop from an empty stack")\n'
    "        return self._items.pop()\n\n    def __len__(self):\n"
    "        return len(self._items)\n\n\nstack = Stack()\nfor number in range(10):\n"
    "    stack.push(number ** 2)\nprint(len(stack), stack.pop())\n",
    "German": "Im Herbst beginnt die Ernte auf den Hügeln hinter dem Dorf. Die Familien helfen "
    "einander, und am Abend sitzen alle an langen Tischen im Hof. Früher brachte man die Trauben "
    "mit Ochsen ins Tal, heute fährt ein Traktor. Der Wein bleibt den Winter über im Keller, "
    "bevor er im März in Flaschen gefüllt und an Händler in der Stadt verkauft wird.",
    "questions": "Q: How do I keep basil alive indoors?\nA: Give it at least six hours of light, "
    "water it when the top of the soil is dry, and pinch off the flowers.\n\nQ: Which is heavier, "
    "a litre of oil or a litre of water?\nA: Water. Oil floats on it because it is less dense."
    '\n\nQ: Turn "3 apples, 2 pears" into JSON.\nA: {"fruit": [{"name": "apple", "count": 3}, '
    '{"name": "pear", "count": 2}]}\n',
}
SEED = 20240607
LENGTH = 32  # tokens of a made-up prompt
SAMPLE = 128  # and of a sample
_SWITCHES = 8  # replaced rows that are tried
_NUMBERED = re.compile(r"ids[0-9]{1,9}")
Ids = dict[str, npt.NDArray[np.int64]]


def prompts_for(
    tokenizer: TextTokenizer | None, vocabulary: int, adapters: Sequence[Adapter] = ()
) -> dict[str, list[int]]:
    """The built-in prompts by name, at most LENGTH tokens each and the same on every machine.

    tokenizer: None leaves out the texts. adapters: those whose special tokens should occur.
    """
    texts = [] if tokenizer is None else [tokenizer.encode(t, special=True) for t in TEXTS]
    found = {f"text {n}": ids[:LENGTH] for n, ids in enumerate(texts, 1) if ids}
    draw = np.random.default_rng(SEED)
    found["random ids"] = draw.integers(0, vocabulary, LENGTH).tolist()
    for number, adapter in enumerate(adapters, 1):
        switches = [*adapter.invocation_tokens, *_rows(adapter)]
        inside = [token for token in switches if 0 <= token < vocabulary]
        if inside:
            around = draw.integers(0, vocabulary, 2 * _SWITCHES).tolist()
            found[f"adapter {number}"] = [
                *around[:_SWITCHES], *inside, *around[_SWITCHES:],
            ]  # fmt: skip
    return found


def samples_for(tokenizer: TextTokenizer, context: int) -> dict[str, list[int]]:
    """Longer texts by name, to measure what a form of the weights costs: SAMPLE tokens at most,
    and no more than half a context.
    """
    length = max(1, min(SAMPLE, context // 2))
    texts = {name: tokenizer.encode(text, special=True) for name, text in SAMPLES.items()}
    return {name: ids[:length] for name, ids in texts.items() if ids}


def _rows(adapter: Adapter) -> list[int]:
    """Ids of some embedding rows that the adapter replaces."""
    rows = [r.rows for r in adapter.replacements if r.rows is not None]
    return sorted({int(row) for ids in rows for row in ids[:_SWITCHES]})[:_SWITCHES]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptChoice:
    """The prompts that a user names: texts, a file of them, token ids; else the built-in ones.

    file: a text per line, or JSON lines with "prompt" or "ids". ids: "1,2,3", or an .npz file with
    arrays ids0, ids1, ...
    """

    texts: Sequence[str] = ()
    file: Path | None = None
    ids: str | None = None

    def read(self, model: Model) -> dict[str, list[int]]:
        """All of them by a name to show; empty where there are none."""
        pairs = [(_short(text), model.encode(text)) for text in self.texts]
        if self.file is not None:
            pairs += read_prompts(model, self.file).items()
        pairs += self.token_ids().items()
        found: dict[str, list[int]] = {}
        for name, sequence in pairs:  # two texts may begin alike
            found[unused_name(name, found)] = sequence
        return found

    def token_ids(self) -> dict[str, list[int]]:
        """Those of `ids`."""
        found = {} if self.ids is None else read_ids(self.ids)
        return {name: sequence.tolist() for name, sequence in found.items()}


def read_prompts(model: Model, path: Path) -> dict[str, list[int]]:
    """Prompts from a file: a text per line, or JSON lines with "prompt", "text" or "ids"."""
    lines = read_text(path).splitlines()
    named = {f"line {n}": line for n, line in enumerate(lines, 1) if line.strip()}
    if not named:
        raise FormatError(f"{path} holds no prompts")
    if path.suffix.lower() not in (".jsonl", ".json"):
        return {name: model.encode(line) for name, line in named.items()}
    return {name: model.encode(_json_prompt(path, name, line)) for name, line in named.items()}


def _json_prompt(path: Path, name: str, line: str) -> str | list[int]:
    try:
        row = parse_json(line.encode())
    except ValueError as error:
        raise FormatError(f"{path}, {name} is not valid JSON: {error}") from error
    if isinstance(row, Mapping):
        row = next((row[key] for key in ("prompt", "text", "ids") if key in row), None)
    if isinstance(row, str) or (
        isinstance(row, list) and row and all(type(token) is int for token in row)
    ):
        return row
    raise FormatError(f'{path}, {name} holds neither "prompt" (a text) nor "ids" (numbers)')


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 20 else f"{line[:17]}..."


def read_ids(source: str) -> Ids:
    """Token sequences from "1,2,3" or from the arrays ids0, ids1, ... of an .npz file."""
    if not source.endswith(".npz"):
        try:
            return {"ids0": np.array([int(part) for part in source.split(",")], np.int64)}
        except (ValueError, OverflowError) as error:
            raise ParameterError(
                f"ids are numbers (1,2,3) or an .npz file, not {source!r}"
            ) from error
    found = read_npz(Path(source))
    names = [name for name in found if _NUMBERED.fullmatch(name)]
    arrays = {name: found[name] for name in sorted(names, key=lambda name: int(name[3:]))}
    if not arrays:
        raise FormatError(f"{source} holds no arrays ids0, ids1, ...")
    for name, array in arrays.items():
        if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
            raise FormatError(
                f"{source}: {name} must be a sequence of integers, "
                f"found {array.dtype} {list(array.shape)}"
            )
    return {name: array.astype(np.int64) for name, array in arrays.items()}
