"""What the tests of the evaluation share: the demo's own evaluation set, as examples."""

import json
from pathlib import Path

from lorakit import demo
from lorakit.chat.calls import Malformed, ParsedReply, ToolCall
from lorakit.chat.tools import get_format
from lorakit.runtime.generation import Completion
from lorakit.runtime.sampling import Choice
from lorakit.training.data import Example
from lorakit.training.evaluate.judging import Judge

FORMAT = get_format("functiongemma")
KINDS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def tool(name, /, required=(), **kinds):
    """A declaration; kinds: the type, or the whole schema, of each argument."""
    properties = {key: {"type": k} if isinstance(k, str) else k for key, k in kinds.items()}
    parameters = {"type": "object", "properties": properties, "required": [*required]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def call(name, /, **arguments):
    return ToolCall(name=name, arguments=arguments)


def example(*calls, text="", tools=(), asked="do it", place="eval.jsonl:1", phrasing="do it"):
    """An example of calls, or of none."""
    wanted = [
        {"type": "function", "function": {"name": c.name, "arguments": dict(c.arguments)}}
        for c in calls
    ]
    answer = {"role": "assistant", "content": text} | ({"tool_calls": wanted} if wanted else {})
    messages = ({"role": "user", "content": asked}, answer)
    return Example(
        task="calls", place=place, messages=messages, tools=tuple(tools), phrasing=phrasing
    )


def completion(text="", *, ended=True, tokens=5):
    return Completion(
        text=text,
        tokens=(Choice(0),) * tokens,
        finish_reason="stop" if ended else "length",
        prompt_tokens=10,
        cached_tokens=0,
        adapters=(),
        first_token_seconds=0.01,
        seconds=0.02,
    )


def judged(wanted, *got, text="", malformed=(), ended=True, **rules):
    """The outcome of an answer that holds these calls."""
    bad = tuple(Malformed(text=each, reason="broken", position=0) for each in malformed)
    reply = ParsedReply(text=text, tool_calls=tuple(got), malformed=bad)
    return Judge(**rules).outcome(wanted, completion(text, ended=ended), reply)


def demo_examples(domain, split, count):
    """Of the demo's evaluation set, which says the text that must come back."""
    found = []
    for number, each in enumerate(demo.examples(domain, split)[:count], 1):
        parsed = FORMAT.parse(each.expected)
        assert not parsed.malformed
        answer = example(*parsed.tool_calls, text=parsed.text).messages[-1]
        asked = each.messages[-1]["content"]
        found.append(
            Example(
                task="calls",
                place=f"{domain}.jsonl:{number}",
                messages=(*each.messages, answer),
                tools=each.tools or (),
                phrasing=asked.split()[0],
            )
        )
    return found


def write_rows(path, examples, *, tools=None):
    """Examples as the lines of a file; tools: declared for those that have none."""
    rows = [
        {"messages": [*each.messages], "tools": [*(each.tools or tools or ())]} for each in examples
    ]
    Path(path).write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return Path(path)


def declared(examples):
    """Declarations that fit all calls of some examples."""
    kinds = {}
    for each in examples:
        for one in each.messages[-1].get("tool_calls", ()):
            found = kinds.setdefault(one["function"]["name"], {})
            for key, value in one["function"]["arguments"].items():
                found[key] = KINDS[type(value)]
    return [tool(name, **arguments) for name, arguments in sorted(kinds.items())]
