"""ChatTemplate: a model's own Jinja template, which turns messages into a prompt.

It gives templates what transformers gives them (trim_blocks, lstrip_blocks, loop controls,
raise_exception, strftime_now, tojson without HTML escaping, the generation tag), in the bounded
sandbox: a template is an untrusted program. It does not tokenize; a rendered prompt holds the
beginning-of-text token where the template writes one, so encode it with `special=False`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2

from lorakit.chat.messages import Message, prepare_messages, prepare_tools, prepare_variables
from lorakit.chat.sandbox import BoundedEnvironment, LimitError, RefusalError, budgeted
from lorakit.chat.template_files import MAX_SOURCE, template_sources
from lorakit.errors import BaseModelError, FormatError, ParameterError
from lorakit.files.bounded import AGAIN
from lorakit.text.tokenizer import read_special_tokens


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChatTemplate:
    """Compiled templates by name, most often "default" alone. Safe to share between threads.

    sources: the templates' text. special_tokens: given to the template, as {"bos_token": "<bos>"}.
    Raises FormatError for a template that is not valid Jinja, BaseModelError (code
    template_missing) for no template.
    """

    sources: Mapping[str, str]
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    _environment: BoundedEnvironment = field(init=False, repr=False)
    _compiled: Mapping[str, jinja2.Template] = field(init=False, repr=False)
    _reads: Mapping[str, frozenset[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.sources:
            raise BaseModelError(
                "this model has no chat template",
                code="template_missing",
                hint="use complete() with a prompt of your own, or add a chat_template.jinja",
            )
        environment = BoundedEnvironment()
        made = {name: _compile(environment, name, text) for name, text in self.sources.items()}
        object.__setattr__(self, "sources", MappingProxyType(dict(self.sources)))
        object.__setattr__(self, "special_tokens", MappingProxyType(dict(self.special_tokens)))
        object.__setattr__(self, "_environment", environment)
        object.__setattr__(self, "_compiled", {name: pair[0] for name, pair in made.items()})
        object.__setattr__(self, "_reads", {name: pair[1] for name, pair in made.items()})

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> ChatTemplate:
        """Read a model folder's template: chat_template.jinja with those in chat_templates or
        additional_chat_templates, or the chat_template of tokenizer_config.json (a string, or a
        list of named ones).

        Raises BaseModelError (code template_missing) where there is none, FormatError where one
        is broken.
        """
        path = Path(folder)
        return cls(sources=template_sources(path), special_tokens=read_special_tokens(path))

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt for a conversation.

        variables: what else this template reads, such as enable_thinking=False.
        Raises ParameterError for messages that are not well formed, or that the template refuses
        (with its own words), and for tools or variables that it would not read; FormatError for a
        template that outgrows its limits or does what the sandbox forbids.
        """
        prepared_tools = prepare_tools(tools)
        self._check_read(prepared_tools is not None, variables)
        context = {
            "documents": None,
            **self.special_tokens,
            **prepare_variables(variables),
            "messages": prepare_messages(messages),
            "tools": prepared_tools,
            "add_generation_prompt": add_generation_prompt,
        }
        template = self._choose(prepared_tools is not None)
        return _run(self._environment, template, context)

    def source(self, tools: bool = False) -> str:
        """The text of the template that is used with or without tools."""
        return self.sources[self._name(tools)]

    def variables(self, tools: bool = False) -> frozenset[str]:
        """What the template reads: messages, add_generation_prompt, and often more."""
        return self._reads[self._name(tools)]

    def _check_read(self, tools: bool, variables: Mapping[str, Any]) -> None:
        """Refuse what would have no effect on the prompt."""
        reads = self.variables(tools)
        if tools and "tools" not in reads:
            raise ParameterError(
                "this model's chat template takes no tools",
                hint="describe them in a message, or use a model that was trained to call tools",
            )
        unread = sorted(variables.keys() - reads)
        if unread:
            raise ParameterError(
                "this model's chat template does not read these variables",
                items=unread,
                hint=f"it reads {', '.join(sorted(reads))}",
            )

    def _choose(self, tools: bool) -> jinja2.Template:
        return self._compiled[self._name(tools)]

    def _name(self, tools: bool) -> str:
        for name in ("tool_use", "default") if tools else ("default",):
            if name in self.sources:
                return name
        if len(self.sources) == 1:
            return next(iter(self.sources))
        raise BaseModelError(
            "this model has several chat templates and none is the default",
            code="template_missing",
            items=sorted(self.sources),
        )


def _run(
    environment: BoundedEnvironment, template: jinja2.Template, context: dict[str, Any]
) -> str:
    try:
        with budgeted(len(context["messages"]) + len(context["tools"] or ())):
            return environment.render(template, context)
    except RefusalError as error:
        raise ParameterError(
            f"the model's chat template refused the messages: {error.message}"
        ) from _bare(error)
    except (LimitError, RecursionError, MemoryError) as error:
        raise FormatError(
            f"the chat template exceeded its limits: {error}",
            hint="the conversation may be too long; or the template may be broken or hostile",
        ) from _bare(error)
    except jinja2.exceptions.SecurityError as error:
        raise FormatError(f"the chat template does what is forbidden: {error}") from _bare(error)
    except Exception as error:  # a template is a program: it may fail in any way
        raise ParameterError(
            f"the model's chat template could not render these messages: {_described(error)}",
            hint="the template may expect other roles, content or tool fields",
        ) from _bare(error)


def _compile(
    environment: BoundedEnvironment, name: str, source: str
) -> tuple[jinja2.Template, frozenset[str]]:
    """The compiled template, and the names that it reads and does not set itself."""
    if len(source) > MAX_SOURCE:
        raise FormatError(f"the chat template {name} is longer than {MAX_SOURCE} characters")
    try:
        with budgeted():
            tree = environment.parse(source)
            return environment.from_string(tree), environment.reads(tree)
    except jinja2.TemplateSyntaxError as error:
        raise FormatError(
            f"the chat template {name} is not valid Jinja: line {error.lineno}: {error.message}",
            hint=AGAIN,
        ) from error
    except Exception as error:  # nesting too deep for Python's own compiler, and the like
        raise FormatError(
            f"the chat template {name} cannot be compiled: {_described(error)}"
        ) from _bare(error)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:500]}"


def _bare(error: Exception) -> Exception:
    """An error without its frames, which would keep all of the template's values alive."""
    error.__context__ = None
    return error.with_traceback(None)
