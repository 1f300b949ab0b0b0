"""Write the committed evaluation set, one JSON object a line.

Every line is held out by construction: the values split draws values whose checksum training
never uses, the phrasings split wordings that stand in no training list, the no_tool split things
and people that training never names.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import words
from declared import known_example
from examples import DOMAINS, plain, talk
from grammar import Example, Tool, tool_example
from replies import styled

SEED = 20_011
COUNT = 100
COUNT_DECLARED = {"base": 100, "home": 40, "shop": 40}


def phrased(rng: random.Random, domain: str) -> Example:
    """A held-out wording with values as in training."""
    return tool_example(rng, rng.choice(DOMAINS[domain]), phrasings=words.HELD_OUT)


def valued(rng: random.Random, domain: str) -> Example:
    """A known wording with held-out values; tools without open values are left out."""
    tools = tuple(t for t in DOMAINS[domain] if any(s.open for s in t.slots.values()))
    return plain(rng, tools, words.HELD_OUT)


def declared(rng: random.Random, tools: tuple[Tool, ...]) -> Example:
    """A request with held-out values, the tool and some of its family declared."""
    return known_example(rng, tools, words.HELD_OUT)


def distinct(make: Callable[[], Example], count: int) -> list[Example]:
    """`count` examples that differ in what the user says."""
    found: dict[str, Example] = {}
    while len(found) < count:
        example = make()
        found.setdefault(str(example.messages[0]["content"]), example)
    return list(found.values())


def rows(rng: random.Random) -> Iterator[tuple[str, str, Example]]:
    """Domain, split and example, in the order of the file."""
    for domain, tools in DOMAINS.items():
        for example in distinct(lambda domain=domain: valued(rng, domain), COUNT):
            yield domain, "values", example
        for example in distinct(lambda domain=domain: phrased(rng, domain), COUNT):
            yield domain, "phrasings", example
        count = COUNT_DECLARED[domain]
        for example in distinct(lambda tools=tools: declared(rng, tools), count):
            yield domain, "declared", example
    for example in distinct(lambda: talk(rng, words.HELD_OUT), COUNT):
        yield "base", "no_tool", example
    for example in distinct(lambda: styled(talk(rng, words.HELD_OUT)), COUNT):
        yield "style", "no_tool", example


def line(identifier: str, domain: str, split: str, example: Example) -> str:
    """One line of the file."""
    record = {
        "id": identifier,
        "domain": domain,
        "split": split,
        "messages": list(example.messages),
        "tools": list(example.tools) or None,
        "expected": example.expected,
    }
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    rng = random.Random(SEED)
    counters: dict[tuple[str, str], int] = {}
    lines = []
    for domain, split, example in rows(rng):
        index = counters[domain, split] = counters.get((domain, split), 0) + 1
        lines.append(line(f"{domain}-{split}-{index:03d}", domain, split, example))
    arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
