"""Folders made of GGUF files: the model that was converted, its tokenizer, and its logits."""

import json

import numpy as np
import pytest

import lorakit
from folders import DATA
from gguf_files import blocks, changed, floats, sentencepiece
from lorakit.architectures import describe
from lorakit.base.folder import Base
from lorakit.chat.template import ChatTemplate
from lorakit.errors import BaseModelError, FormatError, UnsupportedError
from lorakit.files.dequantize import READABLE
from lorakit.files.gguf import Value, open_gguf
from lorakit.files.gguf_types import PLAIN
from lorakit.formats import read_adapter
from lorakit.merge import merge, stream
from lorakit.merge.gguf.config import LLAMA3, llama3_factors
from lorakit.merge.gguf.weights import Held
from lorakit.text.tokenizer import Tokenizer

TRUTH = DATA / "truth"
FILES = {
    "gemma3": TRUTH / "gguf/gemma3.base.f32.gguf",
    "llama": TRUTH / "gguf/llama.base.f32.gguf",
    **{name: TRUTH / f"llama_cpp/{name}/base.f32.gguf" for name in ("gpt2", "phi3", "qwen3_moe")},
}
TEXTS = ("", "hello world", " a  b\n\n<bos>x<eos> 1234 it's", "\u00fcber \u4f60\u597d \U0001f600")
Q = "blk.1.attn_q.weight"


def made(file, tmp_path, name="out", **options):
    """A folder of a GGUF file."""
    adapters = options.pop("adapters", [])
    merge(file, adapters, tmp_path / name, **options)
    return tmp_path / name


def weights(folder):
    return {name: np.array(tensor) for name, tensor in Base.open(folder).tensors.items()}


def logits(folder, ids):
    with lorakit.open(folder, threads=1) as model:
        return np.array(model.logits(list(map(int, ids))))


@pytest.mark.parametrize("name", ["gemma3", "llama"])
def test_the_folder_is_the_one_that_was_converted(name, tmp_path):
    """Gemma's norms are stored with a 1 added, which rounds them: equal where it is added again."""
    original = TRUTH / "bases" / name
    folder = made(FILES[name], tmp_path)
    ours, theirs = weights(folder), weights(original)
    assert ours.keys() == theirs.keys()
    for key, array in theirs.items():
        one = np.float32(1 if name == "gemma3" and "norm" in key else 0)
        assert np.array_equal(ours[key] + one, array + one), key
    assert Base.open(folder).decoder == Base.open(original).decoder
    with np.load(original / "base_logits.npz") as file:
        assert np.array_equal(logits(folder, file["ids2"]), logits(original, file["ids2"]))


@pytest.mark.parametrize("name", ["gemma3", "llama"])
def test_the_tokenizer_is_the_original_one(name, tmp_path):
    folder, original = made(FILES[name], tmp_path), TRUTH / "bases" / name
    ours, theirs = Tokenizer.open(folder), Tokenizer.open(original)
    for text in TEXTS:
        ids = theirs.encode(text, special=True)
        assert ours.encode(text, special=True) == ids
        assert ours.decode(ids) == theirs.decode(ids)
    for same in ("bos_id", "eos_ids", "control_ids", "special_tokens"):
        assert getattr(ours, same) == getattr(theirs, same)
    one, other = ChatTemplate.open(folder), ChatTemplate.open(original)
    assert one.sources == other.sources
    assert one.special_tokens == other.special_tokens


@pytest.mark.parametrize("name", ["gpt2", "phi3", "qwen3_moe"])
def test_the_config_describes_the_same_model(name, tmp_path):
    """These files were converted without a tokenizer."""
    folder = made(FILES[name], tmp_path)
    original = json.loads((FILES[name].parent / "config.json").read_text())
    assert Base.open(folder).decoder == describe(original)
    assert not (folder / "tokenizer.json").exists()


@pytest.mark.parametrize("name", sorted(FILES))
def test_transformers_loads_it_and_gives_the_recorded_logits(name, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    options = {"attn_implementation": "eager", "dtype": "float32"}
    folder = made(FILES[name], tmp_path)
    recorded = FILES[name].parent / "logits.npz"
    if not recorded.exists():
        recorded = TRUTH / "bases" / name / "base_logits.npz"
    with np.load(recorded) as file:
        ids, right = (
            (file["ids"], file["base"])
            if "ids" in file
            else (file["ids1"], file["logits1"])
        )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    with torch.no_grad():
        found = model(torch.tensor(ids)[None]).logits[0].numpy()
    assert np.abs(found - right).max() < 2e-5
    if name in ("gemma3", "llama"):
        ours = transformers.AutoTokenizer.from_pretrained(folder)
        theirs = transformers.AutoTokenizer.from_pretrained(TRUTH / "bases" / name)
        assert [ours(text).input_ids for text in TEXTS] == [theirs(t).input_ids for t in TEXTS]
        assert ours.chat_template == theirs.chat_template


@pytest.mark.parametrize("name", ["gemma3", "llama"])
def test_adapters_are_merged_as_into_the_original_folder(name, tmp_path):
    adapters = [
        (read_adapter(TRUTH / f"peft/{name}/plain"), 0.5),
        (read_adapter(TRUTH / f"peft/{name}/dora"), 1.0),
    ]
    folder = made(FILES[name], tmp_path, adapters=adapters)
    report = merge(Base.open(TRUTH / "bases" / name), adapters, tmp_path / "theirs")
    ours, theirs = weights(folder), weights(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    assert report.changed
    for key in report.changed:
        assert np.array_equal(ours[key], theirs[key]), key


def test_experts_of_an_adapter_are_merged_one_by_one(tmp_path):
    adapter = read_adapter(TRUTH / "llama_cpp/qwen3_moe_experts")
    plain = weights(made(FILES["qwen3_moe"], tmp_path, "plain"))
    after = weights(made(FILES["qwen3_moe"], tmp_path, adapters=[(adapter, 1.0)]))
    module = next(d for d in adapter.deltas if d.module.endswith("0.mlp.experts.down_proj"))
    for expert in range(3):
        key = f"model.layers.0.mlp.experts.{expert}.down_proj.weight"
        change = module.scale * module.b[expert] @ module.a[expert]
        assert np.allclose(after[key] - plain[key], change, atol=1e-6)
        assert np.abs(change).max() > 1e-3


@pytest.mark.parametrize("kind", sorted(READABLE - set(PLAIN)))
def test_quantised_tensors_become_their_values(kind, tmp_path):
    """Against the same file with those values as F32: every row finds its place."""
    size = {"embedding_length": 256, "feed_forward_length": 256, "attention.key_length": 16}
    values = {f"llama.{key}": Value("u32", number) for key, number in size.items()}
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    rows = {"attn_q": 64, "attn_k": 32, "attn_v": 32}
    tensors = dict.fromkeys(open_gguf(FILES["llama"], model=True).tensors)
    values["llama.block_count"] = Value("u32", 1)
    for at, name in enumerate(names):
        shape = (256, 64) if name == "attn_output" else (rows.get(name, 256), 256)
        tensors[f"blk.0.{name}.weight"] = (
            floats(np.ones(shape)) if shape[1] % 256 else blocks(kind, shape, at)
        )
    tensors |= {f"blk.0.{norm}_norm.weight": floats(np.ones(256)) for norm in ("attn", "ffn")}
    tensors["output_norm.weight"] = floats(np.ones(256))
    tensors["token_embd.weight"] = blocks(kind, (512, 256), 9)
    tensors["output.weight"] = blocks(kind, (512, 256), 10)
    file = changed(FILES["llama"], tmp_path / "q.gguf", values, tensors)
    held = {n: floats(t.array()) for n, t in open_gguf(file, model=True).tensors.items()}
    plain = changed(file, tmp_path / "f32.gguf", tensors=held)
    ours, theirs = weights(made(file, tmp_path)), weights(made(plain, tmp_path, "plain"))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
    assert len(np.unique(ours["model.layers.0.self_attn.q_proj.weight"])) > 2


def test_columns_of_quantised_blocks_are_turned_over(tmp_path):
    """GPT-2's matrices: some columns of the file are read out of the blocks that hold them."""
    tensors = {"blk.0.ffn_up.weight": blocks("Q4_1", (128, 32))}
    file = changed(FILES["gpt2"], tmp_path / "q.gguf", tensors=tensors)
    found = weights(made(file, tmp_path))["transformer.h.0.mlp.c_fc.weight"]
    assert np.array_equal(
        found, open_gguf(file, model=True).tensors["blk.0.ffn_up.weight"].array().T
    )


@pytest.mark.parametrize("name", sorted(FILES))
def test_pieces_of_any_size_give_the_same_and_hold_no_more(name, tmp_path, monkeypatch):
    """Rows are read a piece at a time, whatever the order that they have in the file."""
    whole, sizes = weights(made(FILES[name], tmp_path, "whole")), []
    read = Held.read

    def noted(self, begin, end):
        sizes.append((end - begin) * self.columns)
        return read(self, begin, end)

    monkeypatch.setattr(stream, "PIECE", 400)
    monkeypatch.setattr(Held, "read", noted)
    pieces = weights(made(FILES[name], tmp_path))
    assert all(np.array_equal(pieces[key], whole[key]) for key in whole)
    assert max(sizes) <= 400
    assert len(sizes) > len(whole)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", None])
def test_the_dtype_is_the_files_own_or_what_was_asked_for(dtype, tmp_path):
    """Of plain floats their own; quantised values would not be exact in less than float32."""
    table = open_gguf(FILES["llama"], model=True).tensors["token_embd.weight"].array()
    half = ("F16", table.shape, table.astype("<f2").tobytes())
    file = changed(FILES["llama"], tmp_path / "f16.gguf", tensors={"token_embd.weight": half})
    base = Base.open(made(file, tmp_path, dtype=dtype))
    wanted = {"f16": "float16", "bf16": "bfloat16", "f32": "float32"}
    assert base.tensors["model.embed_tokens.weight"].dtype == wanted.get(dtype, "float16")
    assert base.tensors["model.norm.weight"].dtype == wanted.get(dtype, "float32")
    assert base.config["dtype"] == wanted.get(dtype, "float16")


@pytest.mark.parametrize(
    "scaling",
    [{"factor": 8.0, **LLAMA3}, {"factor": 32.0, **LLAMA3}, {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 16.0,
        "original_max_position_embeddings": 300,
    }],
)  # fmt: skip
def test_llama_3s_rope_is_found_in_its_factors(scaling, tmp_path):
    """The file has a factor for each frequency, the config the four numbers they follow from."""
    frequencies = 10000.0 ** (-np.arange(0, 16, 2) / 16)
    factors = floats(llama3_factors(scaling, frequencies))
    file = changed(FILES["llama"], tmp_path / "r.gguf", tensors={"rope_freqs.weight": factors})
    found = Base.open(made(file, tmp_path)).config["rope_scaling"]
    assert {key: found[key] for key in scaling} == scaling


def test_factors_of_phi_3_and_linear_scaling_are_said(tmp_path):
    lists = {
        f"rope_factors_{n}.weight": floats(np.full(8, v)) for n, v in (("long", 2), ("short", 1))
    }
    phi = changed(FILES["phi3"], tmp_path / "phi.gguf", tensors=lists)
    found = Base.open(made(phi, tmp_path, "phi")).config
    assert found["rope_scaling"]["long_factor"] == [2.0] * 8
    assert found["original_max_position_embeddings"] == 4096
    scaled = {
        "gemma3.rope.scaling.type": Value("str", "linear"),
        "gemma3.rope.scaling.factor": Value("f32", 8.0),
    }
    gemma = changed(FILES["gemma3"], tmp_path / "gemma.gguf", scaled)
    layers = Base.open(made(gemma, tmp_path, "gemma")).decoder.layers
    assert layers[-1].rope.factor == 8
    assert layers[0].rope.factor == 1


def test_a_sentencepiece_vocabulary_becomes_one_with_merges(tmp_path):
    file = changed(FILES["llama"], tmp_path / "spm.gguf", sentencepiece(512))
    folder = made(file, tmp_path)
    tokenizer = Tokenizer.open(folder)
    ids = tokenizer.encode("the hello<|user|> \u00df", special=True)
    names = [tokenizer.token(token) for token in ids]
    space = "\u2581"
    assert names == [
        "<s>",
        f"{space}the",
        f"{space}hello",
        "<|user|>",
        space,
        space,
        "<0xC3>",
        "<0x9F>",
    ]
    assert tokenizer.decode(ids, skip=tokenizer.control_ids) == "the hello<|user|>  \u00df"
    assert tokenizer.encode("the", special=False) == [ids[1]]
    unprefixed = {**sentencepiece(512), "tokenizer.ggml.add_space_prefix": Value("bool", False)}
    file = changed(FILES["llama"], tmp_path / "gemma.gguf", unprefixed)
    tokenizer = Tokenizer.open(made(file, tmp_path, "gemma"))
    assert [tokenizer.token(i) for i in tokenizer.encode("the the", special=False)] == [
        "the",
        f"{space}the",
    ]


REFUSED = {
    "splitting": ({"tokenizer.ggml.pre": Value("str", "jais-2")}, {}, "jais-2"),
    "tokenizer": ({"tokenizer.ggml.model": Value("str", "t5")}, {}, "t5"),
    "rope": ({"llama.rope.scaling.type": Value("str", "longrope")}, {}, "longrope"),
    "factors": ({}, {"rope_freqs.weight": floats(np.full(8, 3.0))}, "not Llama 3"),
    "place": ({}, {"blk.0.attn_q.bias": floats(np.ones(64))}, "no place"),
    "type": ({}, {Q: ("I8", (64, 64), bytes(4096))}, "I8"),
    "missing": ({}, {Q: None}, "blk.1.attn_q.weight: missing"),
    "shape": ({}, {Q: floats(np.ones((32, 64)))}, "expected \\[64, 64\\]"),
    "kinds": ({"tokenizer.ggml.token_type": Value("i32", [1], array=True)}, {}, "token_type"),
    "scalar": ({"tokenizer.ggml.tokens": Value("u32", 7)}, {}, "tokenizer.ggml.tokens must be"),
    "number": (
        {"llama.rope.scaling.factor": Value("str", "x")}, {}, "rope.scaling.factor must be"
    ),
    "twice": (
        {"tokenizer.ggml.tokens": Value("str", ("a",) * 512, array=True)}, {}, "'a': twice"
    ),
    "merge": ({"tokenizer.ggml.merges": Value("str", ("ab",), array=True)}, {}, "without a space"),
    "unknown": ({"tokenizer.ggml.merges": Value("str", ("zq zq",), array=True)}, {}, "tokenizer"),
    "long": (
        {"tokenizer.ggml.tokens": Value("str", ("a" * 2000,), array=True)}, {}, "2000 characters"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_folder_can_hold_is_refused_and_leaves_nothing(case, tmp_path):
    values, tensors, reason = REFUSED[case]
    file = changed(FILES["llama"], tmp_path / "base.gguf", values, tensors)
    with pytest.raises((BaseModelError, FormatError, UnsupportedError), match=reason):
        made(file, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["base.gguf"]
