"""Commands from functions: what a command takes is read off its signature, and argparse reads it.

A parameter is annotated `Annotated[type, option(...)]` or `Annotated[type, argument(...)]`; without
either it is an option. Types: str, int, float, Path, bool (a flag), a Literal (its values), a list
of one of them (may be repeated), and each `| None`. Where there is no default it is required.

A parameter may also be a dataclass: each of its fields is an option, annotated likewise. So several
commands have the same ones.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from lorakit.cli.hints import in_flags
from lorakit.cli.output import show_log
from lorakit.cli.usage import Parser
from lorakit.errors import LorakitError

VERBOSE = "Log what is fetched, read, loaded and applied, on standard error."
Command = Callable[..., None]
_VERBATIM = "\0"  # before words that follow "--"; no word of a command line has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """How a parameter of a command looks. least, most: the range of a number.

    bare: what an option means that is given without a value, where it may be. group: the heading
    in the help under which it stands. instead: values that are none, each with what has it.
    """

    names: tuple[str, ...] = ()  # "--name", or "--yes/--no" for a flag with two sides
    metavar: str | None = None
    help: str = ""
    least: float | None = None
    most: float | None = None
    bare: float | None = None
    group: str = ""
    instead: Mapping[str, str] = field(default_factory=dict)
    positional: bool = False

    @property
    def range(self) -> str:
        return f"from {self.least}" + ("" if self.most is None else f" to {self.most}")


def option(
    *names: str,
    metavar: str | None = None,
    help: str = "",
    least: float | None = None,
    most: float | None = None,
    bare: float | None = None,
    group: str = "",
    instead: Mapping[str, str] | None = None,
) -> Parameter:
    """Given by name: `--like-the-parameter` where no names are said."""
    return Parameter(
        names=names, metavar=metavar, help=help, least=least, most=most, bare=bare, group=group,
        instead=instead or {},
    )  # fmt: skip


def argument(*, metavar: str | None = None, help: str = "") -> Parameter:
    """Given by its place."""
    return Parameter(metavar=metavar, help=help, positional=True)


def call(function: Command, name: str, arguments: Sequence[str]) -> None:
    """Run a command with the words that follow its name; wrong ones end the process with 2."""
    words = list(arguments)
    if "--" in words:  # argparse forgets about it where options may stand between arguments
        at = words.index("--")
        words[at:] = [_VERBATIM + word for word in words[at + 1 :]]
    parser = parser_of(function, name)
    parser.asked = arguments
    given = vars(parser.parse_intermixed_args(words))
    if given.pop("verbose"):
        show_log()
    try:
        function(**_gathered(function, given))
    except LorakitError as error:
        error.hint = in_flags(error.hint, parser)
        raise


def parser_of(function: Command, name: str) -> Parser:
    """The parser of a command; its docstring is the description."""
    kinds = get_type_hints(function, include_extras=True)
    rows = [
        row
        for parameter in inspect.signature(function).parameters.values()
        for row in _rows(parameter, kinds[parameter.name])
    ]
    places = [
        row.place if row.required else f"[{row.place}]" for row in rows if row.declared.positional
    ]
    parser = make_parser(
        name, inspect.getdoc(function) or "", " ".join(["[OPTIONS]", *places]).strip()
    )
    titles = dict.fromkeys(row.declared.group for row in rows if row.declared.group)
    groups = {title: parser.add_argument_group(title) for title in titles}
    for row in rows:
        row.add(groups.get(row.declared.group, parser))
        parser.instead[row.name] = row.declared.instead
    parser.add_argument("--verbose", action="store_true", help=VERBOSE)
    return parser


def make_parser(name: str, description: str, usage: str) -> Parser:
    """A parser without arguments, in the style of all."""
    return Parser(
        prog=name,
        usage=f"{name} {usage}".replace("%", "%%"),
        description=" ".join(description.split()),
        formatter_class=_Formatter,
        allow_abbrev=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One parameter. kind: its type without `| None` and list."""

    name: str
    kind: Any
    repeated: bool
    default: Any
    declared: Parameter

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def place(self) -> str:
        return self._metavar + (" ..." if self.repeated else "")

    @property
    def _metavar(self) -> str:
        if self.declared.metavar is not None:
            return self.declared.metavar
        if get_origin(self.kind) is Literal:
            return "|".join(get_args(self.kind))
        return self.name.upper() if self.declared.positional else self.kind.__name__.upper()

    @property
    def _help(self) -> str:
        words = [self.declared.help]
        if self.declared.least is not None:
            words.append(f"[{self.declared.range}]")
        if self.required and not self.declared.positional:
            words.append("[required]")
        elif not self.required and self.default is not None and self.kind is not bool:
            words.append(f"[default: {self.default}]")
        return " ".join(filter(None, words)).replace("%", "%%")

    def add(self, parser: argparse._ActionsContainer) -> None:
        if self.kind is bool:
            self._add_flags(parser)
            return
        how: dict[str, Any] = {"metavar": self._metavar, "help": self._help}
        if get_origin(self.kind) is Literal:
            how["choices"] = get_args(self.kind)
        else:
            how["type"] = self._value
        if self.declared.positional:
            one, many = (None, "+") if self.required else ("?", "*")
            count = many if self.repeated else one
            parser.add_argument(self.name, nargs=count, **how)
            return
        if self.repeated:
            how["action"] = "append"
        if not self.required:
            how["default"] = self.default
        if self.declared.bare is not None:
            how |= {"nargs": "?", "const": self.declared.bare}
        parser.add_argument(*self._names, dest=self.name, required=self.required, **how)

    def _add_flags(self, parser: argparse._ActionsContainer) -> None:
        names, _, opposite = " ".join(self._names).partition("/")
        parser.add_argument(
            *names.split(), dest=self.name, action="store_true", default=self.default,
            help=self._help,
        )  # fmt: skip
        if opposite:
            parser.add_argument(
                opposite, dest=self.name, action="store_false", default=self.default,
                help=f"The opposite of {names}.",
            )  # fmt: skip

    @property
    def _names(self) -> list[str]:
        """Short names first."""
        return sorted(self.declared.names or [f"--{self.name.replace('_', '-')}"], key=len)

    def _value(self, text: str) -> Any:
        """A word as a value of the type, in its range."""
        text = text.removeprefix(_VERBATIM)
        try:
            value = self.kind(text)
        except ValueError:
            kind = {"int": "a whole number", "float": "a number"}.get(self.kind.__name__, "valid")
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind}") from None
        least, most = self.declared.least, self.declared.most
        if (least is not None and value < least) or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{text} is not {self.declared.range}")
        return value


def _gathered(function: Command, given: dict[str, Any]) -> dict[str, Any]:
    """Values by the function's own parameters: those of a dataclass's fields are one."""
    kinds = get_type_hints(function)
    return {
        name: kinds[name](**{each.name: given[each.name] for each in fields(kinds[name])})
        if is_dataclass(kinds[name])
        else given[name]
        for name in inspect.signature(function).parameters
    }


def _rows(parameter: inspect.Parameter, hint: Any) -> list[_Row]:
    """That of a parameter; of a dataclass, those of its fields."""
    if not is_dataclass(hint):
        return [_row(parameter.name, parameter.default, hint)]
    hints = get_type_hints(hint, include_extras=True)
    return [
        _row(
            each.name,
            inspect.Parameter.empty if each.default is MISSING else each.default,
            hints[each.name],
        )
        for each in fields(hint)
    ]


def _row(name: str, default: Any, hint: Any) -> _Row:
    declared = Parameter()
    if get_origin(hint) is Annotated:
        hint, declared = get_args(hint)
    if get_origin(hint) in (UnionType, Union):
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    repeated = get_origin(hint) is list
    return _Row(
        name=name,
        kind=get_args(hint)[0] if repeated else hint,
        repeated=repeated,
        default=default,
        declared=declared,
    )


class _Formatter(argparse.HelpFormatter):
    """`-o, --output OUT`, the same under every Python; lists keep their lines."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return str(action.metavar or action.dest)
        value = f" {action.metavar}" if action.metavar and action.nargs != 0 else ""
        value = f" [{value.strip()}]" if action.nargs == "?" else value
        return ", ".join(action.option_strings) + value

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)
