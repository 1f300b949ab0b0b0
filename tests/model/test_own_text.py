"""An adapter's own tokenizer and template at open: when they are used, and when the base's stay."""

import json
import logging
import shutil

import pytest

import lorakit
from folders import DATA
from lorakit import AdapterConfig
from lorakit.base.gguf import open_base
from lorakit.errors import FormatError
from lorakit.formats.brought import check_brought
from lorakit.formats.convert import convert
from lorakit.merge.brought import brought_by, write_brought
from lorakit.model.own_text import own_text

BASE, PLAIN = DATA / "truth/bases/llama", DATA / "truth/peft/llama/plain"
GGUF = DATA / "truth/gguf/llama.base.f32.gguf"
TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def adapter(tmp_path):
    return made(tmp_path, "own")


def made(tmp_path, name, template=None):
    folder = tmp_path / name
    shutil.copytree(PLAIN, folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def opened(adapter, **options):
    return lorakit.open(BASE, adapter=adapter, threads=1, context=64, **options)


def rendered(model):
    return model.tokenizer.decode(model.chat_prompt(HELLO))


def notes(model):
    """But that the folders hold one adapter, which the tests do not mean."""
    return [said.message for said in model.warnings if said.code != "same_adapter"]


def test_a_template_of_its_own_is_used_and_said(tmp_path, caplog):
    folder = made(tmp_path, "own", TEMPLATE)
    with caplog.at_level(logging.INFO, "lorakit"), opened(folder) as model:
        assert rendered(model) == "<user> hello\n"
        assert notes(model) == ["the chat template is the adapter's own, in place of the base's"]
    assert notes(model)[0] in caplog.text
    with opened(AdapterConfig(folder, mode="merge")) as model:
        assert rendered(model) == "<user> hello\n"


def test_the_bases_stays_where_the_caller_says_so(tmp_path):
    folder = made(tmp_path, "own", TEMPLATE)
    with opened(None) as plain, opened(AdapterConfig(folder, text="base")) as model:
        assert rendered(model) == rendered(plain) != "<user> hello\n"
        assert notes(model) == []


def test_adapters_that_agree_and_one_that_brings_none(tmp_path, adapter):
    one, other = made(tmp_path, "a", TEMPLATE), made(tmp_path, "b", f"{TEMPLATE}  \n")
    with opened([one, other, adapter]) as model:
        assert rendered(model) == "<user> hello\n"
        assert len(notes(model)) == 1


def test_adapters_that_disagree_leave_the_bases(tmp_path):
    one, other = made(tmp_path, "a", TEMPLATE), made(tmp_path, "b", TEMPLATE.replace("<", "["))
    with opened(None) as plain, opened([one, other]) as model:
        assert rendered(model) == rendered(plain)
        assert notes(model) == ["the adapters bring different chat templates: the base's is used"]


def test_the_bases_own_in_other_bytes_is_no_difference(adapter):
    """What a trainer saves beside an adapter: the base's tokenizer, written again."""
    (template,) = own_template().values()
    (adapter / "chat_template.jinja").write_text(f"{template}\n\n")
    tokenizer = json.loads((BASE / "tokenizer.json").read_text())
    tokenizer |= {"truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0}}
    tokenizer["truncation"]["direction"] = "Right"
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer, indent=3))
    config = json.loads((BASE / "tokenizer_config.json").read_text())
    config |= {"padding_side": "left", "model_max_length": 77}
    (adapter / "tokenizer_config.json").write_text(json.dumps(config))
    with opened(adapter) as model:
        assert notes(model) == []
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:-1]  # the broken variant: it does differ
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert any("tokenizer" in note for note in own_text(open_base(BASE), [adapter]).notes)


def own_template():
    from lorakit.chat.template_files import template_sources

    return template_sources(BASE)


def test_another_end_of_text_is_another_tokenizer(adapter):
    config = json.loads((BASE / "tokenizer_config.json").read_text())
    with opened(None) as plain:
        token = next(t for t in range(3, 60) if t not in plain.tokenizer.eos_ids)
        text = plain.tokenizer.decode([token])
    (adapter / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": text}))
    with opened(adapter) as model:
        assert token in model.tokenizer.eos_ids
        assert notes(model) == ["the tokenizer is the adapter's own, in place of the base's"]
        assert rendered(model)


def test_different_tokenizers_leave_the_bases(tmp_path):
    config = json.loads((BASE / "tokenizer_config.json").read_text())
    folders = [made(tmp_path, "one"), made(tmp_path, "other")]
    with opened(None) as plain:
        own = plain.tokenizer.eos_ids
        ends = [token for token in range(3, 60) if token not in own][:2]
        texts = [plain.tokenizer.decode([token]) for token in ends]
    for folder, text in zip(folders, texts, strict=True):
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": text}))
    with opened(folders) as model:
        assert model.tokenizer.eos_ids == own
        assert notes(model) == ["the adapters bring different tokenizers: the base's is used"]


def test_tokens_without_a_row_are_said(adapter):
    tokenizer = json.loads((BASE / "tokenizer.json").read_text())
    new = {**tokenizer["added_tokens"][-1], "id": 512, "content": "<|new|>"}
    tokenizer["added_tokens"].append(new)
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer))
    with opened(adapter) as model:
        assert model.tokenizer.encode("<|new|>", special=False) == [512]
        assert any("no row in the base" in note and note.endswith(": 1") for note in notes(model))


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer.json"])
def test_what_cannot_be_read_is_left_out_with_a_word(adapter, file):
    (adapter / file).write_text("{% for")
    with opened(None) as plain, opened(adapter) as model:
        assert rendered(model) == rendered(plain)
        (note,) = notes(model)
        assert "left out" in note
        assert "own" in note


def test_the_template_in_a_trained_adapters_record(adapter):
    facts = {"prompt": {"template": TEMPLATE}}
    (adapter / "lorakit.json").write_text(json.dumps(facts))
    with opened(adapter) as model:
        assert rendered(model) == "<user> hello\n"
    (template,) = own_template().values()
    (adapter / "lorakit.json").write_text(json.dumps({"prompt": {"template": template}}))
    with opened(adapter) as model:
        assert notes(model) == []


def test_a_gguf_base_takes_the_template_alone(tmp_path, adapter):
    shutil.copy(BASE / "tokenizer.json", adapter)
    assert own_text(open_base(GGUF), [adapter]).templates is None
    text = own_text(open_base(GGUF), [made(tmp_path, "t", TEMPLATE)])
    assert text.templates == {"default": TEMPLATE}
    assert text.tokenizer is None


def test_a_written_folder_keeps_no_template_that_hides_the_adapters(tmp_path, adapter):
    from lorakit.chat.template_files import template_sources

    config = json.loads((BASE / "tokenizer_config.json").read_text())
    (adapter / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    out = shutil.copytree(BASE, tmp_path / "out")
    (out / "chat_template.jinja").write_text("{{ messages }}")
    write_brought(out, brought_by([adapter])[0])
    assert template_sources(out) == {"default": TEMPLATE}


def test_a_written_folder_keeps_the_bases_template_where_the_adapter_has_none(tmp_path, adapter):
    from lorakit.chat.template_files import template_sources

    out = shutil.copytree(BASE, tmp_path / "out")
    (out / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((BASE / "tokenizer_config.json").read_text())
    (out / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    config.pop("chat_template", None)
    (adapter / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 9}))
    assert "tokenizer_config.json" in write_brought(out, brought_by([adapter])[0])
    assert template_sources(out) == {"default": TEMPLATE}


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123\n"


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja"])
def test_a_pointer_of_git_lfs_is_no_text_of_an_adapters(tmp_path, adapter, name):
    (adapter / name).write_text(POINTER)
    with opened(None) as plain, opened(adapter) as model:
        assert rendered(model) == rendered(plain)
        (note,) = notes(model)
        assert "is left out" in note
        assert "git-lfs" in note
    found = check_brought(adapter, open_base(BASE))
    assert [m.severity for m in found if "git-lfs" in m.found] == ["warning"]
    brought, note = brought_by([adapter])
    assert brought == ()
    assert "git-lfs" in note
    with pytest.raises(FormatError, match="git-lfs"):
        convert(adapter, tmp_path / "out", to="mlx")
    assert not (tmp_path / "out").exists()


def test_a_broken_tokenizer_is_not_merged_into_a_base(adapter):
    shutil.copy(BASE / "tokenizer.json", adapter)
    assert dict(brought_by([adapter])[0]).keys() == {"tokenizer.json"}
    content = (adapter / "tokenizer.json").read_bytes()
    (adapter / "tokenizer.json").write_bytes(content[: len(content) // 2])
    brought, note = brought_by([adapter])
    assert brought == ()
    assert "tokenizer.json is not valid JSON" in note


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_base_of_pointers_of_git_lfs_says_so(tmp_path, name):
    base = shutil.copytree(BASE, tmp_path / "base")
    (base / name).write_text(POINTER)
    with pytest.raises(FormatError, match="git-lfs"), lorakit.open(base, threads=1) as model:
        model.chat(HELLO, max_tokens=1)
    (tmp_path / "base.gguf").write_text(POINTER)
    with pytest.raises(FormatError, match="git-lfs"):
        open_base(tmp_path / "base.gguf")
