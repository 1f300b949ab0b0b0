"""Structs of another layout than known are refused, whatever the difference; ours are found."""

import ctypes
import re
from pathlib import Path

import pytest

from llama_library import need_llama
from lorakit.engines.llama.binding import layout
from lorakit.engines.llama.binding.functions import FOUND, LLAMA, MTMD, OPTIONAL
from lorakit.engines.llama.binding.library import (
    MOST_SEQUENCES,
    Library,
    bind_llama,
    bind_mtmd,
)
from lorakit.engines.llama.binding.structs import struct
from lorakit.engines.llama.native import chosen
from lorakit.errors import EngineError

NUMBERS = (ctypes.c_int32, ctypes.c_uint32, ctypes.c_int64, ctypes.c_size_t, ctypes.c_float,
           ctypes.c_bool)  # fmt: skip
LAYOUTS = [(name, known) for name, (_, every, _) in FOUND.items() for known in every]
IDS = [f"{name}, {known.builds}" for name, known in LAYOUTS]
NEW = ("new", ctypes.c_size_t, 0)


def fields_of(known):
    """Names, kinds and defaults, with pointers as numbers."""
    return [
        (name, kind if kind in NUMBERS else ctypes.c_size_t, known.defaults.get(name, 0) or 0)
        for name, kind in known.type._fields_
    ]


def packed(fields) -> bytes:
    """As a compiled function writes it: up to the end of the last field."""
    kind = struct("written", [(name, kind) for name, kind, _ in fields])
    content = bytes(kind(**{name: value for name, _, value in fields}))
    return content[: layout.end_of_fields(kind)] if fields else b""


def exchanged(fields):
    """The first two fields of one size whose defaults differ, in each other's place."""
    at, other = next(
        (i, j)
        for i, (_, kind, value) in enumerate(fields)
        for j, (_, second, found) in enumerate(fields[:i])
        if ctypes.sizeof(kind) == ctypes.sizeof(second) and value != found
    )
    found = list(fields)
    found[at], found[other] = fields[other], fields[at]
    return found


def another(fields):
    """The last default that is not 0, by one more."""
    at = max(i for i, (_, _, value) in enumerate(fields) if value)
    name, kind, value = fields[at]
    changed = (name, ctypes.c_ubyte if kind is ctypes.c_bool else kind, value + 1)
    return [*fields[:at], changed, *fields[at + 1 :]]


LONGER = {
    "one more at the end": lambda fields: [*fields, NEW],
    "one less": lambda fields: fields[:-1],
    "many more": lambda fields: [*fields, *((f"new{i}", ctypes.c_size_t, 7) for i in range(64))],
    "none": lambda fields: [],
}
OTHERS = {
    "one more at the beginning": lambda fields: [NEW, *fields],
    "two exchanged": exchanged,
    "another default": another,
}


class Writing:
    """A native function for defaults: it writes these bytes where its result belongs."""

    def __init__(self, written: bytes) -> None:
        self.written = written
        kind = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
        self.function = kind(lambda place: ctypes.memmove(place, written, len(written)))

    def find(self, name, known, exact, monkeypatch):
        content = self.written.ljust(layout.ROOM, b"\0")
        monkeypatch.setattr(layout, "_returned", lambda *_: content)
        return layout.find_layout(name, self.function, known, exact=exact)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("name", "known"), LAYOUTS, ids=IDS)
def test_each_layout_is_found(name, known, exact, monkeypatch):
    found = Writing(packed(fields_of(known))).find(name, FOUND[name][1], exact, monkeypatch)
    assert found._fields_[: len(known.type._fields_)] == known.type._fields_
    assert (ctypes.sizeof(found) == ctypes.sizeof(known.type)) is exact


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize(("name", "known"), LAYOUTS, ids=IDS)
def test_another_layout_is_refused(name, known, change, exact, monkeypatch):
    written = packed(change(fields_of(known)))
    with pytest.raises(EngineError, match="another layout") as caught:
        Writing(written).find(name, [known], exact, monkeypatch)
    (item,) = caught.value.items
    assert "expected" in item
    assert "found" in item
    assert caught.value.code == "engine_failed"


@pytest.mark.parametrize("change", LONGER.values(), ids=LONGER)
@pytest.mark.parametrize(("name", "known"), LAYOUTS, ids=IDS)
def test_another_length_is_refused_where_it_can_be_seen(name, known, change, monkeypatch):
    written = packed(change(fields_of(known)))
    with pytest.raises(EngineError, match="another layout"):
        Writing(written).find(name, FOUND[name][1], True, monkeypatch)


def test_where_the_length_is_not_seen_a_new_field_comes_back_as_it_was(monkeypatch):
    (known,) = FOUND["llama_model_params"][1]
    longer = packed([*fields_of(known), ("new", ctypes.c_size_t, 7)])
    kind = Writing(longer).find("llama_model_params", [known], False, monkeypatch)
    assert bytes(kind.from_buffer_copy(longer.ljust(512, b"\0")))[: len(longer)] == longer


@pytest.fixture(scope="module")
def library():
    need_llama()
    return chosen().library


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("exact", [True, False])
def test_the_library_at_hand_has_a_known_one(library, name, exact):
    maker, layouts, arguments = FOUND[name]
    function = library.function(maker)
    if exact and not layout.PASSES_ADDRESS:
        return  # that would write to wherever a register points
    assert layout.find_layout(name, function, layouts, arguments, exact=exact)


def test_its_defaults_are_read_where_they_are(library):
    api = bind_llama(library)
    context, model = api.llama_context_default_params(), api.llama_model_default_params()
    assert (context.n_ctx, context.n_batch, context.type_k) == (512, 2048, 1)
    assert (context.offload_kqv, context.kv_unified, context.ctx_other) == (True, False, None)
    assert (model.n_gpu_layers, model.use_extra_bufts, model.vocab_only) == (-1, True, False)
    assert bind_mtmd(library).mtmd_helper_init_opt_default().timestamp_interval_ms == 5000


class Lacking(Library):
    """The library without some of its functions."""

    def __init__(self, library, *names):
        self.__dict__.update(library.__dict__)
        self._names = names

    def function(self, name):
        return None if name in self._names else super().function(name)


@pytest.mark.parametrize(
    ("bind", "names"),
    [(bind_llama, ["llama_decode", "ggml_quantize_chunk"]), (bind_mtmd, ["mtmd_tokenize"]),
     (bind_llama, [*LLAMA]), (bind_mtmd, [*MTMD])],
    ids=["two", "one", "all of llama", "all of mtmd"],
)  # fmt: skip
def test_functions_that_are_missing_are_named(library, bind, names):
    with pytest.raises(EngineError, match="lacks functions") as caught:
        bind(Lacking(library, *names))
    assert sorted(caught.value.items) == sorted(names)
    assert "lorakit[llama]" in caught.value.hint


def test_the_limit_on_sequences_is_known_without_its_function(library):
    without = bind_llama(Lacking(library, "llama_max_parallel_sequences"))
    assert without.llama_max_parallel_sequences() == MOST_SEQUENCES
    assert bind_llama(library).llama_max_parallel_sequences() == MOST_SEQUENCES


def test_nothing_is_bound_that_nobody_calls():
    root = Path(__file__).parents[2]
    files = [path for place in ("src", "tests", "bench") for path in (root / place).rglob("*.py")]
    text = "".join(path.read_text("utf-8") for path in files if path.parent.name != "binding")
    called = set(re.findall(r"\b(?:api|_api|low|llama\(\)|mtmd\(\))\.(\w+)", text))
    assert {*LLAMA, *MTMD, *OPTIONAL} - called == set()
