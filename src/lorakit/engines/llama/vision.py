"""Vision: a projector file (mmproj) that encodes images as vectors of the language model.

It uses llama.cpp's mtmd library. The engine decodes the vectors, so adapters, KV reuse and batches
work with images as without. Any thread may encode; a lock admits one at a time.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.engines.llama.native import captured_log, llama, mtmd
from lorakit.errors import (
    CapabilityError,
    ClosedError,
    EngineError,
    FormatError,
    SourceError,
    UnsupportedError,
)
from lorakit.files.gguf import is_gguf, open_gguf
from lorakit.text.image_ids import Image, Vectors, check_picture, digest_of, pseudo_ids

REMEMBERED = 16  # encoded images to keep: a chat repeats its images at each turn
_TEXT, _IMAGE = 0, 1  # mtmd_input_chunk_type
_MARKER = b"<__media__>"


class Vision:
    """A projector beside a native model, which must outlive it: close this first."""

    def __init__(self, model: Any, path: Path, *, threads: int) -> None:
        """Raises SourceError (no such file), FormatError (broken, or not a projector), EngineError
        (llama.cpp cannot use it with this model; its log as items) and CapabilityError (not for
        images, or for unsupported positions)."""
        check_projector(path)
        self._api = api = mtmd()
        params = api.mtmd_context_params_default()
        params.use_gpu, params.warmup, params.print_timings = False, False, False
        params.n_threads, params.media_marker = threads, _MARKER
        with captured_log() as native_log:
            self._context = api.mtmd_init_from_file(os.fsencode(path), model, params)
        if not self._context:
            raise EngineError(
                f"llama.cpp cannot use {path} with this model",
                items=native_log.reasons,
                hint="use the mmproj file that belongs to the model",
            )
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, Image] = OrderedDict()
        self.width = int(llama().llama_model_n_embd_inp(model))
        self.causal = not api.mtmd_decode_use_non_causal(self._context, None)
        if api.mtmd_decode_use_mrope(self._context) or not api.mtmd_support_vision(self._context):
            mrope = api.mtmd_support_vision(self._context)
            self.close()
            raise CapabilityError(
                "this model gives images positions in two dimensions (M-RoPE), which is not "
                "supported"
                if mrope
                else f"{path} is a projector for sound, not for images"
            )

    def encode(self, content: bytes) -> Image:
        """An image file as part of a prompt, with the text tokens that belong around it.

        Raises UnsupportedError and FormatError if it is not a readable image, EngineError for a
        native failure, ClosedError.
        """
        key = hashlib.sha256(content).digest()
        with self._lock:
            self._require_open()
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
            check_picture(content)
            with captured_log() as native_log:
                image = self._encode(content, native_log)
            self._known[key] = image
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return image

    def close(self) -> None:
        """Free the projector, once a running `encode` has ended. Idempotent."""
        with self._lock:
            if self._context:
                self._api.mtmd_free(self._context)
                self._context = None
                self._known.clear()

    def _encode(self, content: bytes, native_log: Any) -> Image:
        ids: list[int] = []
        images: dict[int, Vectors] = {}
        with (
            self._bitmap(content, native_log) as bitmap,
            self._chunks(bitmap, native_log) as chunks,
        ):
            for index in range(self._api.mtmd_input_chunks_size(chunks)):
                chunk = self._api.mtmd_input_chunks_get(chunks, index)
                if self._api.mtmd_input_chunk_get_type(chunk) == _TEXT:
                    ids += self._text(chunk)
                    continue
                vectors = self._vectors(chunk, native_log)
                digest = digest_of(vectors)
                images[digest] = vectors
                ids += pseudo_ids(digest, len(vectors))
        return Image(tuple(ids), images)

    @contextmanager
    def _bitmap(self, content: bytes, native_log: Any) -> Iterator[Any]:
        """The pixels. mtmd hands other files to ffmpeg; a folder without one prevents that."""
        options = self._api.mtmd_helper_init_opt_default()
        options.ffmpeg_bin_dir = os.devnull.encode()
        buffer = (ctypes.c_uint8 * len(content)).from_buffer_copy(content)
        found = self._api.mtmd_helper_bitmap_init_from_buf(
            self._context, buffer, len(content), False, options
        )
        if not found.bitmap or found.video_ctx:
            raise FormatError(
                "the image file is broken",
                items=[
                    line for line in native_log.reasons if "ff" not in line and "video" not in line
                ],
            )
        try:
            yield found.bitmap
        finally:
            self._api.mtmd_bitmap_free(found.bitmap)

    @contextmanager
    def _chunks(self, bitmap: Any, native_log: Any) -> Iterator[Any]:
        """The image as the model expects it: text, one image or its tiles, text."""
        text = self._api.mtmd_input_text(_MARKER, len(_MARKER), False, True)
        bitmaps = (ctypes.c_void_p * 1)(bitmap)
        chunks = self._api.mtmd_input_chunks_init()
        try:
            code = self._api.mtmd_tokenize(self._context, chunks, ctypes.byref(text), bitmaps, 1)
            if code:
                raise EngineError("llama.cpp cannot prepare the image", items=native_log.reasons)
            yield chunks
        finally:
            self._api.mtmd_input_chunks_free(chunks)

    def _text(self, chunk: Any) -> list[int]:
        count = ctypes.c_size_t()
        tokens = self._api.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
        return [int(tokens[at]) for at in range(count.value)]

    def _vectors(self, chunk: Any, native_log: Any) -> Vectors:
        count = int(self._api.mtmd_input_chunk_get_n_tokens(chunk))
        positions = int(self._api.mtmd_input_chunk_get_n_pos(chunk))
        if self._api.mtmd_input_chunk_get_type(chunk) != _IMAGE or positions != count:
            raise UnsupportedError("the projector does not treat this file as a plain image")
        if self._api.mtmd_encode_chunk(self._context, chunk):
            raise EngineError("llama.cpp cannot encode the image", items=native_log.reasons)
        found = self._api.mtmd_get_output_embd(self._context)
        vectors: Vectors = np.ctypeslib.as_array(found, (count, self.width)).astype(np.float32)
        vectors.flags.writeable = False
        return vectors

    def _require_open(self) -> None:
        if not self._context:
            raise ClosedError("the engine is closed")


def check_projector(path: Path) -> None:
    """Refuse a file that is not a projector before native code reads it.

    Raises SourceError, FormatError.
    """
    if not path.is_file():
        raise SourceError(f"there is no projector file {path}")
    if not is_gguf(path):
        raise FormatError(f"{path} is not a GGUF file")
    try:
        values = open_gguf(path).values
    except UnsupportedError:
        return  # tensor types that only llama.cpp reads; it bounds its own reads
    architecture = values.get("general.architecture")
    if architecture is None or architecture.data != "clip":
        found = architecture.data if architecture else "nothing"
        raise FormatError(
            f"{path} is not a projector: its architecture is {found!r}, not 'clip'",
            hint="give the mmproj file that belongs to the model",
        )
