"""Folders of exports: what their records say is checked, files are looked at before they are run,
and somebody else's are told apart."""

import json
import os
import shutil
import sys

import onnx
import pytest

import lorakit
from lorakit.base.exported import read_exported
from lorakit.base.folder import Base
from lorakit.engines.onnx import graph_file
from lorakit.engines.onnx.exported import ExportedEngine
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.errors import CapabilityError, FormatError, SourceError
from onnx_cases import truth_base

LLAMA = truth_base("llama")


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    place = tmp_path_factory.mktemp("exports") / "llama"
    lorakit.export(
        LLAMA, place, mode="dynamic", quantize=["q8", "none"], base_model="org/base", prove_it=False
    )
    return place


@pytest.fixture
def copy(export, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(export, tmp_path / "copy")


def record(folder, **change):
    path = folder / "lorakit.json"
    said = json.loads(path.read_text())
    for key, value in change.items():
        said[key] = value(said[key]) if callable(value) else value
    path.write_text(json.dumps(said))


def opened(folder, **options):
    base = Base.open(folder)
    return ExportedEngine.open(base, base.exported, OnnxOptions(threads=1, **options))


def test_what_is_known_of_an_export(export):
    base = Base.open(export)
    own = base.exported
    assert (own.kind, own.names, own.base_name, base.held) == ("dynamic", (), "org/base", ())
    assert list(own.graphs.items()) == [
        ("q8", "onnx/model_quantized.onnx"),
        ("none", "onnx/model.onnx"),
    ]
    assert (own.form, own.named, own.graph) == ("q8", False, export / "onnx/model_quantized.onnx")
    assert base.fingerprint == own.fingerprint == Base.open(LLAMA).fingerprint
    assert base.decoder.modules() == Base.open(LLAMA).decoder.modules()
    assert base.tensors == {}
    assert not base.is_gguf
    with pytest.raises(CapabilityError, match="exported model") as found:
        base.require_weights()
    assert "org/base" in found.value.hint


def test_which_form_runs(export):
    base = Base.open(export)
    assert base.exported.note() == (
        "onnx/model_quantized.onnx (q8) runs, the export's default; it holds onnx/model.onnx"
    )
    assert base.in_form("none").exported.form == "q8"
    assert base.in_form("int8").exported.form == "q8"
    with pytest.raises(CapabilityError, match="without weights in int4") as found:
        base.in_form("int4")
    assert found.value.items == (
        "it holds onnx/model_quantized.onnx (q8)",
        "it holds onnx/model.onnx (none)",
    )
    named = Base.open(export / "onnx/model.onnx")
    assert (named.path, named.exported.form, named.exported.note()) == (base.path, "none", "")
    assert named.in_form("int8").exported.form == "q8"
    assert Base.open(LLAMA).in_form("int8").exported is None


def test_int4_is_either_form_of_four_bits(export):
    said = json.loads((export / "lorakit.json").read_text())
    config = json.loads((export / "config.json").read_text())
    graph = said["forms"]["none"]
    for forms in (["q4f16"], ["q4f16", "q4"]):
        own = read_exported(export, {**said, "forms": dict.fromkeys(forms, graph)}, config)
        assert own.in_form("int4").form == forms[0]  # its default is one already
    own = read_exported(export, {**said, "forms": {"none": graph, "q4f16": graph}}, config)
    assert (own.form, own.in_form("int4").form) == ("none", "q4f16")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"version": 2}, "version"),
        ({"adapters": "melted"}, "adapters"),
        ({"adapters": ["merged"]}, "adapters"),
        ({"base": "abc"}, "fingerprint"),
        ({"base_name": None}, "base_name"),
        ({"context": True}, "context"),
        ({"context": 1 << 40}, "context"),
        ({"names": "home"}, "names"),
        ({"names": ["a", "a"]}, "names"),
        ({"forms": {}}, "forms"),
        ({"forms": []}, "forms"),
        ({"forms": {"none": {"file": "onnx/../../model.onnx"}}}, "forms"),
        ({"forms": {"none": {"file": "/onnx/model.onnx"}}}, "forms"),
        ({"forms": {"none": {"file": "onnx\\model.onnx"}}}, "forms"),
        ({"forms": {"none": {"file": "onnx/model.txt"}}}, "forms"),
        ({"forms": {"none": {"file": 3}}}, "forms"),
        ({"files": {}}, "digest"),
        ({"files": {"onnx/model.onnx": 3}}, "files"),
        ({"files": None}, "files"),
    ],
)
def test_odd_records_are_refused(copy, change, fault):
    record(copy, **change)
    with pytest.raises(FormatError, match="does not describe") as found:
        Base.open(copy)
    assert any(fault in item for item in found.value.items)


def test_missing_graphs_and_others(copy):
    shutil.copy(copy / "onnx/model.onnx", copy / "onnx/other.onnx")
    with pytest.raises(SourceError, match="no graph of the export"):
        Base.open(copy / "onnx/other.onnx")
    (copy / "onnx/model.onnx").unlink()
    with pytest.raises(SourceError, match="lacks") as found:
        Base.open(copy)
    assert found.value.items == ("onnx/model.onnx",)


def edited(path, change):
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())


def said(model, key, value):
    """Change what the first weight says of where it is."""
    tensor = next(t for t in model.graph.initializer if t.external_data)
    next(each for each in tensor.external_data if each.key == key).value = value


def hidden(model):
    """A weight in an attribute of a node, elsewhere."""
    tensor = onnx.TensorProto(name="hidden", data_type=1, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["hidden"], value=tensor))


def nested(model):
    """The same in a graph within a node."""
    inner = onnx.ModelProto()
    hidden(inner)
    model.graph.node.append(onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner.graph))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda m: said(m, "location", "../../secret"), "secret"),
        (lambda m: said(m, "location", "model.onnx"), "not in model.onnx_data"),
        (lambda m: said(m, "offset", str(1 << 50)), "ends beyond"),
        (lambda m: said(m, "length", "-1"), "ends beyond"),
        (lambda m: said(m, "length", "9" * 30), "ends beyond"),
        (hidden, "hostname"),
        (nested, "hostname"),
    ],
)
def test_weights_are_beside_the_graph_and_within_their_file(copy, change, fault, monkeypatch):
    path = copy / "onnx/model.onnx"
    opened(path).close()
    edited(path, change)
    monkeypatch.setattr("lorakit.engines.onnx.exported.open_session", None)  # not even tried
    with pytest.raises(FormatError, match="not whole") as found:
        opened(path)
    assert fault in str(found.value)


def test_cut_off_missing_and_foreign_files(copy, monkeypatch):
    path, data = copy / "onnx/model.onnx", copy / "onnx/model.onnx_data"
    whole = path.read_bytes()
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(FormatError, match="no ONNX file"):
        opened(path)
    path.write_bytes(whole)
    monkeypatch.setattr(graph_file, "MAX_GRAPH", 1000)
    with pytest.raises(FormatError, match="larger than"):
        opened(path)
    monkeypatch.undo()
    os.truncate(data, data.stat().st_size // 2)
    with pytest.raises(FormatError, match="not whole"):
        opened(path)
    data.unlink()
    with pytest.raises(SourceError, match="has no onnx/model"):
        opened(path)


def test_a_graph_of_another_kind_or_base(copy, tmp_path):
    record(copy, adapters="merged")
    with pytest.raises(FormatError, match="not the graph") as found:
        opened(copy / "onnx/model.onnx")
    assert any("nothing is known of it" in item for item in found.value.items)
    record(copy, adapters="composed", names=["home"])
    with pytest.raises(FormatError) as found:
        opened(copy / "onnx/model.onnx")
    record(copy, adapters="dynamic")
    config = json.loads((copy / "config.json").read_text())
    for change, fault in (
        ({"num_hidden_layers": config["num_hidden_layers"] + 1}, "no such input"),
        ({"num_hidden_layers": 1}, "nothing is known of it"),
        ({"vocab_size": config["vocab_size"] + 1}, "logits: expected"),
        ({"num_key_value_heads": 1}, "expected 1 heads"),
        ({"head_dim": 4}, "heads of 4"),
    ):
        (copy / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(FormatError, match="not the graph") as found:
            opened(copy / "onnx/model.onnx")
        assert any(fault in item for item in found.value.items)


def test_a_composed_record_that_names_other_adapters(copy, tmp_path):
    adapter = lorakit.read_adapter(LLAMA.parents[1] / "peft/llama/plain")
    place = tmp_path / "composed"
    lorakit.export(
        LLAMA, place, adapter={"a": adapter}, mode="composed", quantize="none", prove_it=False
    )
    record(place, names=["a", "b"])
    with pytest.raises(FormatError, match="that the export's record names"):
        opened(place)


@pytest.mark.skipif(sys.platform == "win32", reason="few may make links on Windows")
def test_links_out_of_the_folder_are_not_followed(copy, tmp_path):
    data = copy / "onnx/model.onnx_data"
    shutil.move(data, tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FormatError, match="leads out of its folder"):
        opened(copy / "onnx/model.onnx")


def test_somebody_elses_onnx_files_are_told_apart(copy):
    """As onnx-community keeps them: a config, a tokenizer, graphs, and a card."""
    (copy / "lorakit.json").unlink()
    (copy / "README.md").unlink()
    with pytest.raises(SourceError, match="lorakit did not write") as found:
        lorakit.open(copy)
    assert found.value.code == "source_unsupported"
    assert found.value.hint.endswith("open the base that it was made from")
    card = "---\nlibrary_name: transformers.js\nbase_model:\n- google/gemma-3-270m-it\n---\n# It\n"
    spellings = (card, card.replace("\n- ", " "), card.replace("\n- ", ' "').replace("-it", '-it"'))
    for text in spellings:
        (copy / "README.md").write_text(text)
        with pytest.raises(SourceError) as found:
            Base.open(copy / "onnx/model.onnx")
        assert found.value.hint.endswith("hf:google/gemma-3-270m-it")
    (copy / "README.md").write_text("base_model: org/none\n" + card.replace("base_model", "other"))
    with pytest.raises(SourceError) as found:
        Base.open(copy)
    assert "hf:" not in found.value.hint
    (copy / "config.json").unlink()  # nothing but the graphs
    (copy / "README.md").write_text(card)
    for place in (copy, copy / "onnx/model.onnx"):
        with pytest.raises(SourceError, match="lorakit did not write") as found:
            lorakit.open(place)
        assert found.value.hint.endswith("hf:google/gemma-3-270m-it")


def test_weights_win_over_graphs_beside_them(copy):
    shutil.copy(LLAMA / "model.safetensors", copy)
    assert Base.open(copy).exported is None
    assert Base.open(copy).tensors
    assert Base.open(copy / "onnx/model.onnx").exported.form == "none"
