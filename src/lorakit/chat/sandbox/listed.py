"""What is listed and what is not: the callable values of a template, and refusals.

A method or global is a value of a kind that only this package makes, so that nothing else can be
called. What is not listed becomes an undefined value that says so when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined

from lorakit.chat.sandbox.budget import OBJECT, allocate


class ForbiddenError(SecurityError):
    """The template asks for what chat templates may not use."""


class RefusalError(jinja2.TemplateError):
    """The template itself refused the conversation, by raise_exception."""


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A listed method together with the value that it belongs to."""

    function: Callable[..., Any]
    owner: Any


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A listed function of every template."""

    function: Callable[..., Any]


def forbidden(what: str) -> ForbiddenError:
    return ForbiddenError(f"{what} is not among what a chat template may use")


def unlisted(what: str) -> Undefined:
    """What stands in the place of something that exists elsewhere and is not listed."""
    allocate(OBJECT * 4)
    return Undefined(hint=str(forbidden(what)), exc=ForbiddenError)


def refusing(what: str) -> Callable[..., Any]:
    """A filter or test that is known to Jinja and not listed; it says so when it is applied."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise forbidden(what)

    return refuse


def table(
    kind: str, listed: Mapping[str, Callable[..., Any]], known: Mapping[str, Any]
) -> dict[str, Callable[..., Any]]:
    """Jinja's table of filters or tests with what is listed; the others refuse by name."""
    refused = {name: refusing(f"the {kind} {name}") for name in known.keys() - listed.keys()}
    return {**refused, **listed}
