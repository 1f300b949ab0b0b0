"""Pages of mapped files, given back when they were read, so that a stream's memory stays small."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from lorakit.adapter import Array


def release(array: Array) -> None:
    """Give back the memory of an array's bytes, where they are a mapped file's.

    They can be read again, from the file. Does nothing for other arrays, for a view that counts
    backwards, and where the system has no way to.
    """
    holder: Any = array
    while isinstance(holder, np.ndarray):
        holder = holder.base
    if not isinstance(holder, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    if not array.size or min(array.strides, default=0) < 0:
        return
    begin = array.ctypes.data - np.frombuffer(holder, np.uint8).ctypes.data
    steps = zip(array.shape, array.strides, strict=True)
    end = begin + sum((count - 1) * stride for count, stride in steps) + array.itemsize
    first = begin - begin % mmap.PAGESIZE
    holder.madvise(mmap.MADV_DONTNEED, first, end - first)
