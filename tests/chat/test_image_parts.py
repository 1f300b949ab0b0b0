"""Image parts of conversations: read from where they may be, put where the template has them."""

import base64

import numpy as np
import pytest

from lorakit.chat.images import has_images, illustrated_prompt, read_images, takes_parts
from lorakit.chat.template import ChatTemplate
from lorakit.errors import FormatError, ParameterError
from lorakit.text.image_ids import Image

GEMMA = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content | trim }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'image' %}<start_of_image>{% else %}{{ p.text | trim }}{% endif %}"
    "{% endfor %}{% endif %}</turn>\n{% endfor %}{% if add_generation_prompt %}<turn>model\n"
    "{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def template(source):
    return ChatTemplate(sources={"default": source}, special_tokens={"bos_token": "<bos>"})


def encode(content):
    digest = content[0]
    return Image((900, -digest, 901), {digest: np.full((1, 4), digest, np.float32)})


def tokenize(text):
    return [ord(character) for character in text]


def shown(source, content):
    ids, vectors = illustrated_prompt(
        template(source), tokenize, encode, [{"role": "user", "content": content}]
    )
    text = "".join(chr(token) if 0 <= token < 900 else f"({token})" for token in ids)
    return text, sorted(vectors)


def text(words):
    return {"type": "text", "text": words}


def url(content, kind="png"):
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def test_images_stand_where_a_template_with_parts_has_them():
    parts = [text("What is "), {"type": "image", "bytes": b"\x07"}, text(" this? [image 0]")]
    assert takes_parts(template(GEMMA))
    assert shown(GEMMA, parts) == (
        "<bos><turn>user\nWhat is(900)(-7)(901)this? [image 0]</turn>\n<turn>model\n",
        [7],
    )


def test_a_template_that_takes_only_text_is_given_text():
    parts = [text("What is "), {"type": "image", "bytes": b"\x07"}, text("?")]
    assert not takes_parts(template(PLAIN))
    assert shown(PLAIN, parts) == ("user: What is (900)(-7)(901)?\n", [7])


def test_a_path_bytes_and_data_urls_are_read(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x01one")
    parts = [
        {"type": "image", "path": tmp_path / "a.png"},
        {"type": "image", "path": str(tmp_path / "a.png")},
        {"type": "image", "bytes": bytearray(b"\x02")},
        {"type": "image", "url": url(b"\x03")},
        {"type": "image_url", "image_url": {"url": url(b"\x04", "jpeg"), "detail": "low"}},
        {"type": "image_url", "image_url": url(b"\x05")},
    ]
    messages = [{"role": "user", "content": parts}]
    assert has_images(messages)
    contents = [content for _, content in read_images(messages)]
    assert contents == [b"\x01one", b"\x01one", b"\x02", b"\x03", b"\x04", b"\x05"]


def test_every_image_that_cannot_be_read_is_listed(tmp_path):
    bad = {
        "nothing is fetched": {"type": "image_url", "image_url": {"url": "https://e.org/a.png"}},
        "file:///etc": {"type": "image", "url": "file:///etc/passwd"},
        "not valid base64": {"type": "image", "url": "data:image/png;base64,@@@@"},
        "there is no file": {"type": "image", "path": tmp_path / "missing.png"},
        "expected bytes": {"type": "image", "bytes": "text"},
        "exactly one": {"type": "image"},
        "['path', 'bytes']": {"type": "image", "path": "a", "bytes": b"b"},
        "expected image_url": {"type": "image_url", "image_url": 3},
    }
    with pytest.raises(ParameterError) as caught:
        read_images([{"role": "user", "content": [text("x"), *bad.values()]}])
    assert len(caught.value.items) == len(bad)
    for number, (words, item) in enumerate(zip(bad, caught.value.items, strict=True), 1):
        assert f"messages[0].content[{number}]" in item
        assert words in item


def test_a_server_reads_no_files_of_its_machine(tmp_path):
    (tmp_path / "a.png").write_bytes(b"secret")
    messages = [{"role": "user", "content": [{"type": "image", "path": tmp_path / "a.png"}]}]
    with pytest.raises(ParameterError, match="not allowed here"):
        read_images(messages, paths=False)


def test_an_image_that_the_template_leaves_out_is_refused():
    parts = [text("x"), {"type": "image", "bytes": b"\x07"}]
    with pytest.raises(ParameterError, match="image 1 of the conversation"):
        shown("{% for m in messages %}{{ m.role }}{% endfor %}", parts)


def test_a_broken_picture_is_named_by_its_place():
    def broken(content):
        raise FormatError("the image file is broken")

    messages = [{"role": "user", "content": [{"type": "image", "bytes": b"x"}]}]
    with pytest.raises(FormatError, match=r"messages\[0\]\.content\[0\]"):
        illustrated_prompt(template(GEMMA), tokenize, broken, messages)


def test_the_messages_stay_as_they_were():
    messages = [{"role": "user", "content": [{"type": "image", "bytes": b"\x07"}]}]
    illustrated_prompt(template(GEMMA), tokenize, encode, messages)
    assert messages == [{"role": "user", "content": [{"type": "image", "bytes": b"\x07"}]}]
