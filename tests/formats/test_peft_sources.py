"""Pickles, initial adapters of PiSSA and its kin, and named adapters in subfolders."""

import json
import pickle
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from folders import DATA
from lorakit.adapter import Adapter, Delta
from lorakit.errors import FormatError, MissingExtraError, UnsupportedError
from lorakit.formats import read_adapter
from lorakit.formats.convert import convert
from lorakit.formats.peft import read_peft, write_peft

TRUTH = DATA / "truth/peft/llama"
Q = "model.layers.0.self_attn.q_proj"


def test_a_pickle_is_refused_with_the_way_out():
    with pytest.raises(UnsupportedError, match="allow_pickle") as caught:
        read_adapter(TRUTH / "pickle_bin")
    assert caught.value.code == "pickle_refused"
    with pytest.raises(UnsupportedError):
        read_adapter(TRUTH / "pickle_bin/adapter_model.bin")


def test_a_pickle_is_read_where_it_is_allowed(tmp_path):
    pytest.importorskip("torch", reason="it reads the pickle")
    adapter = read_adapter(TRUTH / "pickle_bin", allow_pickle=True)
    assert adapter.max_rank > 0
    report = convert(TRUTH / "pickle_bin", tmp_path / "a", to="peft", allow_pickle=True)
    assert read_adapter(tmp_path / "a") == adapter == report.adapter


@pytest.mark.filterwarnings("ignore")  # the oracle's own
def test_a_pickle_gives_pefts_logits(tmp_path):
    peft = pytest.importorskip("peft", reason="the oracle of this test")
    torch = pytest.importorskip("torch", reason="the oracle of this test")
    transformers = pytest.importorskip("transformers", reason="the oracle of this test")
    convert(TRUTH / "pickle_bin", tmp_path / "a", to="peft", allow_pickle=True)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        DATA / "truth/bases/llama", attn_implementation="eager"
    )
    model = peft.PeftModel.from_pretrained(base, tmp_path / "a").eval()
    recorded = np.load(TRUTH / "pickle_bin/logits.npz")
    ids = np.load(DATA / "truth/bases/llama/base_logits.npz")["ids1"]
    with torch.no_grad():
        found = model(torch.as_tensor(ids)[None]).logits[0].numpy()
    np.testing.assert_allclose(found, recorded["scale1_1"], atol=2e-4)


class Runs:
    def __reduce__(self):
        return print, ("a pickle ran code",)


def pickled(tmp_path, content):
    torch = pytest.importorskip("torch", reason="it reads the pickle")
    shutil.copytree(TRUTH / "pickle_bin", tmp_path / "a")
    file = tmp_path / "a/adapter_model.bin"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    return tmp_path / "a"


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", pickle.dumps(Runs()), {"x": Runs()}, [1], {"x": 1}],
    ids=["empty", "zip", "code", "code in a file of torch", "list", "number"],
)
def test_a_pickle_of_anything_but_tensors_is_refused(content, tmp_path, capsys):
    with pytest.raises(FormatError):
        read_adapter(pickled(tmp_path, content), allow_pickle=True)
    assert "ran code" not in capsys.readouterr().out


def test_bfloat16_survives_a_pickle(tmp_path):
    torch = pytest.importorskip("torch", reason="it reads the pickle")
    file = TRUTH / "pickle_bin/adapter_model.bin"
    content = {name: t.bfloat16() for name, t in torch.load(file, weights_only=True).items()}
    found = read_adapter(pickled(tmp_path, content), allow_pickle=True)
    plain = read_adapter(TRUTH / "pickle_bin", allow_pickle=True)
    for ours, exact in zip(found.deltas, plain.deltas, strict=True):
        assert ours.a.dtype.name == "bfloat16"
        np.testing.assert_allclose(ours.a.astype("f4"), exact.a, rtol=1e-2)


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"lorakit\[torch\]"):
        read_adapter(TRUTH / "pickle_bin", allow_pickle=True)


def raw_pissa(path, *, kind="pissa_niter_4", seed=0, **changes):
    """An adapter whose config says that it belongs to a changed base."""
    rng = np.random.default_rng(seed)
    delta = Delta(
        module=Q, a=rng.normal(size=(2, 6)).astype("f4"), b=rng.normal(size=(4, 2)).astype("f4"),
        scale=0.5, **changes,
    )  # fmt: skip
    write_peft(Adapter(deltas=(delta,)), path)
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": kind}))
    return delta


@pytest.mark.parametrize("kind", ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga"])
def test_with_its_initial_adapter_it_becomes_a_plain_one(kind, tmp_path):
    trained = raw_pissa(tmp_path / "a", kind=kind)
    initial = raw_pissa(tmp_path / "start", kind=True, seed=1)
    with pytest.raises(UnsupportedError, match="init"):
        read_adapter(tmp_path / "a")
    found = read_adapter(tmp_path / "a", init=tmp_path / "start")
    (delta,) = found.deltas
    assert delta.rank == 4
    expected = 0.5 * (trained.b @ trained.a - initial.b @ initial.a)
    np.testing.assert_allclose(delta.scale * (delta.b @ delta.a), expected, atol=1e-6)
    shutil.move(tmp_path / "start", tmp_path / "a" / f"{kind.split('_n')[0]}_init")
    assert read_adapter(tmp_path / "a") == found
    write_peft(found, tmp_path / "plain")
    assert read_adapter(tmp_path / "plain") == found


def test_it_is_what_peft_itself_converted(tmp_path):
    """The halves of what PEFT converted are the trained adapter and the initial one."""
    converted = read_peft(TRUTH / "pissa_converted")
    halves = [
        tuple(replace(d, a=d.a[part], b=sign * d.b[:, part], alpha=None) for d in converted.deltas)
        for part, sign in ((slice(0, 4), 1), (slice(4, 8), -1))
    ]
    for name, deltas in zip(("a", "a/pissa_init"), halves, strict=True):
        write_peft(Adapter(deltas=deltas), tmp_path / name)
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    text = json.dumps(config | {"init_lora_weights": "pissa"})
    (tmp_path / "a/adapter_config.json").write_text(text)
    assert read_adapter(tmp_path / "a") == converted


def test_loftq_and_adapters_that_do_not_belong_together_are_refused(tmp_path):
    raw_pissa(tmp_path / "loftq", kind="loftq")
    raw_pissa(tmp_path / "a")
    raw_pissa(tmp_path / "start", kind=True, seed=1)
    with pytest.raises(UnsupportedError):
        read_adapter(tmp_path / "loftq", init=tmp_path / "start")
    with pytest.raises(UnsupportedError, match="without"):
        read_adapter(tmp_path / "start", init=tmp_path / "start")
    with pytest.raises(UnsupportedError, match="only a PEFT"):
        read_adapter(DATA / "truth/mlx/llama/lora", init=tmp_path / "start")
    other = Delta(module=Q, a=np.ones((3, 6), "f4"), b=np.ones((4, 3), "f4"), scale=0.5)
    write_peft(Adapter(deltas=(other,)), tmp_path / "other")
    with pytest.raises(FormatError, match="belong together"):
        read_adapter(tmp_path / "a", init=tmp_path / "other")


def test_a_folder_of_named_adapters_lists_them_and_each_is_read(tmp_path):
    shutil.copytree(TRUTH / "plain", tmp_path / "run/home")
    with pytest.raises(UnsupportedError, match="one named adapter") as caught:
        read_adapter(tmp_path / "run")
    assert caught.value.items == ("home",)
    assert str(tmp_path / "run/home") in caught.value.hint
    convert(tmp_path / "run/home", tmp_path / "out", to="mlx")
    shutil.copytree(TRUTH / "plain_b", tmp_path / "run/style")
    with pytest.raises(UnsupportedError, match="named adapters") as caught:
        read_adapter(tmp_path / "run")
    assert caught.value.items == ("home", "style")
