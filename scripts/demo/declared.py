"""Requests whose tools stand in the prompt: known tools, and invented ones.

Invented tools are a verb and a noun with one or two parameters. Their names are split by checksum
like any value, so that tools never declared in training can be measured.
"""

import random
from collections.abc import Mapping, Sequence

import words
from grammar import CALL_STOP, Example, Tool, framed, render_call, text_example, tool_example
from replies import REFUSAL, unfit_request

VERBS = words.listed("""
open close move count find check start stop lift turn send mix sort pack scan ring
launch park heat cool fill drain load wash feed call mark rate share lend
""")
PARAMETERS = {
    "color": ("string", "Colour"),
    "name": ("string", "Name"),
    "place": ("string", "Where"),
    "label": ("string", "Label"),
    "kind": ("string", "Kind"),
    "count": ("integer", "How many"),
    "size": ("integer", "Size"),
    "speed": ("integer", "Speed"),
    "weight": ("integer", "Weight"),
}
WORDINGS = (
    "{verb} the {noun} with {values}",
    "{verb} a {noun} with {values}",
    "{verb} my {noun}, {values}",
    "{verb} {noun}: {values}",
    "with {values} {verb} the {noun}",
    "i need you to {verb} the {noun} with {values}",
)


def schemas(
    rng: random.Random, wanted: Tool, family: Sequence[Tool], most: int
) -> tuple[Mapping[str, object], ...]:
    """`wanted` and up to `most` - 1 others of its family, shuffled."""
    others = [tool for tool in family if tool is not wanted]
    chosen = [wanted, *rng.sample(others, rng.randint(0, min(most - 1, len(others))))]
    rng.shuffle(chosen)
    return tuple(tool.schema() for tool in chosen)


def known_example(
    rng: random.Random, family: Sequence[Tool], values: str = words.TRAIN, most: int = 6
) -> Example:
    """A request for one of `family`, with it and some of the others declared."""
    wanted = rng.choice(list(family))
    return tool_example(rng, wanted, values=values, tools=schemas(rng, wanted, family, most))


def refused_example(rng: random.Random, family: Sequence[Tool], split: str) -> Example:
    """A request that none of the declared tools fits."""
    declared = schemas(rng, rng.choice(list(family)), family, len(family))
    return text_example(unfit_request(rng, split), REFUSAL, declared)


def invented_name(rng: random.Random, split: str) -> str:
    return words.draw(lambda: f"{rng.choice(VERBS)}_{rng.choice(words.NOUNS)}", split)


def invented_tool(rng: random.Random, name: str) -> Mapping[str, object]:
    """An OpenAI schema for an invented name."""
    chosen = rng.sample(sorted(PARAMETERS), rng.choice([1, 1, 2]))
    verb, noun = name.split("_")
    properties = {p: {"type": PARAMETERS[p][0], "description": PARAMETERS[p][1]} for p in chosen}
    function = {
        "name": name,
        "description": f"{verb.title()} the {noun}.",
        "parameters": {"type": "object", "properties": properties, "required": chosen},
    }
    return {"type": "function", "function": function}


def invented_example(rng: random.Random, split: str = words.TRAIN) -> Example:
    """A request for an invented tool among up to two others."""
    names = {invented_name(rng, split) for _ in range(rng.choice([1, 2, 3]))}
    tools = [invented_tool(rng, name) for name in sorted(names)]
    rng.shuffle(tools)
    function = rng.choice(tools)["function"]
    assert isinstance(function, Mapping)
    verb, noun = function["name"].split("_")
    arguments: dict[str, object] = {}
    phrases = []
    for parameter in function["parameters"]["properties"]:
        integer = PARAMETERS[parameter][0] == "integer"
        value = words.number(rng, 2, 99, words.TRAIN) if integer else words.word(rng, words.TRAIN)
        arguments[parameter] = int(value) if integer else value
        phrases.append(f"{parameter} {value}")
    rng.shuffle(phrases)
    request = rng.choice(WORDINGS).format(
        verb=verb,
        noun=noun,
        values=rng.choice([" and ", ", "]).join(phrases),
    )
    return Example(
        messages=({"role": "user", "content": framed(rng, request, closed=False)},),
        expected=render_call(function["name"], arguments),
        stop=CALL_STOP,
        tools=tuple(tools),
    )
