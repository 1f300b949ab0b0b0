"""Adapters with tokens of their own in an export: the base grows, and their tokenizer and template
come along. data/added holds PEFT's logits, see tests/model/test_added_tokens.py.
"""

import json
import shutil

import numpy as np
import pytest

import lorakit
from folders import DATA
from lorakit.errors import MismatchError

GEMMA, ADDED = DATA / "truth/bases/gemma3", DATA / "added/gemma3"
FORMS = {"onnx": ("none", 1e-4), "safetensors": ("none", 1e-4)}


@pytest.mark.parametrize("case", ["ms_embed", "tt"])
@pytest.mark.parametrize("to", sorted(FORMS))
def test_an_export_has_the_added_tokens(to, case, tmp_path):
    form, limit = FORMS[to]
    place = ADDED / case
    made = lorakit.export(GEMMA, tmp_path / "e", to=to, adapter=place, quantize=form)
    assert any("grew from 512 to 514" in note for note in made.notes)
    with lorakit.open(tmp_path / "e", threads=1) as model, np.load(place / "logits.npz") as truth:
        worst = [
            np.abs(model.logits(truth[f"ids{n}"].tolist()) - truth[f"scale1_{n}"]).max()
            for n in range(3)
        ]
        assert max(worst) < limit
        tokens = json.loads((place / "tokenizer.json").read_text())["added_tokens"]
        new = [each for each in tokens if each["id"] >= 512]
        assert new
        for each in new:
            assert model.tokenizer.encode(each["content"], special=False) == [each["id"]]
        own = (place / "chat_template.jinja").read_text().rstrip()
        assert own in {text.rstrip() for text in model._dialogue.template.sources.values()}


def test_without_room_for_them_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lorakit.exporting.export.with_room", lambda base, *_: base)
    with pytest.raises(MismatchError):
        lorakit.export(GEMMA, tmp_path / "e", adapter=ADDED / "ms_embed", quantize="none")
    assert not (tmp_path / "e").exists()


def test_a_template_in_a_file_of_the_adapter_comes_along(tmp_path):
    """It may stand in a file, as trainers save it, and not only in a lorakit.json."""
    place = shutil.copytree(DATA / "truth/peft/gemma3/plain", tmp_path / "a")
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    (place / "chat_template.jinja").write_text(template + "\n")
    made = lorakit.export(
        GEMMA, tmp_path / "e", to="safetensors", adapter=place, prove_it=False
    )  # fmt: skip
    assert any("template is that of the adapter" in note for note in made.notes)
    assert (tmp_path / "e/chat_template.jinja").read_text().rstrip() == template


def test_what_cannot_be_read_of_it_is_left_out_and_said(tmp_path):
    place = shutil.copytree(DATA / "truth/peft/gemma3/plain", tmp_path / "a")
    (place / "chat_template.jinja").write_bytes(b"\xff\xfe{{ x")
    made = lorakit.export(GEMMA, tmp_path / "e", to="safetensors", adapter=place, prove_it=False)
    assert any("not UTF-8" in note and "base's" in note for note in made.notes)
    own = (GEMMA / "chat_template.jinja").read_text()
    assert (tmp_path / "e/chat_template.jinja").read_text() == own
