"""Evaluations as a run would measure them, made up."""

from lorakit.chat.calls import ToolCall
from lorakit.training.data import Example
from lorakit.training.evaluate import Evaluation, Outcome
from lorakit.training.evaluate.matching import match_calls

TOOLS = tuple(
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("set_lights", "dim_lights", "open_door")
)


def call(name, **arguments):
    return ToolCall(name=name, arguments=arguments)


def answered(wanted, *got, phrasing="", invalid=()):
    """A request for one call (None: for none), and the calls that came."""
    calls = [wanted] if wanted else []
    message = {"role": "assistant", "content": "no" if not calls else ""}
    if calls:
        message["tool_calls"] = [
            {"function": {"name": each.name, "arguments": each.arguments}} for each in calls
        ]
    example = Example(
        task="calls",
        place="eval.jsonl:1",
        messages=({"role": "user", "content": "do it"}, message),
        tools=TOOLS,
        phrasing=phrasing,
    )
    pairs = match_calls(calls, got, {})
    right = all(pair.exact for pair in pairs) and not invalid
    return Outcome(
        example=example, calls=got, pairs=pairs, invalid=invalid, score=float(right), tokens=9
    )


def exact(count, of, **more):
    """An evaluation in which so many of so many are right, and the others' room is wrong."""
    wanted = call("set_lights", room="hall")
    wrong = call("set_lights", room="attic")
    return Evaluation(
        outcomes=tuple(answered(wanted, wanted if n < count else wrong) for n in range(of)), **more
    )


def texts(loss, count=4):
    """Texts whose tokens have a mean loss."""
    example = Example(task="text", place="eval.jsonl:1", text="once upon a time")
    return Evaluation(
        outcomes=tuple(Outcome(example=example, loss=loss * 5, learnt=5) for _ in range(count))
    )


def words(right, of):
    """Short answers in words."""
    example = Example(
        task="chat",
        place="eval.jsonl:1",
        messages=({"role": "user", "content": "hi"}, {"role": "assistant", "content": "ahoy"}),
    )
    return Evaluation(
        outcomes=tuple(Outcome(example=example, score=float(n < right)) for n in range(of))
    )
