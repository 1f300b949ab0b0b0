"""Models with a recurrent state, and hybrids: transformers' logits; states are never cut."""

import numpy as np
import pytest
from llama_cases import TRUTH, open_file, row

import gguf_files
import lorakit
from lorakit.base.gguf import open_gguf_base
from lorakit.engines.llama.recurrent import StateMemory
from lorakit.errors import CancelledError, CapabilityError, EngineError
from lorakit.files.gguf import Value, open_gguf
from lorakit.files.gguf_write import write_gguf_file

pytest.importorskip("torch", reason="compared with transformers")
pytest.importorskip("transformers", reason="compared with transformers")

IDS = [1, 270, 31, 5, 499, 70, 300, 11, 401, 33, 8, 120]
CONFIGS = {
    "mamba": {
        "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8,
        "time_step_rank": 4, "conv_kernel": 4, "expand": 2, "tie_word_embeddings": True,
    },
    "lfm2": {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "conv_L_cache": 3,
        "block_auto_adjust_ff_dim": False, "tie_word_embeddings": True,
        "layer_types": ["conv", "full_attention", "conv"], "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
}  # fmt: skip
NAMES = {  # llama.cpp's, as its converter gives them
    "mamba": {
        "backbone.embeddings": "token_embd", "backbone.norm_f": "output_norm", "norm": "attn_norm",
        "mixer.in_proj": "ssm_in", "mixer.conv1d": "ssm_conv1d", "mixer.x_proj": "ssm_x",
        "mixer.dt_proj": "ssm_dt", "mixer.out_proj": "ssm_out",
    },
    "lfm2": {
        "model.embed_tokens": "token_embd", "model.embedding_norm": "token_embd_norm",
        "operator_norm": "attn_norm", "ffn_norm": "ffn_norm", "conv.in_proj": "shortconv.in_proj",
        "conv.conv": "shortconv.conv", "conv.out_proj": "shortconv.out_proj",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.out_proj": "attn_output", "self_attn.q_layernorm": "attn_q_norm",
        "self_attn.k_layernorm": "attn_k_norm", "feed_forward.w1": "ffn_gate",
        "feed_forward.w2": "ffn_down", "feed_forward.w3": "ffn_up",
    },
}  # fmt: skip
NUMBERS = {
    "mamba": {
        "feed_forward_length": 0, "attention.head_count": 0, "ssm.conv_kernel": 4,
        "ssm.inner_size": 128, "ssm.state_size": 8, "ssm.time_step_rank": 4,
    },
    "lfm2": {
        "feed_forward_length": 96, "attention.head_count": 4, "shortconv.l_cache": 3,
    },
}  # fmt: skip


def tensor_of(family, name, value):
    """GGUF's name and values of a parameter."""
    module, _, kind = name.rpartition(".")
    at = ""
    if ".layers." in module:
        _, _, layer, module = f"{module}.".replace("..", ".").rstrip(".").split(".", 3)
        at = f"blk.{layer}."
    if kind == "A_log":
        return f"{at}ssm_a", -np.exp(value)
    if kind == "D":
        return f"{at}ssm_d", value
    whole = f"{at}{NAMES[family][module]}.{kind}"
    return whole, value[:, 0] if value.ndim == 3 else value


def keys(family):
    name, count = family, CONFIGS[family]["num_hidden_layers"]
    sizes = {"block_count": count, "context_length": 256, "embedding_length": 64}
    found = {
        "general.architecture": Value("str", name),
        "general.type": Value("str", "model"),
        "general.file_type": Value("u32", 0),
        f"{name}.attention.layer_norm_rms_epsilon": Value("f32", 1e-5),
        **{f"{name}.{key}": Value("u32", n) for key, n in {**sizes, **NUMBERS[family]}.items()},
    }
    if family == "lfm2":
        heads = np.array([0, 2, 0], np.int32)  # a layer without attention has none
        found[f"{name}.attention.head_count_kv"] = Value("i32", heads, array=True)
        found[f"{name}.rope.freq_base"] = Value("f32", 10000.0)
    return found


@pytest.fixture(scope="module", params=["mamba", "lfm2"])
def case(request, tmp_path_factory):
    """A family, its file, and what transformers makes of IDS."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    family = request.param
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **CONFIGS[family])
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith(("A_log", ".D")):
                parameter.add_(torch.randn_like(parameter) * 0.15)
        logits = model(torch.tensor([IDS]), use_cache=False).logits[0].numpy()
    path = tmp_path_factory.mktemp("recurrent") / f"{family}.gguf"
    known = open_gguf(TRUTH / "gguf/gemma3.base.f32.gguf", model=True, vocabulary=True)
    vocabulary = {k: v for k, v in known.values.items() if k.startswith("tokenizer.")}
    named = (
        tensor_of(family, name, value.detach().numpy()) for name, value in model.named_parameters()
    )
    tensors = {name: np.ascontiguousarray(value, np.float32) for name, value in named}
    with path.open("wb") as file:
        write_gguf_file(file, keys(family) | vocabulary, tensors)
    return family, path, logits


@pytest.fixture
def model(case):
    with lorakit.open(case[1], threads=1) as opened:
        yield opened


def answer(model, ids, count=12, **options):
    done = model.complete(list(ids), max_tokens=count, ignore_eos=True, **options)
    return [choice.token for choice in done.tokens], done.cached_tokens


def test_it_has_transformers_logits(case, model):
    np.testing.assert_allclose(model.logits(IDS), case[2], rtol=0, atol=2e-4)


def test_a_whole_sequence_is_reused_and_a_part_of_one_is_not(case, model):
    first, _ = answer(model, IDS)
    held = [*IDS, *first[:-1]]  # the last was chosen, and never computed
    after, cached = answer(model, [*held, 3, 4])
    assert cached == len(held)
    assert answer(model, IDS) == (first, 0)
    with lorakit.open(case[1], threads=1) as fresh:
        assert answer(fresh, [*held, 3, 4]) == (after, 0)


def test_a_state_taken_for_a_shorter_one_would_show(case, monkeypatch):
    """The broken variant, what is right for a KV cache: llama.cpp finds tokens out of order."""
    monkeypatch.setattr(StateMemory, "whole", lambda self, slot, end: min(end, self._end(slot)))
    monkeypatch.setattr(StateMemory, "cut", lambda self, slot, length: None)
    monkeypatch.setattr(StateMemory, "_require", lambda *_: None)
    with lorakit.open(case[1], threads=1) as model:
        answer(model, IDS)
        with pytest.raises(EngineError, match="failed to decode"):
            answer(model, IDS[:6])


def test_nothing_less_than_a_whole_state_is_held_or_kept(case):
    engine = open_file(case[1], context=256, max_batch=4)
    sequence = engine.open_sequence()
    engine.forward([row(sequence, [5, 6, 7])])
    (context,) = engine._pool
    (slot,), memory = context.lengths, context._memory
    assert [memory.whole(slot, length) for length in (4, 3, 2, 1)] == [3, 3, 0, 0]
    with pytest.raises(EngineError, match="cannot be cut back"):
        memory.cut(slot, 2)
    assert memory.whole(slot, 3) == 3
    memory.cut(slot, 0)
    assert memory.whole(slot, 3) == 0
    engine.close()


def test_a_batch_answers_as_each_alone(case, model):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 500, 20 + 9 * n).tolist() for n in range(9)]
    short = lorakit.SamplingParams(max_tokens=40, ignore_eos=True)
    done = model.batch([lorakit.Request(prompt=ids, sampling=short) for ids in prompts])
    for ids, each in zip(prompts, done, strict=True):
        assert [choice.token for choice in each.tokens] == answer(model, ids, 40)[0]


def test_a_step_that_was_broken_off_changes_no_other_answer(case, model):
    """Its state may be half of a step ahead: it is computed again."""
    right, _ = answer(model, IDS, 60)
    stream = model.stream(IDS, max_tokens=60, ignore_eos=True, lookahead=None)
    for number in range(5):
        other = model.stream([7 + number] * 100, max_tokens=50, ignore_eos=True)
        next(other)
        other.cancel()
    assert [choice.token for choice in stream.result().tokens] == right


def test_an_interrupted_step_leaves_an_empty_sequence(case, monkeypatch):
    """And the broken variant: its position is that of before, and its state may be of after."""
    for drops in (True, False):
        engine = open_file(case[1], context=256, max_batch=4)
        sequence = engine.open_sequence()
        engine.forward([row(sequence, [5, 6, 7])])
        (context,) = engine._pool
        context.recurrent = drops
        monkeypatch.setattr(context, "truncate", lambda slot, length: None)
        monkeypatch.setattr(engine._abort, "clear", lambda: None)
        engine.interrupt()
        with pytest.raises(CancelledError):
            engine.forward([row(sequence, list(range(8, 40)))])
        assert engine.length(sequence) == (0 if drops else 3)
        monkeypatch.undo()
        engine.close()


def test_sessions_fork_edit_and_go_on(case, model):
    session = model.session()
    session.send("Hello", max_tokens=4)
    fork = session.fork()
    one = str(session.send("And then?", max_tokens=6, temperature=0))
    assert str(fork.send("And then?", max_tokens=6, temperature=0)) == one
    session.edit_last("Or else?", max_tokens=4)
    assert len(session.messages) == 4


def test_states_are_not_saved(case, model, tmp_path):
    with pytest.raises(CapabilityError, match="not saved"):
        model.save_state(IDS, tmp_path / "x.state")
    assert list(tmp_path.iterdir()) == []


def adapter_file(path, family, shapes, seed=0):
    rng = np.random.default_rng(seed)
    tensors = {}
    for module, (out, n_in) in shapes.items():
        tensors[f"{module}.weight.lora_a"] = rng.standard_normal((2, n_in)).astype(np.float32)
        tensors[f"{module}.weight.lora_b"] = rng.standard_normal((out, 2)).astype(np.float32) * 0.3
    values = {"architecture": family, "type": "adapter"}
    said = {f"general.{key}": Value("str", value) for key, value in values.items()}
    said |= {"adapter.type": Value("str", "lora"), "adapter.lora.alpha": Value("f32", 2.0)}
    with path.open("wb") as file:
        write_gguf_file(file, said, {k: v.astype(np.float32) for k, v in tensors.items()})
    return path


SHAPES = {
    "mamba": {"blk.0.ssm_in": (256, 64), "blk.1.ssm_out": (64, 128), "blk.1.ssm_x": (20, 128)},
    "lfm2": {"blk.0.shortconv.in_proj": (192, 64), "blk.1.attn_q": (64, 64)},
}


def test_adapters_act_per_request(case, model, tmp_path):
    """As in weights that hold B A: a state is of one set of adapters, and of no other."""
    family, path, _ = case
    file = adapter_file(tmp_path / "a.gguf", family, SHAPES[family])
    held, delta = open_gguf(path, model=True), open_gguf(file).tensors
    changed = {}
    for module in SHAPES[family]:
        name = f"{module}.weight"
        a, b = (delta[f"{name}.lora_{half}"].array() for half in "ab")
        merged = held.tensors[name].array() + b @ a
        changed[name] = ("F32", merged.shape, merged.astype(np.float32).tobytes())
    whole = gguf_files.changed(path, tmp_path / "merged.gguf", tensors=changed)
    model.load_adapter(file, "a")
    with lorakit.open(whole, threads=1) as other:
        right = np.array(other.logits(IDS))
        expected = answer(other, IDS)[0]
    found = model.logits(IDS, adapters={"a": 1.0})
    np.testing.assert_allclose(found, right, rtol=0, atol=2e-4)
    assert np.abs(np.array(model.logits(IDS, adapters={})) - right).max() > 0.05
    plain, _ = answer(model, IDS, adapters={})
    assert answer(model, IDS, adapters={"a": 1.0}) == (expected, 0)
    assert answer(model, IDS, adapters={})[0] == plain


def test_a_change_in_mid_stream_recomputes_all_or_keeps_the_state(case, model, tmp_path):
    file = adapter_file(tmp_path / "a.gguf", case[0], SHAPES[case[0]])
    model.load_adapter(file, "a")
    for policy, is_cold in (("recompute", True), ("keep", False)):
        model.clear_adapters()
        stream = model.stream(IDS, max_tokens=3, ignore_eos=True, logprobs=0)
        next(stream)
        model.apply({"a": 1.0}, kv=policy)
        first, second, *_ = stream.result().tokens
        cold = model.complete(
            [*IDS, first.token], adapters={"a": 1.0}, logprobs=0, max_tokens=1, ignore_eos=True
        ).tokens[0]
        same = second.token == cold.token and abs(second.logprob - cold.logprob) < 1e-4
        assert same is is_cold


def test_what_is_known_of_it_is_what_the_file_says(case):
    family, path, _ = case
    base = open_gguf_base(path)
    assert base.decoder.is_foreign
    shapes = {name: (s.out_features, s.in_features) for name, s in base.decoder.modules().items()}
    assert shapes.items() >= SHAPES[family].items()
