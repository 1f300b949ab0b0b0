"""Images among a conversation's content parts: found, read, and put where the template has them.

A part is an image if it is one of
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}    as OpenAI has it
    {"type": "image", "path": "photo.jpg"}    or "bytes": b"...", or "url": "data:..."
Nothing is fetched from the network. The template sees a marker in an image's place, as text; where
the marker comes out, the text around it is tokenized apart and the image's own ids go between.
What a model's family writes around an image (<start_of_image>, <|vision_start|>) is part of these.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorakit.chat.messages import Message
from lorakit.chat.template import ChatTemplate
from lorakit.errors import LorakitError, ParameterError, SourceError
from lorakit.files.bounded import read_bounded
from lorakit.text.image_ids import MAX_BYTES, Image, Vectors

Encode = Callable[[bytes], Image]  # LlamaEngine.encode_image
Tokenize = Callable[[str], list[int]]
TYPES = ("image", "image_url")
_DATA_URL = re.compile(r"data:image/[\w.+-]+(?:;[\w.+=-]+)*;base64,", re.ASCII | re.IGNORECASE)
_SOURCES = ("path", "bytes", "url")


def has_images(messages: Sequence[Message]) -> bool:
    """Whether any message has an image part."""
    return any(_is_image(part) for message in messages for part in _parts(message))


def illustrated_prompt(
    template: ChatTemplate,
    tokenize: Tokenize,
    encode: Encode,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    paths: bool = True,
    render: Callable[[Sequence[Message]], str] | None = None,
    **variables: Any,
) -> tuple[list[int], dict[int, Vectors]]:
    """Token ids of a conversation with images, and the vectors that their negative ids name.

    tokenize: text to ids, control tokens as such, none added. paths: whether parts may name files
    of this machine; a server says no. render: in place of the template's own.
    Raises ParameterError with every image that cannot be read or that the template leaves out, and
    what `template.render` and `encode` raise.
    """
    contents = read_images(messages, paths=paths)
    nonce = secrets.token_hex(8)
    marker = f"[image {nonce} {{}}]"
    marked = _marked(messages, marker, joined=not takes_parts(template))
    text = render(marked) if render else template.render(marked, tools, **variables)
    pieces = re.split(rf"\[image {nonce} (\d+)\]", text)
    missing = set(range(len(contents))) - {int(index) for index in pieces[1::2]}
    if missing:
        raise ParameterError(
            "the model's chat template leaves out images",
            items=[f"image {index + 1} of the conversation" for index in sorted(missing)],
            hint="put images into messages of the user",
        )
    ids: list[int] = []
    vectors: dict[int, Vectors] = {}
    encoded = [_encoded(encode, content, where) for where, content in contents]
    for at, piece in enumerate(pieces):
        if at % 2:
            image = encoded[int(piece)]
            ids += image.ids
            vectors.update(image.images)
        elif piece:
            ids += tokenize(piece)
    return ids, vectors


def read_images(messages: Sequence[Message], *, paths: bool = True) -> list[tuple[str, bytes]]:
    """Where each image part stands, and the content of its file, in order.

    Raises ParameterError with every part that cannot be read.
    """
    found: list[tuple[str, bytes]] = []
    faults: list[str] = []
    for i, message in enumerate(messages):
        for k, part in enumerate(_parts(message)):
            if _is_image(part):
                where = f"messages[{i}].content[{k}]"
                try:
                    found.append((where, _read(part, paths)))
                except ValueError as error:
                    faults.append(f"{where}: {error}")
    if faults:
        raise ParameterError("the images of the messages cannot be read", items=faults)
    return found


def takes_parts(template: ChatTemplate) -> bool:
    """Whether a template writes a list of text parts as it writes the same text alone."""
    probe = f"probe{secrets.token_hex(8)}"
    try:
        parts = template.render([{"role": "user", "content": [{"type": "text", "text": probe}]}])
        return parts == template.render([{"role": "user", "content": probe}])
    except LorakitError:
        return False


def _read(part: Mapping[str, Any], paths: bool) -> bytes:
    """The content of an image part. Raises ValueError saying why there is none."""
    source = part.get("image_url") if part["type"] == "image_url" else part
    if isinstance(source, str):
        source = {"url": source}
    if not isinstance(source, Mapping):
        raise ValueError("expected image_url to be an object with a url")
    given = [name for name in _SOURCES if source.get(name) is not None]
    if len(given) != 1:
        raise ValueError(f"expected exactly one of path, bytes and url, found {given or 'none'}")
    value = source[given[0]]
    if given[0] == "bytes":
        if not isinstance(value, bytes | bytearray | memoryview):
            raise ValueError(f"expected bytes, found {type(value).__name__}")
        return bytes(value)
    if given[0] == "url":
        return _from_url(value)
    if not paths:
        raise ValueError("a path on this machine is not allowed here; give a data URL")
    return _from_path(value)


def _from_url(url: object) -> bytes:
    if not isinstance(url, str):
        raise ValueError(f"expected a url as text, found {type(url).__name__}")
    head = _DATA_URL.match(url)
    if head is None:
        raise ValueError(
            f"only data URLs are read, data:image/...;base64,..., found {url[:40]!r}; "
            "nothing is fetched from the network"
        )
    if len(url) > MAX_BYTES * 4 // 3 + 256:
        raise ValueError(f"an image of more than {MAX_BYTES} bytes")
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the data URL is not valid base64: {error}") from error


def _from_path(path: object) -> bytes:
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"expected a path, found {type(path).__name__}")
    file = Path(path).expanduser()
    try:
        if not file.is_file():
            raise ValueError(f"there is no file {file}")
        content = read_bounded(file, MAX_BYTES)
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror or error}") from error
    except SourceError as error:
        raise ValueError(error.message) from error
    if content is None:
        raise ValueError(f"{file} has more than {MAX_BYTES} bytes")
    return content


def _encoded(encode: Encode, content: bytes, where: str) -> Image:
    """The image; a file that is no picture is named by its place in the messages."""
    try:
        return encode(content)
    except LorakitError as error:
        error.items = (*error.items, f"the image of {where}")
        raise


def _marked(messages: Sequence[Message], marker: str, *, joined: bool) -> list[dict[str, Any]]:
    """The messages with a text in the place of each image.

    joined: content as one text, for templates that take no parts.
    """
    count = 0
    marked = []
    for message in messages:
        plain = dict(message)
        parts = []
        for part in _parts(message):
            if _is_image(part):
                part = {"type": "text", "text": marker.format(count)}
                count += 1
            parts.append(part)
        if any(_is_image(part) for part in _parts(message)):
            text = joined and all(isinstance(part.get("text"), str) for part in parts)
            plain["content"] = "".join(part["text"] for part in parts) if text else parts
        marked.append(plain)
    return marked


def _parts(message: Message) -> Sequence[Any]:
    content = message.get("content") if isinstance(message, Mapping) else None
    return content if isinstance(content, list | tuple) else ()


def _is_image(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") in TYPES
