"""The environment in which chat templates run: what transformers offers them, listed and metered.

Attributes, items and calls of a running template come here. It knows nothing of messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2 import nodes, pass_eval_context
from jinja2.ext import loopcontrols
from jinja2.meta import TrackingCodeGenerator
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, missing

from lorakit.chat.sandbox import operators
from lorakit.chat.sandbox.budget import (
    MAX_VALUE,
    OBJECT,
    LimitError,
    allocate,
    at_end,
    check_key,
    make_items,
    make_text,
    spend,
    width,
)
from lorakit.chat.sandbox.checks import TESTS
from lorakit.chat.sandbox.filters import FILTERS
from lorakit.chat.sandbox.formatting import strftime_now
from lorakit.chat.sandbox.listed import (
    ForbiddenError,
    Global,
    Method,
    RefusalError,
    forbidden,
    unlisted,
)
from lorakit.chat.sandbox.methods import LOOP_VALUES, METHODS, owner_name
from lorakit.chat.sandbox.rewrite import (
    HIDDEN,
    LOOP,
    MAX_TOKENS,
    GenerationTag,
    Meter,
    check_listed,
)
from lorakit.chat.sandbox.writing import to_text

MAX_RANGE = 100_000  # items, as in jinja's own sandbox
MAX_NAME = 200  # characters of a name in an error's message
_OPERATORS = frozenset({"+", "-", "*", "/", "//", "%", "**"})
# Globals of jinja that no chat template uses.
_UNLISTED = {
    name: Undefined(hint=str(forbidden(f"the global {name}")), exc=ForbiddenError)
    for name in ("cycler", "joiner", "lipsum")
}


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Compiling and rendering must happen within `budgeted()`."""

    intercepted_binops = _OPERATORS

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[GenerationTag, loopcontrols],
            optimized=False,
            finalize=_emit,
        )
        self.filters = {**FILTERS, **HIDDEN}
        self.tests = dict(TESTS)
        self.globals = {
            **_UNLISTED,
            **{name: Global(function) for name, function in GLOBALS.items()},
        }
        self.concat = _joined  # type: ignore[assignment]  # jinja joins blocks and macros with it

    def reads(self, tree: nodes.Template) -> frozenset[str]:
        """The names that a parsed template reads and does not set itself."""
        finder = TrackingCodeGenerator(self)
        finder.optimizer = None  # it would compute constants and take the meter for one
        finder.visit(tree)
        return frozenset(finder.undeclared_identifiers - self.globals.keys())

    def render(self, template: jinja2.Template, variables: Mapping[str, Any]) -> str:
        """The whole text. Raises LimitError, ForbiddenError, RefusalError, and whatever a template
        that does not fit its variables raises."""
        context = template.new_context(dict(variables))
        at_end(context.vars.clear)  # macros and the context hold each other
        at_end(context.parent.clear)
        pieces: list[str] = []
        length = 0
        for piece in template.root_render_func(context):
            length += len(piece)
            if length > MAX_VALUE:
                raise LimitError(f"a prompt of more than {MAX_VALUE} characters")
            pieces.append(piece)
        return _joined(pieces)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`obj.attribute`: what Python has under the name goes before an item of a dict."""
        spend(1)
        if isinstance(obj, dict):
            if hasattr(dict, attribute):
                return _attribute(obj, attribute)
            return obj[attribute] if attribute in obj else self._missing(obj, attribute)
        return self._named(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]`: an item goes before what Python has under the name."""
        spend(1)
        if isinstance(obj, dict):
            check_key(argument)
            if argument in obj:
                return obj[argument]
        elif isinstance(obj, str | list | tuple | range) and isinstance(argument, int):
            allocate(OBJECT)
            try:
                return obj[argument]
            except IndexError:
                return self._missing(obj, argument)
        elif isinstance(obj, Undefined):
            return obj[argument]  # raises what an undefined value raises
        if isinstance(argument, str):
            return self._named(obj, str(argument))
        return self._missing(obj, argument)

    def _named(self, obj: Any, name: str) -> Any:
        """What a value has under a name, if it is listed."""
        if isinstance(obj, Undefined):
            return obj[name]  # raises what an undefined value raises
        if isinstance(obj, Namespace):
            value = _of_namespace(obj, name)
            return self._missing(obj, name) if value is missing else value
        if hasattr(type(obj), name):
            return _attribute(obj, name)
        return self._missing(obj, name)

    def _missing(self, obj: Any, name: Any) -> Undefined:
        """An undefined value; its name is part of the error when it is used."""
        allocate(2 * OBJECT)
        if isinstance(name, str):
            if len(name) > MAX_NAME:
                allocate(4 * MAX_NAME)
                name = name[:MAX_NAME]
        elif not isinstance(name, int | float | None) or _is_long(name):
            name = type(name).__name__
        return self.undefined(obj=obj, name=name)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call, of what this package made callable and nothing else."""
        spend(1)
        kwargs.pop("_loop_vars", None)  # what jinja's compiler adds for functions with a context
        kwargs.pop("_block_vars", None)
        if isinstance(__obj, Method):
            return __obj.function(__obj.owner, *args, **kwargs)
        if isinstance(__obj, Global):
            return __obj.function(*args, **kwargs)
        if isinstance(__obj, Macro):
            make_items(len(args) + len(kwargs))
            return __obj(*args, **kwargs)
        if isinstance(__obj, LoopContext | Undefined):
            return __obj(*args, **kwargs)
        raise TypeError(f"'{type(__obj).__name__}' object is not callable")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        return operators.binary(operator, left, right)

    def call_filter(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(name, str) and name.startswith(" "):
            raise forbidden(f"the filter {name!r:.40}")
        return super().call_filter(name, *args, **kwargs)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        for count, _ in enumerate(self.lexer.tokeniter(source, name, filename)):
            if count > MAX_TOKENS:
                raise LimitError(f"a template of more than {MAX_TOKENS} tokens")
        template = super()._parse(source, name, filename)
        check_listed(template)
        Meter().visit(template)
        return template


@pass_eval_context  # jinja would apply any other kind to literals once, when compiling
def _emit(_: nodes.EvalContext, value: object) -> str:
    """Every output passes here (jinja's finalize)."""
    text = to_text(value)
    spend(1 + (len(text) >> 6))
    allocate(16)  # its place in the list of pieces; the text that they become is drawn for then
    return str(text)


def _joined(pieces: list[str]) -> str:
    """The text of a block, a macro or the whole."""
    if not pieces:
        return ""
    make_text(sum(map(len, pieces)), max(map(width, pieces)))
    return "".join(pieces)


def _attribute(obj: Any, name: str) -> Any:
    """A method or value that Python has under a name, if it is listed."""
    kind = type(obj)
    function = METHODS.get(kind, {}).get(name)
    if function is not None:
        allocate(LOOP if kind is LoopContext else OBJECT)  # a method keeps its owner
        return Method(function, obj)
    if kind is LoopContext and name in LOOP_VALUES:
        allocate(OBJECT)
        return getattr(obj, name)
    return unlisted(f"the attribute {name[:MAX_NAME]} of a {owner_name(kind)}")


def _of_namespace(obj: Namespace, name: str) -> Any:
    if name.startswith("_"):
        return unlisted(f"the attribute {name[:MAX_NAME]} of a namespace")
    return getattr(obj, name, missing)


def _is_long(number: Any) -> bool:
    return isinstance(number, int) and number.bit_length() > 64


class BoundedNamespace(Namespace):
    """A template's `namespace()`: the one value that a template can change."""

    def __setitem__(self, name: str, value: Any) -> None:
        spend(1)
        allocate(OBJECT)
        _check_names([name])
        super().__setitem__(name, value)


def _namespace(*args: Any, **kwargs: Any) -> BoundedNamespace:
    values = operators.to_dict(*args, **kwargs)
    _check_names(values)
    made = BoundedNamespace(values)
    allocate(4 * OBJECT)
    at_end(object.__getattribute__(made, "_Namespace__attrs").clear)
    return made


def _check_names(names: Any) -> None:
    for name in names:
        if isinstance(name, str) and name.startswith("_"):
            raise forbidden(f"the attribute {name[:MAX_NAME]} of a namespace")


def _range(*args: Any) -> range:
    found = range(*args)
    try:
        too_long = len(found) > MAX_RANGE
    except OverflowError:
        too_long = True
    if too_long:
        raise LimitError(f"a range of more than {MAX_RANGE} items")
    return found


def _raise_exception(message: Any) -> None:
    raise RefusalError(str(to_text(message)))


GLOBALS = {
    "dict": operators.to_dict,
    "namespace": _namespace,
    "raise_exception": _raise_exception,
    "range": _range,
    "strftime_now": strftime_now,
}
