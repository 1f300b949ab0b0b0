"""No hint that the command line prints is in Python's words; all hints of the source are read."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

import lorakit
from lorakit.cli.hints import ELSEWHERE, PHRASES, in_flags
from lorakit.cli.signature import parser_of
from lorakit.cli.table import functions

SOURCE = Path(lorakit.__file__).parent
# Hints that no command can print: of calls that only a Python program makes.
ONLY_PYTHON = {
    ("chat/annotations.py", "lorakit.Tool("): "a module of tools, which is Python",
    ("chat/functions.py", "a tool is a function with"): "a module of tools, which is Python",
    ("chat/functions.py", "chat(messages)"): "run_tools",
    ("chat/functions.py", "lorakit.Tool(function, name"): "a module of tools, which is Python",
    ("engines/onnx/kv_cache.py", "close one, or raise max_batch"): "of several sequences",
    ("engines/torch/sequences.py", "close one, or raise max_batch"): "of several sequences",
    ("model/adapters.py", "lorakit.read_adapter"): "LoadedAdapter.adapter",
    ("model/adapters.py", "remove()"): "LoadedAdapter.apply",
    ("model/adapters.py", "use the object that load_adapter"): "a LoadedAdapter that was unloaded",
    ("model/adapters.py", "what load_adapter returned"): "keys of adapters=",
    ("model/conversation.py", "answer(results)"): "a Session",
    ("model/conversation.py", "read one answer"): "a Session",
    ("model/conversation.py", "regenerate()"): "a Session",
    ("model/generating.py", "stream(messages"): "Model.stream",
    ("model/prompts.py", "a conversation is"): "a prompt that is no text",
    ("model/prompts.py", "chat(messages)"): "a prompt that is no text",
    ("model/prompts.py", "one call for each"): "a prompt that is no text",
    ("model/tool_calls.py", "arun_tools awaits it"): "run_tools",
    ("model/tool_loop.py", "run goes with"): "stream_tools",
    ("model/tool_types.py", "lorakit.ToolLimits("): "run_tools",
    ("model/types.py", "Request(prompt"): "a Request",
    ("model/types.py", "lorakit.Request(messages"): "a Request",
    ("remote/kinds.py", "logprobs="): "SamplingParams.logprobs",
    ("remote/runtime.py", "adapters={} embeds"): "Model.embed",
    ("remote/runtime.py", "leave kv="): "LoadedAdapter.apply",
    ("remote/turns.py", "allow more time, or open"): "more requests at once than wait",
    ("remote/turns.py", "try again later, or open"): "more requests at once than wait",
    ("runtime/params.py", "a pydantic model's schema"): "SamplingParams.response_format",
    ("runtime/thread.py", "allow more time, or open"): "more requests at once than wait",
    ("runtime/thread.py", "try again later, or open"): "more requests at once than wait",
}  # fmt: skip
_PYTHON = re.compile(
    r"""(?<![\w#-])[a-z][a-z_]*=(?![=\w-]*=)      # a keyword
    | \b\w+\((?!s\))                                # a call
    | \bdocs/\w+ | \w+/\w+\.py\b | \blorakit\.[a-z]    # a place in the repository, a module
    """,
    re.VERBOSE,
)


@cache
def api_words():
    """Names with an underscore that only the Python interface has."""
    found = set()
    for name in lorakit.__all__:
        public = getattr(lorakit, name)
        methods = inspect.getmembers(public, callable) if inspect.isclass(public) else []
        for word, function in [(name, public), *methods]:
            if word.startswith("_") or not callable(function):
                continue
            found.add(word)
            try:
                found |= set(inspect.signature(function).parameters)
            except (TypeError, ValueError):
                continue
    return {word for word in found if "_" in word.strip("_")}


@cache
def hints():
    """(file, sentence) of every hint in the source, with X for what is filled in."""
    trees = {path: ast.parse(path.read_text("utf-8")) for path in sorted(SOURCE.rglob("*.py"))}
    named = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        named.setdefault(target.id, {}).setdefault(path, []).append(node.value)
    found = []
    for path, tree in trees.items():
        given = [
            keyword.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            for keyword in node.keywords
            if keyword.arg in ("hint", "advice")
        ]
        for value in given:
            name = path.relative_to(SOURCE).as_posix()
            found += [(name, text) for text in texts(value, path, named) if text.strip("X ")]
    return sorted(set(found))


def texts(value, path, named, depth=0):
    """What an expression can be, as far as it stands in the source."""
    inner = lambda node: texts(node, path, named, depth)  # noqa: E731
    if isinstance(value, ast.Constant):
        return [value.value] if isinstance(value.value, str) else []
    if isinstance(value, ast.JoinedStr):
        return ["".join(p.value if isinstance(p, ast.Constant) else "X" for p in value.values)]
    if isinstance(value, ast.BinOp):
        return [a + b for a in inner(value.left) or [""] for b in inner(value.right) or [""]]
    if isinstance(value, ast.IfExp):
        return [*inner(value.body), *inner(value.orelse)]
    if isinstance(value, ast.BoolOp):
        return [text for each in value.values for text in inner(each)]
    if isinstance(value, ast.Dict):
        return [text for each in value.values for text in inner(each)]
    if isinstance(value, ast.Subscript):
        return inner(value.value)
    if isinstance(value, ast.Name) and depth < 3:
        places = named.get(value.id, {})
        known = places.get(path) or [n for nodes in places.values() for n in nodes]
        return [text for node in known for text in texts(node, path, named, depth + 1)]
    return []


@cache
def parsers():
    return [parser_of(function, name) for name, function in functions()]


def pythonic(text):
    """What a user of the command line cannot write, or nothing."""
    found = _PYTHON.search(text)
    word = next((w for w in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", text) if w in api_words()), None)
    return found[0] if found else word


def only_python(name, text):
    return [(file, begin) for file, begin in ONLY_PYTHON if file == name and text.startswith(begin)]


def test_every_hint_is_in_the_words_of_the_command_line():
    assert len(hints()) > 300
    wrong = [
        f"{name}: {text!r}: {found}"
        for name, text in hints()
        if not only_python(name, text)
        for found in {pythonic(in_flags(text, parser)) for parser in parsers()} - {None}
    ]
    assert not wrong, "\n".join(wrong)


def test_every_exception_is_one():
    """A row of a table that nothing needs is removed."""
    needed = {row for name, text in hints() if pythonic(text) for row in only_python(name, text)}
    assert needed == set(ONLY_PYTHON)
    unused = [p for p, _ in PHRASES if not any(re.search(p, text) for _, text in hints())]
    assert not unused
    keywords = {word for _, text in hints() for word in re.findall(r"\b([a-z_]+)=", text)}
    assert keywords >= set(ELSEWHERE)
    flags = {name for p in parsers() for action in p._actions for name in action.option_strings}
    assert {f"--{name.replace('_', '-')}" for name in ELSEWHERE} <= flags


@pytest.mark.parametrize(
    "text",
    ["use rank=16", "load it with load_adapter", "see docs/llama.md", "AdapterConfig(path)",
     "use lorakit.open", "name=", 'engine="torch" has it'],
)  # fmt: skip
def test_the_check_finds_words_of_python(text):
    assert pythonic(text)


@pytest.mark.parametrize(
    "text",
    ["give --rank 16", "lorakit merge BASE -a A:0.5", "https://host/v1", "LORAKIT_OFFLINE=1",
     "its adapter_config.json", "NAME=REF", "choose one of the file(s)"],
)  # fmt: skip
def test_the_check_leaves_what_a_shell_takes(text):
    assert pythonic(text) is None
