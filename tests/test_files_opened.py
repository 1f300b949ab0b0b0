"""Every file of a user's is opened by files.bounded: a test of the source, and of the opener.

A call that opens, maps or reads a file by its name must stand in the table below with its reason.
"""

import ast
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import lorakit
from lorakit.errors import FormatError, LorakitError, SourceError
from lorakit.files import bounded
from lorakit.files.bounded import read_bounded, read_text
from lorakit.files.npz import read_npz

SOURCE = Path(lorakit.__file__).parent
READERS = {
    "read_text", "read_bytes", "fdopen", "FileIO", "memmap", "fromfile", "loadtxt", "genfromtxt",
    "mmap", "from_file", "from_pretrained", "load_file", "safe_open", "load_from_file", "copyfile",
    "copy2", "copytree", "open_code", "llama_model_load_from_file",
    "mtmd_init_from_file", "llama_adapter_lora_init", "from_json", "parse_file", "load_checkpoint",
}  # fmt: skip
MODULES = {  # whose `load` or `open` takes a name; of others these are methods of ours
    "np", "numpy", "json", "pickle", "torch", "onnx", "os", "io", "gzip", "bz2", "lzma", "zipfile",
    "tarfile", "codecs", "Image", "wave", "shelve", "dbm", "tokenize", "tomllib", "fileinput",
}  # fmt: skip
OURS = re.compile(
    r"self|cls|_?kv|_?context|_?pool|_?sequences|sources|model|Tokenizer|Base|opening|changed"
    r"|(Onnx|Torch|Llama)Engine|ChatTemplate"
)
MODE = re.compile(r"[rwxab][rwxabt+]*")

ALLOWED = {
    ("files/bounded.py", "os.open"): "the bounded opener itself",
    ("files/bounded.py", "io.FileIO"): "the bounded opener itself",
    ("files/bounded.py", "np.memmap"): "of a file that it opened",
    ("files/holding.py", "os.open"): "entries of the cache, to lock",
    ("files/atomic.py", "os.open"): "new files, locks, and folders to flush",
    ("files/atomic.py", "temporary.open"): "new files, to write",
    ("files/atomic.py", "path.open"): "new files, to write",
    ("graph/weights.py", ".open"): "a new file of the cache, to write",
    ("merge/files.py", "os.open"): "shards that were opened with the base; files of its own",
    ("sources/download.py", "partial.open"): "a file of the cache, to append to",
    ("sources/store.py", "shutil.copyfile"): "a blob of the cache whose digest was compared",
    ("cli/__init__.py", "os.open"): "the null device",
    ("engines/cpu.py", ".read_text"): "the kernel's word on the CPU",
    ("engines/free_memory.py", ".read_text"): "the kernel's word on memory",
    ("engines/free_memory.py", "path.read_text"): "the kernel's word on memory",
    ("engines/threads.py", ".read_text"): "the kernel's word on the CPU",
    ("engines/threads.py", "place.read_text"): "the kernel's word on control groups",
    ("demo/__init__.py", ".read_text"): "a file of the package",
    ("demo/__init__.py", ".read_bytes"): "a file that it has just written",
    ("training/metrics.py", "_path.open"): "a log of its own, to append to",
    ("training/tensorboard.py", "_path.open"): "a log of its own, to append to",
    ("training/data/everyday.py", ".read_text"): "a file of the package",
    ("demo/__init__.py", "shutil.copytree"): "files of the package",
    ("demo/serving.py", "content.open"): "a file of the site's table",
    ("demo/site.py", "shutil.copyfile"): "files of the package, and exports of its own",
    ("engines/onnx/device.py", "mmap.mmap"): "memory, no file",
    ("verify/sides.py", "AutoModelForCausalLM.from_pretrained"): "the other side of a comparison",
    ("verify/sides.py", "PeftModel.from_pretrained"): "the other side of a comparison",
    ("engines/torch/loading.py", "kind.from_pretrained"): "from a config and mapped weights",
    ("formats/peft/pickled.py", "torch.load"): "of a file that the opener opened",
    ("engines/torch/sequences.py", "np.load"): "bytes in memory",
}
NATIVE = "engines/llama/"  # llama.cpp opens files itself, which open_gguf read before: see docs


def openings(text):
    """What each call that opens a file by its name is called, from a module's source."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = called(node.func)
            owner, dot, tail = name.rpartition(".")
            if (
                (dot and tail in READERS)
                or (tail in ("load", "open") and owner in MODULES)
                or name in ("open", "safe_open", "load_file")
                or (dot and tail == "open" and is_path(node, owner))
            ):
                yield name


def called(function):
    """Names of a call, the last two of them: path.open of self.path.open."""
    if isinstance(function, ast.Attribute):
        inner = function.value
        owner = inner.attr if isinstance(inner, ast.Attribute) else getattr(inner, "id", "")
        return f"{owner}.{function.attr}"
    return getattr(function, "id", "")


def is_path(node, head):
    """Whether `x.open(...)` is that of a path: by its arguments, else by the name of x."""
    modes = [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
    if any(isinstance(mode, str) and MODE.fullmatch(mode) for mode in modes):
        return True
    if {keyword.arg for keyword in node.keywords} & {"mode", "encoding", "buffering", "errors"}:
        return True
    return not node.args and not node.keywords and not OURS.fullmatch(head)


def found_in_source():
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if not name.startswith(NATIVE):
            for call in openings(path.read_text(encoding="utf-8")):
                yield name, call


def test_files_are_opened_where_it_is_allowed_and_nowhere_else():
    found = set(found_in_source())
    unknown = sorted(found - ALLOWED.keys())
    assert not unknown, (
        f"open files by lorakit.files.bounded, or give the reason in this test: {unknown}"
    )
    assert not sorted(ALLOWED.keys() - found), "allowed, and not there any more"


@pytest.mark.parametrize(
    "line",
    [
        "open(path)", "path.open()", 'path.open("rb")', 'self.path.open(encoding="utf-8")',
        "Path(x).read_text()", "(a / b).read_bytes()", "np.load(path)", "np.memmap(path)",
        "json.load(file)", "torch.load(path)", "os.open(path, 0)", "io.open(path)",
        "mmap.mmap(handle, 0)", "AutoModel.from_pretrained(path)", "Tokenizer.from_file(path)",
        "safe_open(path, 'np')", "np.fromfile(path)", "Image.open(path)", "shutil.copyfile(a, b)",
        "with (folder / name).open('r+b') as f: pass", "open(path, 'w')", "gzip.open(path)",
    ],
)  # fmt: skip
def test_every_way_to_open_a_file_is_found(line):
    """The broken variants: a module that opens a file itself would fail the test above."""
    assert list(openings(line)), line


@pytest.mark.parametrize(
    "line", ["self.open()", "context.open()", "self._pool.open()", "Base.open(path)",
             "open_regular(path)", "self._kv.open()", "Tokenizer.open(folder)", "json.loads(text)",
             "sources.open(source.file)"],
)  # fmt: skip
def test_what_is_no_file_is_not(line):
    assert list(openings(line)) == []


# The opener.

READ = """
import sys
from pathlib import Path
import numpy, onnx, tokenizers
from lorakit.base.folder import Base
from lorakit.chat.images import read_images
from lorakit.chat.template import ChatTemplate
from lorakit.cli.references import read_tools
from lorakit.errors import LorakitError
from lorakit.files.bounded import read_text
from lorakit.formats import read_adapter
from lorakit.base.gguf import open_base
from lorakit.runtime.state import read_state
from lorakit.model.conversation import Session
from lorakit.text.tokenizer import Tokenizer
from lorakit.training.data import read_examples, read_templates
from lorakit.training.data import read_tools as declared_tools
from lorakit.verify.prompts import read_ids, read_prompts
from lorakit.verify.sides import recorded

def image(path):
    part = {"type": "image", "path": str(path)}
    read_images([{"role": "user", "content": [part]}])

READERS = {
    "session.json": lambda path: Session.load(None, path),
    "tools.json": read_tools,
    "declared.json": declared_tools,
    "train.jsonl": read_examples,
    "train.csv": read_examples,
    "templates.json": read_templates,
    "prompts.txt": lambda path: read_prompts(None, path),
    "grammar.gbnf": read_text,
    "ids.npz": lambda path: read_ids(str(path)),
    "logits.npz": recorded,
    "image.png": image,
    "chat_template.jinja": lambda path: ChatTemplate.open(path.parent),
    "tokenizer.json": lambda path: Tokenizer.open(path.parent),
    "config.json": lambda path: Base.open(path.parent),
    "adapter.gguf": read_adapter,
    "saved.state": lambda path: read_state(path, {}),
    "model.gguf": open_base,
}
for name, read in READERS.items():
    print(name, end=" ", flush=True)
    path = Path(sys.argv[1]) / name
    make(path)
    try:
        read(path)
        print("was read")
    except LorakitError as error:
        print(error.code)
    path.unlink()
print("all", len(READERS))
"""
HUGE = """
import resource
def make(path):
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    with path.open("wb") as file:
        file.truncate(8 << 40)
"""
PIPE = """
import os
make = os.mkfifo
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and sparse files are Linux's")
@pytest.mark.parametrize("make", [PIPE, HUGE], ids=["a named pipe", "8 TiB of nothing"])
def test_no_reader_waits_for_a_pipe_or_reads_a_huge_file(tmp_path, make):
    """In a process of its own that may have 4 GiB: a hang or the end of it fails the test."""
    command = [sys.executable, "-c", make + READ, str(tmp_path)]
    done = subprocess.run(command, timeout=100, capture_output=True, text=True)
    *lines, last = done.stdout.splitlines()
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert last == f"all {len(lines)}"
    assert not [line for line in lines if "was read" in line]


def test_text_is_bounded_and_utf8(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xc3\xa9")
    assert read_text(path) == "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    with pytest.raises(FormatError, match="larger than 4 bytes"):
        read_text(path, 4)
    path.write_bytes(b"\xff")
    with pytest.raises(FormatError, match="not UTF-8"):
        read_text(path)
    with pytest.raises(SourceError):
        read_text(tmp_path / "none")
    with pytest.raises(SourceError):
        read_text(tmp_path)


def test_a_file_that_grows_while_it_is_read_is_bounded(tmp_path, monkeypatch):
    """Of what the size was before, no more than the limit is read."""
    path, small = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"x" * 10_000)
    small.write_bytes(b"x")
    monkeypatch.setattr(bounded.os, "fstat", lambda handle: small.stat())
    assert read_bounded(path, 1000) is None


# .npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back(tmp_path, save):
    arrays = {
        "ids0": np.arange(5), "logits0": np.ones((3, 4), np.float32), "scalar": np.float64(2),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "empty": np.zeros((0, 7)),
    }  # fmt: skip
    save(tmp_path / "a.npz", **arrays)
    found = read_npz(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def npz(path, content, *, compression=0):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("ids0.npy", content)
    return path


def claiming(shape, data=b"12345678"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<i8", "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + data


@pytest.mark.parametrize(
    "content",
    [claiming((1 << 40,)), claiming((-1,)), claiming((2,)), claiming(()) + b"x", b"", b"\x93NUMPY",
     b"not an array", claiming((1,)).replace(b"<i8", b"|O "), claiming((1 << 70, 0))[:-8] + b"x"],
)  # fmt: skip
def test_arrays_that_are_not_what_they_say(tmp_path, content):
    with pytest.raises(FormatError):
        read_npz(npz(tmp_path / "a.npz", content))


def test_an_archive_that_unpacks_to_much_more_is_refused_before_it_is(tmp_path):
    content = claiming((1 << 24,), b"\0" * (8 << 24))
    path = npz(tmp_path / "a.npz", content, compression=8)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(FormatError, match="unpacks to more"):
        read_npz(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + b"\xff" * 18, b"x" * 1000])
def test_files_that_are_no_archives(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(LorakitError):
        read_npz(tmp_path / "a.npz")
