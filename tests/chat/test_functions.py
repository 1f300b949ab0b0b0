"""Functions as tools: what is declared, how they are called, what cannot be a tool."""

import functools
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional

import pytest

from lorakit.chat.calls import ToolCall
from lorakit.chat.functions import Tool, callee_of, callees_of
from lorakit.errors import ParameterError


def set_lights(
    room: str,
    state: Annotated[Literal["on", "off"], "On or off"] = "on",
    *,
    level: Optional[int] = None,  # noqa: UP045
    later: "Later | None" = None,
) -> str:
    """Switch the lights.

    Args:
        room: Which room.
        state: Something else.
        level: How bright.
    """
    return f"{room} {state} {level} {later}"


@dataclass
class Later:
    minutes: int


class Lamp:
    """Switches one lamp."""

    def __init__(self, room):
        self.room = room

    def dim(self, level: int) -> str:
        """Dim it."""
        return f"{self.room} {level}"

    def __call__(self, state: bool) -> str:
        return f"{self.room} {state}"


def called(tool, **arguments):
    callee = callee_of(tool)
    call = ToolCall(name=callee.name, arguments=arguments)
    assert callee.faults(call) == []
    return callee.bound(callee.converted(call))()


def parameters(tool):
    return callee_of(tool).declaration["function"]["parameters"]


def test_a_function_is_declared():
    assert callee_of(set_lights).declaration == {
        "type": "function",
        "function": {
            "name": "set_lights",
            "description": "Switch the lights.",
            "parameters": {
                "type": "object",
                "properties": {
                    "room": {"type": "string", "description": "Which room."},
                    "state": {
                        "type": "string",
                        "enum": ["on", "off"],
                        "description": "On or off",
                        "default": "on",
                    },
                    "level": {"type": "integer", "description": "How bright."},
                    "later": {
                        "type": "object",
                        "properties": {"minutes": {"type": "integer"}},
                        "required": ["minutes"],
                        "additionalProperties": False,
                    },
                },
                "required": ["room"],
                "additionalProperties": False,
            },
        },
    }


def test_arguments_are_converted_and_defaults_stay_the_functions_own():
    assert called(set_lights, room="hall") == "hall on None None"
    assert called(set_lights, room="hall", later={"minutes": 2}) == (
        "hall on None Later(minutes=2)"
    )


def test_null_counts_as_none_where_none_is_the_default():
    assert called(set_lights, room="hall", level=None, later=None) == "hall on None None"
    callee = callee_of(set_lights)
    call = ToolCall(name="set_lights", arguments={"room": None})
    assert callee.faults(call) == ["set_lights.room: expected string, found None"]


def test_methods_objects_and_partials():
    lamp = Lamp("hall")
    assert called(lamp.dim, level=3) == "hall 3"
    assert called(lamp, state=True) == "hall True"
    assert callee_of(lamp).name == "Lamp"
    assert callee_of(lamp).declaration["function"]["description"] == "Switches one lamp."
    bound = functools.partial(set_lights, "hall", state="off")
    assert list(parameters(bound)["properties"]) == ["level", "later"]
    assert callee_of(bound).name == "set_lights"
    assert called(bound, level=1) == "hall off 1 None"
    assert called(functools.partial(lamp.dim, level=7)) == "hall 7"


def test_kinds_of_parameters():
    def f(a: int = 1, b: int = 2, /, *args: int, c: int, d: int = 4, **kwargs: Any) -> Any:
        return a, b, args, c, d, kwargs

    assert list(parameters(f)["properties"]) == ["a", "b", "c", "d"]
    assert called(f, b=7, c=3) == (1, 7, (), 3, 4, {})


def test_without_parameters():
    def stop() -> None:
        """Stop."""

    assert parameters(stop) == {"type": "object", "properties": {}, "additionalProperties": False}
    assert called(stop) is None


def test_decorated_functions_keep_their_own():
    def twice(function):
        @functools.wraps(function)
        def inner(*args, **kwargs):
            return function(*args, **kwargs) * 2

        return inner

    @twice
    def say(word: str) -> str:
        return word

    assert called(say, word="ho") == "hoho"


def test_coroutine_functions_are_known():
    async def fetch(name: str) -> str:
        return name

    class Fetch:
        async def __call__(self) -> None: ...

    assert callee_of(fetch).awaits
    assert callee_of(functools.partial(fetch, "a")).awaits
    assert callee_of(Fetch()).awaits
    assert not callee_of(set_lights).awaits


def test_a_tool_says_what_a_function_does_not():
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    tool = Tool(lambda x: x + 1, name="add", description="Adds one.", parameters=schema)
    assert callee_of(tool).declaration["function"] == {
        "name": "add",
        "description": "Adds one.",
        "parameters": schema,
    }
    assert called(tool, x=2) == 3
    renamed = callee_of(Tool(set_lights, name="lights", description="Other words."))
    assert renamed.name == "lights"
    assert renamed.declaration["function"]["description"] == "Other words."


def no_annotation(room, state: str) -> None: ...
def bad_annotation(data: bytes, more: dict[int, str]) -> None: ...
def unknown_name(data: "Nowhere") -> None: ...  # noqa: F821


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ([no_annotation], "no_annotation: parameter room has no annotation"),
        ([bad_annotation], "bad_annotation: parameter data: no JSON schema says bytes"),
        ([bad_annotation], "parameter more: the keys of a JSON object are texts"),
        ([unknown_name], "unknown_name: its annotations cannot be read"),
        ([lambda: None], "'<lambda>' is no name for a tool"),
        ([set_lights, set_lights], r"tools\[1\]: a second one with the name set_lights"),
        ([Lamp], "is no function"),
        ([{"type": "function"}], "is no function"),
        ([None], "None is no function"),
        ([Tool(set_lights, name="a b")], "'a b' is no name"),
        ([Tool(set_lights, name="a" * 65)], "is no name"),
        ([Tool(set_lights, parameters={"x": object()})], "expected JSON values, found object"),
        ([Tool(set_lights, parameters=[])], "expected a JSON schema object"),
        ([iter], "its parameters are not known"),
        ([], "there are no tools"),
        (set_lights, "tools are a list of functions"),
        ({"a": set_lights}, "tools are a list of functions"),
    ],
)
def test_what_cannot_be_a_tool(tools, reason):
    with pytest.raises(ParameterError) as error:
        callees_of(tools)
    shown = "\n".join([error.value.message, *error.value.items])
    assert re.search(reason, shown), shown
    assert error.value.hint


def test_all_faults_come_at_once():
    with pytest.raises(ParameterError) as error:
        callees_of([no_annotation, bad_annotation, lambda: None])
    assert len(error.value.items) == 4


def test_what_is_declared_can_be_seen():
    def switch(room: Literal["hall", "bath"], on: bool = True) -> None:
        """Switch the lights."""

    tool = Tool(switch, name="lights")
    function = tool.declaration["function"]
    assert (function["name"], function["description"]) == ("lights", "Switch the lights.")
    assert function["parameters"]["properties"]["room"]["enum"] == ["hall", "bath"]
    assert function["parameters"]["required"] == ["room"]
    function["parameters"].clear()
    assert tool.declaration["function"]["parameters"]
    with pytest.raises(ParameterError, match="obj has no annotation"):
        _ = Tool(len).declaration
