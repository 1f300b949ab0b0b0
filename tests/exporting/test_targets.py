"""What targets have in common: a folder that runs, the adapter's facts in it, early refusals."""

import json
import shutil

import pytest

import lorakit
from lorakit import demo
from lorakit.chat.template import template_sources
from lorakit.errors import FormatError, ParameterError
from lorakit.exporting.bundle import declares

BASE = demo.base_path()
HOME = demo.adapter_path("home")
PROMPT = list(demo.examples("home", "values")[0].messages)


def answer(base, **options):
    with lorakit.open(base, **options) as model:
        return model.chat(PROMPT, temperature=0, max_tokens=24).text


def test_a_safetensors_folder_answers_as_base_and_adapter(tmp_path):
    result = lorakit.export(BASE, tmp_path / "out", to="safetensors", adapter=HOME)
    assert (result.to, result.kind) == ("safetensors", "merged")
    assert result.files[0].parity.match == 1.0
    wanted = answer(BASE, adapter=HOME)
    assert answer(tmp_path / "out") == wanted != answer(BASE)


@pytest.mark.parametrize("mode", [None, "apart"])
def test_an_mlx_folder_holds_what_base_and_adapter_compute(mode, tmp_path):
    result = lorakit.export(
        BASE, tmp_path / "out", to="mlx", adapter=HOME, mode=mode, quantize="q8"
    )
    parity = result.files[0].parity
    assert result.kind == (mode or "merged")
    assert parity.kl < 0.01
    assert parity.apart.merged > 0 < parity.apart.apart
    assert (tmp_path / "out/adapters/adapters.safetensors").exists() == (mode == "apart")
    assert ("--adapter-path" in (tmp_path / "out/README.md").read_text()) == (mode == "apart")


@pytest.mark.parametrize(
    ("to", "options", "said"),
    [
        ("safetensors", {"mode": "dynamic"}, "merged"),
        ("safetensors", {"mode": "apart", "adapter": HOME}, "merged"),
        ("safetensors", {"context": 64}, "context"),
        ("safetensors", {"split_size": 1 << 20}, "parts"),
        ("safetensors", {"quantize": ["f32", "f16"]}, "one form"),
        ("safetensors", {"quantize": "q8"}, "f32"),
        ("onnx", {"quantize": [None]}, "none, fp16"),
        ("onnx", {"quantize": 8}, "none, fp16"),
        ("onnx", {"proof": {}}, "ProofOptions"),
        ("onnx", {"prove_it": 1}, "prove_it"),
        ("onnx", {"overwrite": "no"}, "overwrite"),
        ("onnx", {"base_model": ""}, "org/repo"),
        ("onnx", {"adapter": {1: HOME}}, "name of an adapter"),
        ("onnx", {"adapter": {"a\n": HOME}}, "name of an adapter"),
        ("onnx", {"calibration": 5}, "no path"),
        ("onnx", {"downloads": 5}, "downloads"),
        ("onnx", {"offline": "x"}, "offline"),
        ("onnx", {"allow_private": 5}, "allow_private"),
        ("onnx", {"base_model": "\ud800"}, "base_model"),
        ("mlx", {"calibration": BASE / "config.json"}, "calibrate"),
        ("gguf", {"split_size": 0}, "split_size"),
        ("gguf", {"split_size": 1.5}, "split_size"),
        ("gguff", {}, "gguf, safetensors"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(to, options, said, tmp_path):
    phases = []
    with pytest.raises(ParameterError, match=said):
        lorakit.export(
            BASE, tmp_path / "out", to=to, progress=lambda at: phases.append(at.phase), **options
        )
    assert set(phases) == {"preparing"}
    assert list(tmp_path.iterdir()) == []


def bundle(folder, **prompt):
    """The demo's adapter as a training run leaves it."""
    shutil.copytree(HOME, folder)
    facts = {
        "default_scale": 0.5,
        "verdict": ["exact match 97% of 200"],
        "prompt": {"declared": 0.0, "tools": [{"function": {"name": "lights"}}], **prompt},
    }
    (folder / "lorakit.json").write_text(json.dumps(facts))
    return folder


def test_what_is_known_of_an_adapter_comes_along(tmp_path):
    template = (BASE / "chat_template.jinja").read_text() + "{# of the adapter #}"
    adapter = bundle(tmp_path / "mine", template=template)
    result = lorakit.export(
        BASE, tmp_path / "out", to="safetensors", adapter=adapter, base_model="org/tiny"
    )
    out = tmp_path / "out"
    assert (out / "chat_template.jinja").read_text() == template
    assert "template" in result.notes[0]
    record = json.loads((out / "lorakit.json").read_text())
    assert record["base_name"] == "org/tiny"
    (made,) = record["from"]
    assert made["scale"] == 0.5
    assert made["facts"]["verdict"] == ["exact match 97% of 200"]
    card = (out / "README.md").read_text()
    assert "- exact match 97% of 200" in card
    assert "Its tools: `lights`" in card
    assert 'base_model: "org/tiny"' in card


@pytest.mark.parametrize(
    "wrong",
    [
        {"verdict": 5},
        {"verdict": [5]},
        {"prompt": [1]},
        {"prompt": {"template": ["x"]}},
        {"prompt": {"template": "x" * (1 << 21)}},
        {"prompt": {"template": "{% if %}"}},
        {"prompt": {"declared": "all"}},
        {"prompt": {"tools": "x"}},
        {"prompt": {"tools": [{"function": {"name": 1}}]}},
        {"added_tokens": {"a": 1}},
        {"verdict": ["\ud800"]},
    ],
)
def test_what_is_wrong_about_an_adapter_is_found_before_the_work(wrong, tmp_path):
    adapter, phases = bundle(tmp_path / "mine"), []
    (adapter / "lorakit.json").write_text(json.dumps(wrong))
    with pytest.raises(FormatError):
        lorakit.export(
            BASE,
            tmp_path / "out",
            to="safetensors",
            adapter=adapter,
            progress=lambda at: phases.append(at.phase),
        )
    assert set(phases) == {"preparing"}
    assert not (tmp_path / "out").exists()


def test_adapters_that_disagree_on_the_template_leave_the_bases(tmp_path):
    adapters = {name: bundle(tmp_path / name, template=name) for name in ("one", "other")}
    result = lorakit.export(
        BASE, tmp_path / "out", to="safetensors", adapter=adapters, prove_it=False
    )
    assert "different tokenizers or templates" in result.notes[0]
    own = (BASE / "chat_template.jinja").read_text()
    assert (tmp_path / "out/chat_template.jinja").read_text() == own


def test_tools_are_declared_unless_every_adapter_knows_its_own():
    knows, wants = {"prompt": {"declared": 0.0}}, {"prompt": {"declared": 0.25}}
    assert not declares([knows, knows])
    assert declares([knows, wants])
    assert declares([knows, {}])
    assert declares([])


def test_a_base_without_a_template_is_no_obstacle_where_none_is_needed(tmp_path):
    base = tmp_path / "mute"
    shutil.copytree(BASE, base)
    (base / "chat_template.jinja").unlink()
    result = lorakit.export(base, tmp_path / "out", to="safetensors", adapter=HOME)
    assert result.files[0].parity.match == 1.0


def test_the_folder_in_which_this_runs_stays(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for output in (".", ".."):
        with pytest.raises(ParameterError, match="in which this runs"):
            lorakit.export(BASE, output, to="safetensors", prove_it=False, overwrite=True)


def test_named_templates_in_a_folder_come_along(tmp_path):
    """As transformers keeps them; the others are read where they were written."""
    base = tmp_path / "base"
    shutil.copytree(BASE, base)
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates/rag.jinja").write_text("{{ messages }}rag")
    wanted = template_sources(base)
    assert set(wanted) == {"default", "rag"}
    for to in ("safetensors", "mlx", "onnx"):
        lorakit.export(base, tmp_path / to, to=to, quantize="none", prove_it=False)
        assert template_sources(tmp_path / to) == wanted


def test_the_name_of_a_file_is_no_folder(tmp_path):
    with pytest.raises(ParameterError, match="folder") as found:
        lorakit.export(BASE, tmp_path / "home.gguf", to="safetensors", prove_it=False)
    assert "-o home" in found.value.hint


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "place").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "place", target_is_directory=True)
    for overwrite in (False, True):
        lorakit.export(
            BASE, tmp_path / "link", to="safetensors", prove_it=False, overwrite=overwrite
        )
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "place/model.safetensors").exists()
