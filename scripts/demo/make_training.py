"""Write what `lorakit demo --train` trains on: the car's tools, examples, and what to measure with.

`train.jsonl` has 900 requests, `eval.jsonl` 200 with held-out values in known phrasings and 150 in
held-out phrasings. `forty.jsonl` beside them was written by hand; this only checks it.
"""

import argparse
import json
import random
from collections.abc import Iterable
from pathlib import Path

import words
from car_domain import TOOLS
from examples import plain
from grammar import Example, tool_example
from make_evaluation import distinct

SEED = 41_003
TRAIN, VALUES, PHRASINGS = 900, 200, 150


def write(path: Path, examples: Iterable[Example]) -> None:
    """One {"request", "call"} a line."""
    lines = []
    for example in examples:
        assert example.call is not None
        name, arguments = example.call
        call = {"name": name, "arguments": arguments}
        record = {"request": example.messages[0]["content"], "call": call}
        lines.append(json.dumps(record, separators=(",", ":")))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def check_forty(path: Path) -> None:
    """Every tool eight times, by its name. Raises AssertionError."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    called = [row["call"]["name"] for row in rows]
    assert {name: called.count(name) for name in called} == {tool.name: 8 for tool in TOOLS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    rng = random.Random(SEED)
    opened = tuple(t for t in TOOLS if any(s.open for s in t.slots.values()))
    train = distinct(lambda: plain(rng, TOOLS), TRAIN)
    values = distinct(lambda: plain(rng, opened, words.HELD_OUT), VALUES)
    phrasings = distinct(
        lambda: tool_example(rng, rng.choice(TOOLS), phrasings=words.HELD_OUT), PHRASINGS
    )
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "train.jsonl", train)
    write(folder / "eval.jsonl", [*values, *phrasings])
    tools = json.dumps([tool.schema() for tool in TOOLS], indent=1)
    (folder / "tools.json").write_text(tools + "\n", encoding="utf-8")
    check_forty(folder / "forty.jsonl")


if __name__ == "__main__":
    main()
