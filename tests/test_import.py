"""What importing and running lorakit brings along, each in a process of its own."""

import ast
import inspect
import json
import pydoc
import rlcompleter
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import lorakit
from lorakit import demo, errors

HEAVY = (
    "torch",
    "transformers",
    "onnxruntime",
    "onnx",
    "llama_cpp",
    "ray",
    "peft",
    "huggingface_hub",
    "prompt_toolkit",
)


def child(code):
    """The JSON that some code prints last."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_import_is_inert_and_light():
    loaded = child("import sys, json, lorakit; print(json.dumps(sorted(sys.modules)))")
    assert not [name for name in loaded if name.split(".")[0] in (*HEAVY, "numpy", "jinja2")]


def test_everything_but_an_engine_needs_no_engine():
    code = f"""
import sys, json, lorakit
from pathlib import Path
from lorakit.check import check
adapter = lorakit.read_adapter(Path({str(demo.adapter_path("home"))!r}))
found = check(adapter, lorakit.Base.open({str(demo.base_path())!r}))
assert not [mismatch for mismatch in found if mismatch.severity == "error"], found
for name in dir(lorakit):
    if name != "export":  # it builds what an engine runs
        getattr(lorakit, name)
import lorakit.cli
print(json.dumps(sorted(sys.modules)))
"""
    assert not [name for name in child(code) if name.split(".")[0] in HEAVY]


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="nothing"):
        lorakit.nothing  # noqa: B018


def declared(source):
    """What a checker sees: the names and modules that TYPE_CHECKING imports, by where they are."""
    (block,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {(node.module, alias.name) for node in block.body for alias in node.names}


def test_checkers_see_what_there_is():
    """The two lists of names: of imports that never run, and of homes that checkers do not see."""
    source = Path(lorakit.__file__).read_text("utf-8")
    homes = {(home, name) for name, home in lorakit._HOMES.items()}
    assert declared(source) == homes | {("lorakit", name) for name in lorakit._MODULES}
    line = "    from lorakit.model.model import Model as Model\n"
    assert declared(source.replace(line, "")) == declared(source) - {
        ("lorakit.model.model", "Model")
    }


def test_every_error_is_exported():
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert {name for name in kinds if issubclass(getattr(errors, name), errors.LorakitError)} == {
        name for name, home in lorakit._HOMES.items() if home == "lorakit.errors"
    }


def test_completion_and_help_show_what_is_public():
    completer = rlcompleter.Completer({"lorakit": lorakit})
    names = {
        word.removeprefix("lorakit.").rstrip("()") for word in completer.attr_matches("lorakit.")
    }
    assert {*lorakit._HOMES, *lorakit._MODULES} <= names
    assert not {name for name in names if name.startswith("_")} - {"__version__"}
    page = pydoc.plain(pydoc.render_doc(lorakit))
    for said in (
        "class Stream(",
        "class QueueFullError(",
        "\n    open(",
        "KvPolicy = typing.Literal",
    ):
        assert said in page


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads /proc")
def test_generating_opens_no_socket():
    code = f"""
import json, os, lorakit
with lorakit.open({str(demo.base_path())!r}, threads=1) as model:
    model.complete("hello", max_tokens=4)
    links = [os.readlink(f"/proc/self/fd/{{fd}}") for fd in os.listdir("/proc/self/fd")
             if os.path.exists(f"/proc/self/fd/{{fd}}")]
print(json.dumps([os.environ.get("ORT_DISABLE_TELEMETRY"), links]))
"""
    flag, links = child(code)
    assert flag == "1"
    assert not [link for link in links if link.startswith("socket:")]


def test_the_protocol_of_engines_imports_no_engine_and_no_tokenizer():
    code = """
import sys, json
import lorakit.engines.protocol, lorakit.engines.llama.options, lorakit.engines.onnx.options
import lorakit.engines.torch.options
print(json.dumps(sorted(sys.modules)))
"""
    loaded = child(code)
    assert not [name for name in loaded if name.split(".")[0] in HEAVY]
    assert "tokenizers" not in loaded
    for engine in ("onnx", "llama", "torch"):
        assert f"lorakit.engines.{engine}.engine" not in loaded


def test_no_exported_name_is_that_of_a_subpackage():
    folders = {path.name for path in Path(lorakit.__file__).parent.iterdir() if path.is_dir()}
    assert not folders & set(lorakit.__all__)
    assert "model" in folders


def undocumented(names):
    """Exported names, and public methods of exported classes, without a docstring."""
    for name in names:
        value = getattr(lorakit, name)
        if name.startswith("_") or not (inspect.isclass(value) or inspect.isroutine(value)):
            continue  # aliases of types have none
        said = value.__doc__ or ""  # a class's own: its parent's says another thing
        if not said or said.startswith(f"{name}("):  # which dataclass writes
            yield name
        members = vars(value).items() if inspect.isclass(value) else ()
        for member, found in members:
            call = inspect.isfunction(found) or isinstance(found, property | classmethod)
            if call and not member.startswith("_") and not inspect.getdoc(found):
                yield f"{name}.{member}"


def test_what_is_exported_has_docstrings(monkeypatch):
    assert list(undocumented(lorakit.__all__)) == []

    class Silent:
        def method(self): ...

    class Mute(lorakit.LorakitError): ...

    @dataclass
    class Bare:
        field: int

    for kind in (Silent, Mute, Bare):
        monkeypatch.setattr(lorakit, kind.__name__, kind, raising=False)
    found = list(undocumented(["Silent", "Mute", "Bare"]))
    assert found == ["Silent", "Silent.method", "Mute", "Bare"]


def test_converting_opens_no_model():
    """A third of the time that `convert` takes would go into importing what it does not use."""
    loaded = child("import sys, json, lorakit.cli.convert; print(json.dumps(sorted(sys.modules)))")
    assert not [name for name in loaded if name in ("lorakit.model.open", "jinja2", "asyncio")]
