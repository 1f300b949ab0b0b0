"""`lorakit.open` and the commands on what `lorakit export --to onnx` wrote."""

import json
import shutil

import numpy as np
import pytest

import lorakit
from commands import invoke
from folders import DATA
from lorakit import AdapterConfig, demo
from lorakit.errors import (
    BaseModelError,
    CapabilityError,
    MismatchError,
    NameTakenError,
    ParameterError,
    SourceError,
)
from lorakit.exporting.table import TARGETS
from lorakit.verify.forms import EXPORTS, MOST

BASE = demo.base_path()
HOME, SHOP, STYLE = (
    AdapterConfig(demo.adapter_path(n), scale=1.0) for n in ("home", "shop", "style")
)
ASKED = [{"role": "user", "content": "turn on the lights in the kitchen"}]
SETS = {
    "base": {},
    "home": {"home": 1.0},
    "shop": {"shop": 1.0},
    "both": {"home": 0.6, "shop": 0.5},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("exports")
    for name, adapter, forms in (
        ("merged", HOME, ["q8", "none"]),
        ("apart", HOME, "none"),
        ("dynamic", None, "none"),
        ("composed", {"home": HOME, "shop": SHOP}, "none"),
    ):
        lorakit.export(
            BASE, place / name, adapter=adapter, mode=name, quantize=forms, prove_it=False
        )
    return place


@pytest.fixture(scope="module")
def answers():
    """Greedy tokens and logits of the onnx engine in float32, by set of adapters."""
    with lorakit.open(BASE, threads=1) as model:
        for each in (HOME, SHOP):
            model.load_adapter(each.path)
        ids = model.chat_prompt(ASKED)
        return {
            name: (said(model, scales), model.logits(ids, adapters=scales))
            for name, scales in SETS.items()
        }


def said(model, scales):
    ids = model.chat_prompt(ASKED)
    done = model.complete(ids, max_tokens=32, temperature=0, adapters=scales)
    return [token.token for token in done.tokens]


def agrees(model, wanted, scales):
    tokens, logits = wanted
    assert said(model, scales) == tokens
    found = model.logits(model.chat_prompt(ASKED), adapters=scales)
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["merged/onnx/model.onnx", "apart"])
def test_what_has_its_adapters_in_it(folders, answers, kind):
    assert answers["home"][0] != answers["base"][0]
    with lorakit.open(folders / kind, threads=1) as model:
        assert model.capabilities.engine == "onnx"
        assert model.adapters == ()
        agrees(model, answers["home"], {})
        assert model.chat(ASKED).tool_calls[0].name == "set_lights"
        with pytest.raises(CapabilityError, match="has home in it") as found:
            model.load_adapter(SHOP.path)
        assert "base that it was made from: base" in found.value.hint


def test_one_with_inputs_takes_any(folders, answers):
    with lorakit.open(folders / "dynamic", adapter=[HOME, SHOP], threads=1) as model:
        assert [info.scale for info in model.adapters] == [1.0, 1.0]
        for name, scales in SETS.items():
            agrees(model, answers[name], scales)
        streams = [
            model.stream(model.chat_prompt(ASKED), max_tokens=32, temperature=0, adapters=scales)
            for scales in SETS.values()
        ]
        for stream, name in zip(streams, SETS, strict=True):  # which ran side by side
            done = stream.result()
            assert [token.token for token in done.tokens] == answers[name][0]
        model.find("home").unload()
        agrees(model, answers["base"], {})


def test_a_composed_one_holds_its_adapters_by_name(folders, answers):
    with lorakit.open(folders / "composed", adapter="shop", threads=1) as model:
        assert [(info.name, info.scale) for info in model.adapters] == [
            ("shop", 1.0),
            ("home", None),
        ]
        for name in ("base", "home", "shop"):
            agrees(model, answers[name], SETS[name])
        assert said(model, None) == answers["shop"][0]
        model.apply({"home": 1})
        assert said(model, None) == answers["home"][0]
        for scales in (SETS["both"], {"home": 0.5}):
            with pytest.raises(CapabilityError, match="one acts at a time"):
                said(model, scales)
        agrees(model, answers["home"], None)  # which goes on
        with pytest.raises(NameTakenError):
            model.load_adapter(HOME.path)
        with pytest.raises(CapabilityError, match="takes no others"):
            model.load_adapter(STYLE.path)


def test_an_adapter_of_a_path_is_no_name_that_it_holds(folders):
    with pytest.raises(CapabilityError, match="takes no others"):
        lorakit.open(folders / "composed", adapter=HOME)
    for options in ({"absolute_scale": 2.0}, {"alpha": 2.0}):
        with pytest.raises(ParameterError, match="as it was read"):
            lorakit.open(folders / "composed", adapter=AdapterConfig("home", **options))
    with pytest.raises(SourceError):
        lorakit.open(folders / "composed", adapter=AdapterConfig("home", source="local"))
    with pytest.raises(SourceError):
        lorakit.open(folders / "composed", adapter="style")
    with pytest.raises(SourceError):
        lorakit.open(folders / "dynamic", adapter="home")


def test_the_form_is_chosen(folders):
    for path, options, form in (
        ("merged", {}, "q8"),
        ("merged", {"quantize": "int8"}, "q8"),
        ("merged/onnx/model.onnx", {}, "none"),
        ("merged/onnx/model.onnx", {"quantize": "int8"}, "q8"),
    ):
        with lorakit.open(folders / path, threads=1, **options) as model:
            assert model.base.exported.form == form
    with pytest.raises(CapabilityError, match="without weights in fp16"):
        lorakit.open(folders / "merged", quantize="fp16")
    with pytest.raises(CapabilityError, match="calibrated when it was made"):
        lorakit.open(folders / "merged", quantize="int8", calibration="text.txt")
    with pytest.raises(CapabilityError, match="torch engine does not run"):
        lorakit.open(folders / "merged", engine="torch")
    with pytest.raises(CapabilityError, match="llama engine does not run"):
        lorakit.open(folders / "merged", engine="llama")


def test_what_needs_weights_names_the_base(folders, tmp_path):
    commands = (
        ("merge", folders / "merged", "-a", HOME.path, "-o", tmp_path / "x"),
        ("export", folders / "dynamic", "--to", "onnx", "-o", tmp_path / "x"),
        ("unmerge", folders / "merged", "-a", HOME.path, "-o", tmp_path / "x"),
        ("extract", BASE, folders / "merged", "-o", tmp_path / "x"),
        ("run", folders / "dynamic", "hi", "-a", HOME.path, "--merge"),
    )
    for command in commands:
        done = invoke(*command)
        assert isinstance(done.error, CapabilityError), (command, done)
        assert "exported model" in done.error.message
        assert done.error.hint.endswith("that it was made from: base")
    assert not (tmp_path / "x").exists()
    with lorakit.open(folders / "merged", threads=1) as model:
        with pytest.raises(CapabilityError, match="hidden states"):
            model.embed("hello")
        assert model.complete("hello", max_tokens=2).tokens


def test_saved_states_are_of_one_export(folders, tmp_path):
    """Both are of one base, without adapters at run time: their graphs tell them apart."""
    state = tmp_path / "state"
    with lorakit.open(folders / "merged/onnx/model.onnx", threads=1) as model:
        ids = model.chat_prompt(ASKED)
        model.save_state(ids, state)
    with lorakit.open(folders / "merged/onnx/model.onnx", threads=1) as model:
        assert model.load_state(state) == len(ids)
        assert model.complete([*ids, 7], max_tokens=1).cached_tokens == len(ids)
    for other in ("merged", "apart", "dynamic"):
        with lorakit.open(folders / other, threads=1) as model, pytest.raises(MismatchError):
            model.load_state(state)


def test_the_commands_run_it(folders, tmp_path):
    done = invoke("run", folders / "merged", ASKED[0]["content"])
    assert done.code == 0, done
    assert "set_lights" in done.stdout
    assert "model_quantized.onnx (q8) runs" in done.stderr
    done = invoke("run", folders / "composed", ASKED[0]["content"], "-a", "home", "--json")
    assert json.loads(done.stdout)["adapters"] == {"home": 1.0}
    assert json.loads(done.stdout)["tool_calls"][0]["function"]["name"] == "set_lights"
    assert "runs" not in done.stderr
    done = invoke("chat", folders / "apart", typed=ASKED[0]["content"] + "\n")
    assert done.code == 0, done
    assert "set_lights" in done.stdout


def test_eval_takes_it(folders, tmp_path):
    rows = [{"messages": [*ASKED, {"role": "assistant", "content": "Done."}]}]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for base, adapter in (
        ("merged", ()),
        ("composed", ("-a", "home")),
        ("dynamic", ("-a", HOME.path)),
    ):
        done = invoke("eval", folders / base, "--data", data, *adapter, "--json")
        assert done.code == 0, done


def test_check_says_what_it_takes(folders):
    dora = DATA / "truth/peft/llama/dora"
    llama = DATA / "truth/bases/llama"
    lorakit.export(llama, folders / "llama", mode="dynamic", quantize="none", prove_it=False)
    for adapter, base, runs, why in (
        (HOME.path, "dynamic", True, ""),
        (HOME.path, "merged", False, "without inputs"),
        (HOME.path, "composed", False, "it holds home"),
        (dora, "llama", False, "DoRA"),
    ):
        done = invoke("check", adapter, "-b", folders / base)
        assert done.code == 0, done
        assert ("it runs on onnx" in done.stdout) == runs
        assert why in done.stdout


def test_verify_compares_it(folders):
    one = (BASE, "-a", HOME.path)
    for against in ("apart", "merged/onnx/model.onnx"):
        done = invoke("verify", *one, "--against", folders / against)
        assert done.code == 0, done
        assert "agrees" in done.stdout
    done = invoke("verify", BASE, "--against", folders / "apart")  # which has the adapter
    assert done.code == 1
    done = invoke("verify", *one, "--against", folders / "merged", "--max-kl", "0.05", "--json")
    assert done.code == 0, done
    assert 0 < json.loads(done.stdout)["total"]["kl"] < 0.05
    done = invoke("verify", folders / "dynamic", "-a", HOME.path, "--against", f"on:{BASE}")
    assert done.code == 0, done
    done = invoke("verify", folders / "composed", "-a", "home", "--against", "base")
    assert "differs" in done.stdout
    done = invoke("verify", folders / "dynamic", "-a", HOME.path, "--against", "peft")
    assert isinstance(done.error, CapabilityError)


def test_what_a_form_may_cost_is_what_its_export_may(folders):
    assert TARGETS["onnx"].limits.items() >= EXPORTS.items()
    assert MOST["q8 export"] == EXPORTS["q8"]


def test_a_folder_without_a_tokenizer(folders, tmp_path):
    place = shutil.copytree(folders / "apart", tmp_path / "copy")
    (place / "tokenizer.json").unlink()
    with pytest.raises(BaseModelError) as found:
        lorakit.open(place)
    assert found.value.code == "tokenizer_missing"
