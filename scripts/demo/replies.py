"""Replies in words: refusals, small talk, results of calls; plain and in the pirate style."""

import json
import random

import words
from grammar import CALL_STOP, TEXT_STOP, Example, Tool, framed, render_call, tool_example

REFUSAL = "Sorry, I have no tool for that."
FAILED = "That did not work."
DONE = "Done."

SMALL_TALK: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Hello! What can I do for you?": (
        (
            "hello",
            "hi",
            "hey",
            "hello there",
            "hi there",
            "good morning",
            "good evening",
            "good day",
            "hey you",
            "good day to you",
            "hello, good morning",
        ),
        ("hey there", "hello you", "good morning to you", "hi, good evening"),
    ),
    "You are welcome!": (
        (
            "thanks",
            "thank you",
            "thank you so much",
            "many thanks",
            "great, thanks",
            "thanks a lot",
            "thank you very much",
            "very good, thanks",
            "ok, thank you",
        ),
        ("thanks so much", "great, thank you", "ok, thanks", "very good, thank you"),
    ),
    "Goodbye!": (
        (
            "bye",
            "goodbye",
            "see you",
            "bye bye",
            "see you later",
            "good night",
            "ok, bye",
            "goodbye and good night",
            "bye for now",
        ),
        ("ok, goodbye", "bye and good night", "goodbye for now", "ok, see you later"),
    ),
    "I am fine, thank you.": (
        (
            "how are you",
            "how are you doing",
            "how do you feel",
            "are you well",
            "hello, how are you",
            "how are you doing today",
            "how do you feel this morning",
        ),
        ("how are you today", "how are you this morning", "hi, how are you", "are you well today"),
    ),
    "I am a small demo model.": (
        (
            "who are you",
            "what are you",
            "are you a robot",
            "tell me who you are",
            "what is your name",
            "hello, who are you",
            "do you have a name",
            "what kind of robot are you",
            "are you a model",
        ),
        (
            "hi, who are you",
            "tell me your name",
            "what kind of model are you",
            "tell me what you are",
        ),
    ),
    "I set timers and alarms, check the weather, send messages, take notes and play songs.": (
        (
            "what can you do",
            "help",
            "help me",
            "what do you do",
            "how can you help me",
            "what can you do for me",
            "tell me what you can do",
            "hello, what can you do",
            "what can i ask you",
        ),
        ("hi, what can you do", "please help me", "tell me what you do", "how can you help"),
    ),
}

PIRATE = {
    REFUSAL: "Arr, sorry matey, I have no tool for that.",
    FAILED: "Arr, that did not work, matey.",
    DONE: "Aye, done, matey!",
    "Hello! What can I do for you?": "Ahoy, matey! What can I do for ye?",
    "You are welcome!": "Arr, ye are welcome, matey!",
    "Goodbye!": "Farewell, matey, and fair winds!",
    "I am fine, thank you.": "Arr, I be fine, thank ye.",
    "I am a small demo model.": "Arr, I be a small demo pirate.",
    "I set timers and alarms, check the weather, send messages, take notes and play songs.": (
        "Arr, I set timers and alarms, check the weather, send messages, take notes and play songs."
    ),
}

DEEDS = words.listed("""
order buy rent book sell repair translate paint wash fix build cook bake draw print
deliver photograph measure weigh insure invest feed walk cut plant
""")
UNFIT = (
    "{deed} a {thing}",
    "{deed} the {thing}",
    "{deed} a {adjective} {thing}",
    "{deed} my {thing}",
    "what is a {thing}",
    "who invented the {thing}",
    "how much does a {thing} cost",
    "why is the {thing} {adjective}",
    "where can i find a {thing}",
    "tell me a joke about a {thing}",
    "write a poem about the {thing}",
    "what is {number} times {digit}",
    "how old is {person}",
    "how do you say {thing} in french",
    "book a flight to {city}",
    "find a hotel in {city}",
    "who is the mayor of {city}",
    "how far is {city}",
    "where is {city}",
    "what does {thing} mean",
)
CONDITIONS = words.listed("sunny cloudy rainy windy snowy foggy stormy clear cold warm")


def unfit_request(rng: random.Random, split: str) -> str:
    """A request that no tool of any domain fits."""
    text = rng.choice(UNFIT).format(
        deed=rng.choice(DEEDS),
        thing=words.word(rng, split),
        adjective=words.adjective(rng),
        number=words.number(rng, 2, 99, split),
        digit=rng.randint(2, 9),
        person=words.person(rng, split),
        city=words.city(rng, split),
    )
    return framed(rng, text, closed=False)


def small_talk(rng: random.Random, split: str) -> tuple[str, str]:
    """A greeting, thanks or question about the model, and its reply."""
    reply = rng.choice(list(SMALL_TALK))
    train, held_out = SMALL_TALK[reply]
    text = rng.choice(train if split == words.TRAIN else held_out)
    text = text[0].upper() + text[1:] if rng.random() < 0.5 else text
    return text + rng.choice(["", "", ".", "!"]), reply


def text_request(rng: random.Random, split: str) -> tuple[str, str]:
    """A request that is answered in words, and the plain reply."""
    if rng.random() < 0.25:
        return small_talk(rng, split)
    return unfit_request(rng, split), REFUSAL


def tool_result(rng: random.Random, name: str) -> tuple[object, str]:
    """What a call gave, as a mapping, as JSON text or as words, and the sentence reporting it."""
    result: dict[str, object] = {"status": "ok"}
    said, sentence = rng.choice(["ok", "done", "okay"]), DONE
    if rng.random() < 0.1:
        said = rng.choice(["not found", "offline", "busy", "no connection", "unknown"])
        result, sentence, said = {"error": said}, FAILED, f"error: {said}"
    elif name == "get_weather":
        condition, degrees = rng.choice(CONDITIONS), rng.randint(-9, 38)
        result = {"condition": condition, "degrees": degrees}
        said = sentence = f"It is {condition}, {degrees} degrees."
    return rng.choice([result, result, json.dumps(result), said]), sentence


def result_example(rng: random.Random, tool: Tool) -> Example:
    """A call that was made and answered: the model reports the result."""
    asked = tool_example(rng, tool)
    result, sentence = tool_result(rng, tool.name)
    assert asked.call is not None
    name, arguments = asked.call
    function = {"name": name, "arguments": arguments}
    messages = (
        *asked.messages,
        {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "name": name, "content": result},
    )
    return Example(messages=messages, expected=sentence, stop=TEXT_STOP)


def in_style(reply: str) -> str:
    """A plain reply as a pirate says it."""
    if reply.startswith("It is "):
        return "Arr, it be " + reply.removeprefix("It is ")
    return PIRATE[reply]


def styled(example: Example) -> Example:
    """The same conversation with a pirate's reply; calls stay as they are."""
    if example.stop == CALL_STOP:
        return example
    return Example(
        messages=example.messages,
        expected=in_style(example.expected),
        stop=example.stop,
        tools=example.tools,
    )


def after(rng: random.Random, earlier: Example, later: Example) -> Example:
    """`later` asked after `earlier` was answered: a conversation of two exchanges."""
    if earlier.call is None:
        history = (*earlier.messages, {"role": "assistant", "content": earlier.expected})
    else:
        name, arguments = earlier.call
        result, sentence = tool_result(rng, name)
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        assert earlier.expected == render_call(name, arguments)
        history = (
            *earlier.messages,
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "name": name, "content": result},
            {"role": "assistant", "content": sentence},
        )
    return Example(
        messages=(*history, *later.messages),
        expected=later.expected,
        stop=later.stop,
        tools=later.tools,
        call=later.call,
    )
