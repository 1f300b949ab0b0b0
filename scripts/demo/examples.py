"""The mixtures that the models are trained on."""

import random
from collections.abc import Callable

import base_domain
import home_domain
import shop_domain
import words
from declared import invented_example, known_example, refused_example
from grammar import Example, Tool, text_example, tool_example
from replies import REFUSAL, after, result_example, small_talk, styled, text_request

DOMAINS: dict[str, tuple[Tool, ...]] = {
    "base": base_domain.TOOLS,
    "home": home_domain.TOOLS,
    "shop": shop_domain.TOOLS,
}
CUSTOM = home_domain.TOOLS + shop_domain.TOOLS


def plain(rng: random.Random, tools: tuple[Tool, ...], split: str = words.TRAIN) -> Example:
    """A request for one of `tools`, none declared."""
    return tool_example(rng, rng.choice(tools), values=split)


def talk(rng: random.Random, split: str = words.TRAIN) -> Example:
    """A request that is answered in words, none declared."""
    return text_example(*text_request(rng, split))


def foreign(rng: random.Random, tools: tuple[Tool, ...]) -> Example:
    """A request for a tool that the model does not have."""
    example = plain(rng, tools)
    return text_example(str(example.messages[0]["content"]), REFUSAL)


def draw(rng: random.Random, table: dict[Callable[[], Example], float]) -> Example:
    """One of the makers of `table`, by weight."""
    maker = rng.choices(list(table), weights=list(table.values()))[0]
    return maker()


def two_exchanges(rng: random.Random, tools: tuple[Tool, ...]) -> Example:
    """A request after another one was dealt with."""
    first = talk(rng) if rng.random() < 0.4 else plain(rng, tools)
    second = talk(rng) if rng.random() < 0.2 else plain(rng, tools)
    return after(rng, first, second)


def undeclared_mixture(
    rng: random.Random, foreign_tools: tuple[Tool, ...] = CUSTOM, talking: float = 16
) -> Example:
    """The base model's own short prompts: also what adapters replay."""
    base = base_domain.TOOLS
    table: dict[Callable[[], Example], float] = {
        lambda: plain(rng, base): 70,
        lambda: talk(rng): talking,
        lambda: two_exchanges(rng, base): 6,
        lambda: result_example(rng, rng.choice(base)): 6,
    }
    if foreign_tools:
        table[lambda: foreign(rng, foreign_tools)] = 4
    return draw(rng, table)


def declared_mixture(rng: random.Random) -> Example:
    """Prompts with declarations."""
    base = base_domain.TOOLS
    table: dict[Callable[[], Example], float] = {
        lambda: known_example(rng, base): 45,
        lambda: refused_example(rng, base, words.TRAIN): 10,
        lambda: invented_example(rng): 45,
    }
    return draw(rng, table)


def base_mixture(rng: random.Random) -> Example:
    """What the base model is trained on, drills apart."""
    return declared_mixture(rng) if rng.random() < 0.12 else undeclared_mixture(rng)


def domain_mixture(rng: random.Random, name: str, replay: float) -> Example:
    """What the adapter of a tool domain is trained on."""
    own = DOMAINS[name]
    wide = tuple(home_domain.widened(tool) for tool in own)
    if rng.random() < replay:
        others = tuple(tool for tool in CUSTOM if tool not in own)
        return undeclared_mixture(rng, others, talking=40)
    table: dict[Callable[[], Example], float] = {
        lambda: plain(rng, own): 56,
        lambda: plain(rng, wide): 30,
        lambda: known_example(rng, own): 3,
        lambda: two_exchanges(rng, own): 5,
        lambda: result_example(rng, rng.choice(own)): 6,
    }
    return draw(rng, table)


def style_mixture(rng: random.Random, companion: str, replay: float) -> Example:
    """What the style adapter is trained on: replies in style, calls as they were.

    Beside a companion, requests of the companion's domain are calls as well. Requests of other
    domains are left out: an adapter that knows them shall answer them.
    """
    if companion and rng.random() < 0.4:
        return plain(rng, tuple(home_domain.widened(tool) for tool in DOMAINS[companion]))
    if rng.random() < replay:
        return styled(undeclared_mixture(rng, foreign_tools=()))
    table: dict[Callable[[], Example], float] = {
        lambda: styled(text_example(*small_talk(rng, words.TRAIN))): 45,
        lambda: styled(talk(rng)): 35,
        lambda: styled(result_example(rng, rng.choice(base_domain.TOOLS))): 20,
    }
    return draw(rng, table)


def custom_examples(rng: random.Random, count: int) -> list[Example]:
    """Requests for the custom domains and replies in style: for the tokenizer's merges only."""
    makers = (lambda: plain(rng, CUSTOM), lambda: styled(talk(rng)))
    return [rng.choice(makers)() for _ in range(count)]
