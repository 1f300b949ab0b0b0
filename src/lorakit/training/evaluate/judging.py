"""From an answer to its outcome: calls are compared as calls, words by a scorer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lorakit.chat.calls import ParsedReply
from lorakit.chat.tools import validate_call
from lorakit.runtime.generation import Completion
from lorakit.training.data import Example
from lorakit.training.evaluate.matching import match_calls, schemas_of
from lorakit.training.evaluate.outcome import Outcome, expected_calls
from lorakit.training.evaluate.scorers import Scorer, text_match

Parse = Callable[[Example, Completion], ParsedReply]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """How answers are judged. scorer: in place of what fits the task; see match_calls."""

    scorer: Scorer | None = None
    ordered: bool = False

    def outcome(self, example: Example, completion: Completion, reply: ParsedReply) -> Outcome:
        """What came of an example. Raises ParameterError for a scorer that fails."""
        cut = completion.finish_reason == "length"
        calls = expected_calls(example)
        pairs = match_calls(
            calls, reply.tool_calls, schemas_of(example.tools), ordered=self.ordered
        )
        invalid = _faults(example, reply, cut and bool(calls or reply.tool_calls))
        if self.scorer is not None:
            score = self.scorer(example, reply)
        elif example.task == "calls":
            score = float(not invalid and all(pair.exact for pair in pairs))
        else:
            score = text_match(example, reply)
        return Outcome(
            example=example,
            text=completion.text,
            calls=reply.tool_calls,
            pairs=pairs if example.task == "calls" else (),
            invalid=invalid if example.task == "calls" else (),
            score=score,
            prompt_tokens=completion.prompt_tokens,
            tokens=len(completion.tokens),
            seconds=completion.seconds,
        )


def _faults(example: Example, reply: ParsedReply, endless: bool) -> tuple[str, ...]:
    """Why an answer cannot be carried out as it is."""
    faults = [f"no call: {malformed.reason}" for malformed in reply.malformed]
    if example.tools:
        for call in reply.tool_calls:
            faults += validate_call(call, example.tools)
    if endless:
        faults.append("it does not end within the tokens that were allowed")
    return tuple(faults)
