"""A model's own sampling in GGUF files: read by gguf-py, by llama.cpp's server and by us."""

import json
import shutil
import urllib.request

import pytest

from llama_serving import serving_llama
from lorakit import demo, read_adapter
from lorakit.base.gguf import open_base
from lorakit.exporting.gguf import gguf_model, write_gguf
from lorakit.merge.view import merged_view
from lorakit.model.defaults import defaults_of
from lorakit.runtime.params import SamplingParams

SAID = [
    ({"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.05},
     {"temp": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.05}),
    ({"do_sample": True}, {"temp": 1.0}),
    ({"do_sample": True, "top_k": 64, "repetition_penalty": 1.05},
     {"temp": 1.0, "top_k": 64, "penalty_repeat": 1.05, "penalty_last_n": -1}),
    ({"do_sample": False, "temperature": 0.6, "top_k": 5}, {"temp": 0.0, "top_k": 5}),
    ({"repetition_penalty": 1.3}, {"temp": 0.0, "penalty_repeat": 1.3, "penalty_last_n": -1}),
    ({"do_sample": False, "temperature": 0.6}, {}),
    ({"do_sample": True, "temperature": "hot", "top_p": 0.5}, {"temp": 1.0, "top_p": 0.5}),
]  # fmt: skip


@pytest.fixture
def saying(tmp_path):
    """A base with another generation_config.json."""

    def base(said):
        path = tmp_path / "base"
        shutil.copytree(demo.base_path(), path)
        (path / "generation_config.json").write_text(json.dumps(said))
        return open_base(path)

    return base


def written(base, path):
    model = gguf_model(base, name="demo", templates={})
    write_gguf(model, path, "F16", threads=1)
    return model


def said_in(path):
    """The keys of sampling as gguf-py reads them: values and types."""
    gguf = pytest.importorskip("gguf")
    fields = gguf.GGUFReader(path).fields
    return {
        name.removeprefix("general.sampling."): (field.contents(), field.types)
        for name, field in fields.items()
        if ".sampling." in name
    }


def types_of(names):
    """The types in which gguf-py writes them."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(None, "gemma3")
    for name in names:
        getattr(writer, f"add_sampling_{name}")(0)
    values = {key: value for part in writer.kv_data for key, value in part.items()}
    return {name: [values[f"general.sampling.{name}"].type] for name in names}


@pytest.mark.parametrize(("said", "wanted"), SAID)
def test_gguf_py_reads_what_the_model_says_and_so_do_we(saying, tmp_path, said, wanted):
    base, path = saying(said), tmp_path / "m.gguf"
    model = written(base, path)
    found = said_in(path)
    assert {name: value for name, (value, _) in found.items()} == pytest.approx(wanted)
    assert {name: kinds for name, (_, kinds) in found.items()} == types_of(wanted)
    assert defaults_of(open_base(path))[0] == defaults_of(base)[0]
    assert not [note for note in model.notes if "default" in note]


def test_a_merged_base_says_it_too(saying, tmp_path):
    base = saying({"do_sample": True, "top_k": 7})
    adapter = read_adapter(demo.adapter_path("home"), base.decoder)
    written(merged_view(base, [(adapter, 1.0)]), tmp_path / "m.gguf")
    assert defaults_of(open_base(tmp_path / "m.gguf"))[0] == SamplingParams(
        temperature=1.0, top_k=7
    )


def test_what_has_no_key_is_told(saying, tmp_path):
    model = written(saying({"do_sample": True, "typical_p": 0.9}), tmp_path / "m.gguf")
    assert "typical_p 0.9, its own default, has no key in a GGUF file" in model.notes
    assert defaults_of(open_base(tmp_path / "m.gguf"))[0] == SamplingParams(temperature=1.0)


def test_llama_cpps_server_samples_as_the_model_says(saying, tmp_path):
    pytest.importorskip("xllamacpp", reason="needs the package that has llama.cpp's server")
    said = {"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.25}
    written(saying(said), tmp_path / "m.gguf")
    with (
        serving_llama("plain", tmp_path / "m.gguf") as url,
        urllib.request.urlopen(f"{url.removesuffix('/v1')}/props", timeout=60) as answer,
    ):
        params = json.load(answer)["default_generation_settings"]["params"]
    assert params["temperature"] == pytest.approx(0.7)
    assert (params["top_k"], params["repeat_penalty"]) == (20, pytest.approx(1.25))
    assert params["repeat_last_n"] == -1  # the whole context, as transformers does
