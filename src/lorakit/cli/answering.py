"""What run and chat share: how the model is asked, and how its tokens are chosen.

An option that is not given leaves the choice to the model's own defaults.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from lorakit.chat.rendering import ControlTokens
from lorakit.cli.signature import Parameter, option
from lorakit.errors import ParameterError
from lorakit.files.bounded import parse_json, read_text
from lorakit.model.defaults import in_words
from lorakit.model.model import Model
from lorakit.model.types import ChatKeywords, RenderKeywords
from lorakit.runtime.params import SamplingOptions, SamplingParams
from lorakit.values import shown

DEFAULTS = SamplingParams()
ONE_WORD = "the first word is the base; with --settings FILE, which names it, the prompt"
ASKING, CHOOSING = "how the model is asked", "how tokens are chosen"


def _asking(*names: str, metavar: str | None = None, help: str) -> Parameter:
    return option(*names, metavar=metavar, help=help, group=ASKING)


def _choosing(default: object = None, *, metavar: str | None = None, help: str = "") -> Parameter:
    said = "" if default is None else f"[default: the model's own, else {default}]"
    return option(metavar=metavar, help=f"{help} {said}".strip(), group=CHOOSING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """The options; None where one is not given."""

    system: Annotated[str | None, _asking(metavar="TEXT", help="What the system message says.")] = (
        None
    )
    thinking: Annotated[
        bool | None,
        _asking("--thinking/--no-thinking", help="Whether the model reasons before it answers."),
    ] = None
    chat_template_kwargs: Annotated[
        str | None, _asking(metavar="JSON", help="Variables of the chat template.")
    ] = None
    control_tokens: Annotated[
        ControlTokens | None,
        _asking(
            help="What <|im_end|> and the like are where a message spells them [default: text in "
            "the results of tools, else the template's own]."
        ),
    ] = None
    tool_choice: Annotated[
        str | None,
        _asking(
            metavar="CHOICE",
            help="What tools are for: auto, required, none, free, or a function's name "
            "[default: auto].",
        ),
    ] = None
    repair: Annotated[
        bool,
        _asking("--repair", help="Mend calls that cannot be read, where their meaning is clear."),
    ] = False
    max_tokens: Annotated[
        int | None, _choosing(DEFAULTS.max_tokens, help="Ends the answer after so many tokens.")
    ] = None
    min_tokens: Annotated[
        int | None, _choosing(DEFAULTS.min_tokens, help="Keeps it from ending earlier.")
    ] = None
    temperature: Annotated[
        float | None, _choosing(DEFAULTS.temperature, help="0 takes the likeliest.")
    ] = None
    top_k: Annotated[
        int | None, _choosing(DEFAULTS.top_k, help="Draws from the likeliest so many; 0 from all.")
    ] = None
    top_p: Annotated[
        float | None,
        _choosing(DEFAULTS.top_p, help="Draws from the likeliest that hold this share of all."),
    ] = None
    min_p: Annotated[
        float | None,
        _choosing(
            DEFAULTS.min_p, help="Leaves out what has less than this share of the likeliest."
        ),
    ] = None
    typical_p: Annotated[
        float | None,
        _choosing(
            DEFAULTS.typical_p, help="Draws from the most typical that hold this share of all."
        ),
    ] = None
    mirostat: Annotated[
        float | None,
        _choosing(metavar="TAU", help="Mirostat 2 in their place: bits of surprise per token."),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        _choosing(
            DEFAULTS.repetition_penalty,
            help="Above 1: tokens of the prompt and the answer become less likely.",
        ),
    ] = None
    presence_penalty: Annotated[
        float | None,
        _choosing(
            DEFAULTS.presence_penalty, help="Taken from the logits of tokens that the answer has."
        ),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        _choosing(DEFAULTS.frequency_penalty, help="The same for each time that it has them."),
    ] = None
    logit_bias: Annotated[
        list[str] | None,
        _choosing(
            metavar="ID=BIAS",
            help="Added to the logit of a token, by its id; -100 rules it out; may be repeated.",
        ),
    ] = None
    seed: Annotated[
        int | None, _choosing(help="The same answer each time, where tokens are drawn.")
    ] = None
    stop: Annotated[
        list[str] | None, _choosing(metavar="TEXT", help="Ends the answer; may be repeated.")
    ] = None
    grammar: Annotated[
        Path | None,
        _choosing(metavar="FILE", help="A grammar that the answer follows, GBNF or Lark."),
    ] = None
    regex: Annotated[
        str | None,
        _choosing(metavar="PATTERN", help="A regular expression that the answer fits as a whole."),
    ] = None
    choice: Annotated[
        list[str] | None,
        _choosing(metavar="TEXT", help="The answer is one of these texts; may be repeated."),
    ] = None
    json_schema: Annotated[
        Path | None,
        _choosing(metavar="FILE", help="A JSON schema: the answer is JSON that fits it."),
    ] = None

    lookup: Annotated[
        bool | None,
        option(
            "--lookup/--no-lookup",
            group=CHOOSING,
            help="Whether what followed the same tokens before is tried at once: the same answer, "
            "sooner where it copies [default: where something restricts it].",
        ),
    ] = None

    @property
    def rendering(self) -> RenderKeywords:
        """What makes the prompt, as keywords. Raises ParameterError."""
        given: dict[str, Any] = {
            "chat_template_kwargs": _variables(self.chat_template_kwargs),
            "enable_thinking": self.thinking,
            "control_tokens": self.control_tokens,
            "tool_choice": self.tool_choice,
        }
        return cast(RenderKeywords, {name: v for name, v in given.items() if v is not None})

    @property
    def sampling(self) -> SamplingOptions:
        """What chooses tokens, as keywords."""
        given: dict[str, Any] = {
            name: getattr(self, name) for name in SamplingOptions.__annotations__ if name in OWN
        }
        given |= {
            "mirostat_tau": self.mirostat,
            "logit_bias": None if self.logit_bias is None else _biases(self.logit_bias),
            "choices": self.choice,
            "grammar": None if self.grammar is None else read_text(self.grammar),
            "response_format": None if self.json_schema is None else _format(self.json_schema),
        }
        return cast(SamplingOptions, {name: v for name, v in given.items() if v is not None})

    @property
    def keywords(self) -> ChatKeywords:
        """All but the system message."""
        said = {"repair": True} if self.repair else {}
        return cast(ChatKeywords, {**self.rendering, **self.sampling, **said})

    def own(self, model: Model) -> str:
        """What the model's own files choose, where no option does, in words; or ""."""
        said = in_words(model.defaults, self.sampling)
        return f"the model's own sampling: {said}" if said else ""

    def require_raw(self) -> None:
        """Raise ParameterError for what a prompt without a template would ignore."""
        given = ["--system"] * (self.system is not None) + ["--repair"] * self.repair
        names = {"enable_thinking": "--thinking", "chat_template_kwargs": "--chat-template-kwargs",
                 "control_tokens": "--control-tokens", "tool_choice": "--tool-choice"}  # fmt: skip
        given += [names[name] for name in self.rendering]
        if given:
            raise ParameterError(
                f"--raw uses no chat template, which {' and '.join(given)} is for"
                if len(given) == 1
                else f"--raw uses no chat template, which {' and '.join(given)} are for"
            )


OWN = frozenset(Answering.__dataclass_fields__)


def prompt_or_input(prompt: str | None, *, hint: str = ONE_WORD) -> str:
    """What was said, or what standard input holds. Raises ParameterError."""
    if prompt is not None and prompt != "-":
        return prompt
    said = "" if prompt is None and sys.stdin.isatty() else sys.stdin.read()
    if not said and prompt is None:
        raise ParameterError(
            "there is nothing to say: no PROMPT, and no standard input",
            hint=hint,
        )
    return said


def with_images(text: str, images: Sequence[Path]) -> str | list[dict[str, Any]]:
    """The content of a message that shows pictures before it says something."""
    if not images:
        return text
    shown = [{"type": "image", "path": str(image.expanduser())} for image in images]
    return [*shown, {"type": "text", "text": text}]


def _biases(texts: Sequence[str]) -> dict[int, float]:
    """Biases by token id. Raises ParameterError."""
    found = {}
    for text in texts:
        token, _, bias = text.partition("=")
        try:
            number, value = int(token), float(bias)
        except ValueError:
            raise ParameterError(
                f"--logit-bias is a token's id and a number, such as 15=-100, not {shown(text)}"
            ) from None
        if number in found:
            raise ParameterError(f"--logit-bias says token {number} twice", hint="say it once")
        found[number] = value
    return found


def _format(path: Path) -> dict[str, Any]:
    """A JSON schema of a file, as response_format. Raises ParameterError."""
    try:
        schema = parse_json(read_text(path).encode(errors="surrogateescape"))
    except ValueError as error:
        raise ParameterError(f"--json-schema: {path} is not valid JSON: {error}") from error
    if not isinstance(schema, dict):
        raise ParameterError(f"--json-schema: {path} holds no JSON object")
    if schema.get("type") == "json_schema":  # OpenAI's response_format as it is
        return schema
    inner = schema if isinstance(schema.get("schema"), dict) else {"schema": schema}
    return {"type": "json_schema", "json_schema": inner}  # or what it has there, with a name


def _variables(text: str | None) -> Mapping[str, Any] | None:
    if text is None:
        return None
    try:
        found = parse_json(text.encode(errors="surrogateescape"))
    except ValueError as error:
        raise ParameterError(f"--chat-template-kwargs is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ParameterError("--chat-template-kwargs is a JSON object, such as '{\"name\": 1}'")
    return found
