"""Which layout of a struct a library has: seen from what its functions for defaults return.

A struct that is larger than its declaration would be written over other memory. So the function
gets ROOM bytes, far more than any struct of llama.cpp. What it returned must have the known values
in every field. Where the address of a returned struct is passed as an argument before the others,
as on x86-64, its length is checked too, to the byte: all of two different fillings that is
overwritten. On arm64 the address is in a register that ctypes sets for structs alone, and what was
there before is unknown, so there the values alone tell. A longer struct would not be noticed; so
bytes to spare are kept behind, which hold what the library writes there and give it back.

It cannot see the signatures of functions; versions.py says for which builds they were compared.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Sequence
from typing import Any

from lorakit.engines.llama.binding.structs import Layout, struct
from lorakit.errors import EngineError

ROOM = 4096
SPARE = 256
FILLINGS = (0xA5, 0x5A)
PASSES_ADDRESS = platform.machine().lower() in ("x86_64", "amd64")  # System V's ABI and Windows's

_SIGNED = (ctypes.c_int32, ctypes.c_int64)
_Room = struct("room", [("bytes", ctypes.c_ubyte * ROOM)])


def find_layout(
    name: str,
    function: Any,
    layouts: Sequence[Layout],
    arguments: Sequence[Any] = (),
    *,
    exact: bool = PASSES_ADDRESS,
) -> Any:
    """The struct that a native function returns by value.

    function: of ctypes, to be called with `arguments`. exact: check the length too. Raises
    EngineError, with what was expected and found, if it is none of `layouts`.
    """
    content, end = (
        _written(function, arguments) if exact else (_returned(function, arguments), None)
    )
    reasons = []
    for layout in layouts:
        wrong = _differences(layout, content, end)
        if not wrong:
            return layout.type if exact else _with_spare(layout.type)
        reasons.append(f"{name} as in {layout.builds}: {'; '.join(wrong[:4])}")
    raise EngineError("this build of llama.cpp has another layout of a struct", items=reasons)


def _with_spare(kind: Any) -> Any:
    """The struct with room for more fields; passed by value, what is behind it does no harm."""
    return struct(kind.__name__, [*kind._fields_, ("spare", ctypes.c_ubyte * SPARE)])


def _written(function: Any, arguments: Sequence[Any]) -> tuple[bytes, int]:
    """What it writes to the address of its result, and up to where."""
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, *(type(argument) for argument in arguments)]
    found = []
    for filling in FILLINGS:
        room = ctypes.create_string_buffer(bytes([filling]) * ROOM, ROOM)
        function(ctypes.addressof(room), *arguments)
        found.append(room.raw)
    one, two = found
    end = max((at + 1 for at in range(ROOM) if one[at] == two[at]), default=0)
    return one, end


def _returned(function: Any, arguments: Sequence[Any]) -> bytes:
    function.restype = _Room
    function.argtypes = [type(argument) for argument in arguments]
    return bytes(function(*arguments))


def _differences(layout: Layout, content: bytes, end: int | None) -> list[str]:
    size, least = ctypes.sizeof(layout.type), end_of_fields(layout.type)
    wrong = []
    if end is not None and not least <= end <= size:
        wrong.append(f"expected {least} to {size} bytes, found {end}")
    for name, kind in layout.type._fields_:
        expected = layout.defaults.get(name, 0)
        found = _plain(kind, content, getattr(layout.type, name).offset)
        if expected is not None and found != expected:
            wrong.append(f"{name}: expected {expected}, found {found}")
    return wrong


def _plain(kind: Any, content: bytes, offset: int) -> float:
    """A number as it is, a bool as its byte, a pointer as its address: none is followed."""
    if kind is ctypes.c_float:
        return float(kind.from_buffer_copy(content, offset).value)
    part = content[offset : offset + ctypes.sizeof(kind)]
    return int.from_bytes(part, sys.byteorder, signed=kind in _SIGNED)


def end_of_fields(kind: Any) -> int:
    name, last = kind._fields_[-1]
    return int(getattr(kind, name).offset) + ctypes.sizeof(last)
