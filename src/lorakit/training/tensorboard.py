"""A run as TensorBoard reads it: a file of scalar events, written without TensorBoard.

The file is a series of records: length, checksum, a protobuf message `Event`, checksum
(tensorflow/core/lib/io/record_writer.h and tensorflow/core/util/event.proto of TensorFlow). Only
what a scalar needs of it is here, so that nothing has to be installed where the training runs.
"""

from __future__ import annotations

import os
import platform
import struct
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from lorakit.errors import WriteError
from lorakit.training.events import Evaluated, Started, Stepped, TrainEvent
from lorakit.training.verdict import headline

VERSION = "brain.Event:2"  # what a file begins with


class TensorBoardLog:
    """Given every event of a run as its `progress`; writes loss, rate, speed and evaluation.

    The file is made as the run starts. Raises WriteError where the folder cannot be written, and
    does so when it is made, before anything long begins.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"events.out.tfevents.{time.time():.0f}.{_host()}.{os.getpid()}"
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        try:
            self._append(b"")
        finally:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
                for place in made:
                    place.rmdir()

    def __call__(self, event: TrainEvent) -> None:
        if isinstance(event, Started):
            self._append(record(_double(1, time.time()) + _bytes(3, VERSION.encode())))
        elif isinstance(event, Stepped):
            self._write(
                event.step,
                {
                    "train/loss": event.loss,
                    "train/rate": event.rate,
                    "train/tokens_per_second": event.tokens_per_second,
                },
            )
        elif isinstance(event, Evaluated):
            main = headline(event.evaluation)
            self._write(event.step, {f"eval/{main.name.replace(' ', '_')}": main.value})

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        self._append(scalar_event(time.time(), step, scalars))

    def _append(self, content: bytes) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(content)
        except OSError as error:
            raise WriteError(f"cannot write {self._path}: {error.strerror or error}") from error


def scalar_event(when: float, step: int, scalars: dict[str, float]) -> bytes:
    """One record with the values of a step. when: seconds since 1970."""
    values = b"".join(
        _bytes(1, _bytes(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
        for tag, value in scalars.items()
    )
    return record(_double(1, when) + b"\x10" + _varint(step) + _bytes(5, values))


def record(message: bytes) -> bytes:
    """A message with its length and both checksums."""
    length = struct.pack("<Q", len(message))
    return b"".join((length, _masked(length), message, _masked(message)))


def _masked(content: bytes) -> bytes:
    """CRC-32C, rotated and shifted, so that a checksum of checksums differs from them."""
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(content: bytes) -> int:
    """The checksum of RFC 3720, appendix B.4."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in content:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        return value

    return tuple(map(entry, range(256)))


# Fields of protobuf messages: the number of a field, how it is stored, its value.


def _double(number: int, value: float) -> bytes:
    return bytes([number << 3 | 1]) + struct.pack("<d", value)


def _bytes(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _host() -> str:
    return platform.node() or "localhost"
