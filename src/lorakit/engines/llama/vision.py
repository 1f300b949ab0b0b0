"""Vision: a projector file (mmproj) that turns pictures into vectors of the language model.

Through llama.cpp's mtmd library. Decoding of the vectors is the engine's work, so that adapters,
KV reuse and batches are the same with images as without. Any thread may encode; one at a time does.
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

REMEMBERED = 16  # images whose vectors are kept: a chat shows the same ones at each turn
_TEXT, _IMAGE = 0, 1  # mtmd_input_chunk_type
_MARKER = b"<__media__>"


class Vision:
    """A projector beside a native model, which must outlive it: close this first."""

    def __init__(self, model: Any, path: Path, *, threads: int) -> None:
        """Raises SourceError (no such file), FormatError (broken, or no projector), EngineError
        (llama.cpp does not take it, or it is for another model; its log as items) and
        CapabilityError (no images, or positions that the engine cannot give)."""
        check_projector(path)
        self._api = api = mtmd()
        params = api.mtmd_context_params_default()
        params.use_gpu, params.warmup, params.print_timings = False, False, False
        params.n_threads, params.media_marker = threads, _MARKER
        with captured_log() as said:
            self._context = api.mtmd_init_from_file(os.fsencode(path), model, params)
        if not self._context:
            raise EngineError(
                f"llama.cpp cannot use {path} with this model",
                items=said.reasons,
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
        """What a picture file puts into a prompt, with the text tokens that belong around it.

        Raises UnsupportedError and FormatError for what is not a picture that can be read,
        EngineError for a native failure, ClosedError.
        """
        key = hashlib.sha256(content).digest()
        with self._lock:
            self._require_open()
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
            check_picture(content)
            with captured_log() as said:
                image = self._encode(content, said)
            self._known[key] = image
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return image

    def close(self) -> None:
        """Free the projector, after a picture that is being encoded. Twice does no harm."""
        with self._lock:
            if self._context:
                self._api.mtmd_free(self._context)
                self._context = None
                self._known.clear()

    def _encode(self, content: bytes, said: Any) -> Image:
        ids: list[int] = []
        images: dict[int, Vectors] = {}
        with self._bitmap(content, said) as bitmap, self._chunks(bitmap, said) as chunks:
            for index in range(self._api.mtmd_input_chunks_size(chunks)):
                chunk = self._api.mtmd_input_chunks_get(chunks, index)
                if self._api.mtmd_input_chunk_get_type(chunk) == _TEXT:
                    ids += self._text(chunk)
                    continue
                vectors = self._vectors(chunk, said)
                digest = digest_of(vectors)
                images[digest] = vectors
                ids += pseudo_ids(digest, len(vectors))
        return Image(tuple(ids), images)

    @contextmanager
    def _bitmap(self, content: bytes, said: Any) -> Iterator[Any]:
        """The pixels. What is no picture would be handed to ffmpeg; there is none in os.devnull."""
        options = self._api.mtmd_helper_init_opt_default()
        options.video_params.ffmpeg_bin_dir = os.devnull.encode()
        buffer = (ctypes.c_uint8 * len(content)).from_buffer_copy(content)
        found = self._api.mtmd_helper_bitmap_init_from_buf_wrapper(
            self._context, buffer, len(content), False, options
        )
        if not found.bitmap or found.video_ctx:
            raise FormatError(
                "the image file is broken",
                items=[line for line in said.reasons if "ff" not in line and "video" not in line],
            )
        try:
            yield found.bitmap
        finally:
            self._api.mtmd_bitmap_free(found.bitmap)

    @contextmanager
    def _chunks(self, bitmap: Any, said: Any) -> Iterator[Any]:
        """The image as the model's family has it: text, one image or its tiles, text."""
        text = self._api.mtmd_input_text(_MARKER, len(_MARKER), False, True)
        bitmaps = (ctypes.c_void_p * 1)(bitmap)
        chunks = self._api.mtmd_input_chunks_init()
        try:
            code = self._api.mtmd_tokenize(self._context, chunks, ctypes.byref(text), bitmaps, 1)
            if code:
                raise EngineError("llama.cpp cannot prepare the image", items=said.reasons)
            yield chunks
        finally:
            self._api.mtmd_input_chunks_free(chunks)

    def _text(self, chunk: Any) -> list[int]:
        count = ctypes.c_size_t()
        tokens = self._api.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
        return [int(tokens[at]) for at in range(count.value)]

    def _vectors(self, chunk: Any, said: Any) -> Vectors:
        count = int(self._api.mtmd_input_chunk_get_n_tokens(chunk))
        positions = int(self._api.mtmd_input_chunk_get_n_pos(chunk))
        if self._api.mtmd_input_chunk_get_type(chunk) != _IMAGE or positions != count:
            raise UnsupportedError("the model sees in this file what is not a plain image")
        if self._api.mtmd_encode_chunk(self._context, chunk):
            raise EngineError("llama.cpp cannot encode the image", items=said.reasons)
        found = self._api.mtmd_get_output_embd(self._context)
        vectors: Vectors = np.ctypeslib.as_array(found, (count, self.width)).astype(np.float32)
        vectors.flags.writeable = False
        return vectors

    def _require_open(self) -> None:
        if not self._context:
            raise ClosedError("the engine is closed")


def check_projector(path: Path) -> None:
    """Refuse a file that is no projector before native code sees it.

    Raises SourceError, FormatError.
    """
    if not path.is_file():
        raise SourceError(f"there is no projector file {path}")
    if not is_gguf(path):
        raise FormatError(f"{path} is not a GGUF file")
    try:
        values = open_gguf(path).values
    except UnsupportedError:
        return  # quantised in a way that only llama.cpp reads; it bounds its own reads
    architecture = values.get("general.architecture")
    if architecture is None or architecture.data != "clip":
        found = architecture.data if architecture else "nothing"
        raise FormatError(
            f"{path} is not a projector: its architecture is {found!r}, not 'clip'",
            hint="give the mmproj file that belongs to the model",
        )
