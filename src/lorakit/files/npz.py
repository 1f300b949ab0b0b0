"""NumPy's .npz files, read without trusting them: token ids and recorded logits.

A file that unpacks to much more than its own size is refused, and so is an array whose shape is not
that of its bytes, before memory is asked for. Objects are never read.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lorakit.errors import FormatError, SourceError
from lorakit.files.bounded import MAX_READ, open_regular

MAX_ARRAYS = 10_000
RATIO = 32  # of what an archive unpacks to; logits hardly compress
_FAULTS = (ValueError, TypeError, EOFError, KeyError, RuntimeError, NotImplementedError,
           OverflowError, zipfile.BadZipFile, zlib.error, struct.error)  # fmt: skip
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file by name, read-only. Raises SourceError and FormatError."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            allowed = MAX_READ + RATIO * os.fstat(file.fileno()).st_size
            if len(members) > MAX_ARRAYS or sum(each.file_size for each in members) > allowed:
                raise ValueError("it unpacks to more than such a file holds")
            return {m.filename.removesuffix(".npy"): _array(archive.read(m)) for m in members}
    except FileNotFoundError as error:
        raise SourceError(f"there is no file {path}") from error
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except _FAULTS as error:
        raise FormatError(f"{path} is not a readable .npz file: {error}") from error


def _array(content: bytes) -> npt.NDArray[Any]:
    """An array from the bytes of a .npy file (numpy.lib.format). Raises ValueError."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"an array of the version {version}")
    shape, fortran, dtype = _HEADERS[version](file)
    data = memoryview(content)[file.tell() :]
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of {dtype} {list(shape)} in {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
