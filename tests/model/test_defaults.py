"""A model's own sampling defaults: generation_config.json, general.sampling.* of a GGUF file."""

import json
import shutil
from pathlib import Path

import pytest

import lorakit
from commands import invoke
from gguf_files import changed
from lorakit import demo
from lorakit.base.gguf import open_base
from lorakit.files.gguf import Value
from lorakit.model.defaults import defaults_for, defaults_of, in_words
from lorakit.runtime.params import SamplingParams

TRUTH = Path(__file__).parents[1] / "data/truth"
HI = [{"role": "user", "content": "turn the lights off in the kitchen"}]


@pytest.fixture(scope="module")
def demo_saying(tmp_path_factory):
    """The demo's base with another generation_config.json (None: without)."""

    def folder(said):
        path = tmp_path_factory.mktemp("base") / "base"
        shutil.copytree(demo.base_path(), path)
        file = path / "generation_config.json"
        if said is None:
            file.unlink()
        else:
            file.write_text(json.dumps({**json.loads(file.read_text()), **said}))
        return path

    return folder


SAID = [
    ({"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}, {"temperature": 0.7,
     "top_p": 0.8, "top_k": 20}),
    ({"do_sample": True}, {"temperature": 1.0}),
    ({"do_sample": True, "temperature": 0.6, "min_p": 0.05, "typical_p": 0.9,
      "repetition_penalty": 1.05}, {"temperature": 0.6, "min_p": 0.05, "typical_p": 0.9,
                                    "repetition_penalty": 1.05}),
    ({"do_sample": False, "temperature": 0.6, "top_k": 5}, {"top_k": 5}),
    ({"do_sample": None, "temperature": 0.6, "top_p": None}, {}),
    (None, {}),
]  # fmt: skip


@pytest.mark.parametrize(("said", "wanted"), SAID)
def test_a_folder_says_how_it_samples(demo_saying, said, wanted):
    assert defaults_of(open_base(demo_saying(said))) == (SamplingParams(**wanted), [])


BAD = [
    ({"do_sample": True, "temperature": "hot", "top_k": -1, "top_p": 0.5},
     ["temperature", "top_k"]),
    ({"do_sample": "yes"}, ["do_sample"]),
    ({"repetition_penalty": 0, "min_p": [1], "typical_p": {"a": 1}},
     ["repetition_penalty", "min_p", "typical_p"]),
]  # fmt: skip


@pytest.mark.parametrize(("said", "names"), BAD)
def test_bad_values_are_warnings_and_ignored(demo_saying, said, names):
    with lorakit.open(demo_saying(said), threads=1) as model:
        assert [warning.code for warning in model.warnings] == ["sampling_ignored"] * len(names)
        for warning in model.warnings:
            assert any(f"generation_config.json: {name} must" in warning.message for name in names)
            assert warning.message.endswith("ignored") or "do_sample" in names
        kept = {"temperature": 1.0, "top_p": 0.5} if said.get("do_sample") is True else {}
        assert model.defaults == SamplingParams(**kept)


def test_a_gguf_file_says_it_in_its_keys(tmp_path):
    def defaults(**said):
        keys = {f"general.sampling.{name}": value for name, value in said.items()}
        source = TRUTH / "gguf/llama.base.f32.gguf"
        return defaults_of(open_base(changed(source, tmp_path / "a.gguf", keys)))

    assert defaults() == (SamplingParams(), [])
    assert defaults(
        temp=Value("f32", 0.7), top_p=Value("f32", 0.95), top_k=Value("i32", 20),
        penalty_repeat=Value("f32", 1.05), xtc_threshold=Value("f32", 0.1),
    ) == (
        SamplingParams(temperature=0.7, top_p=0.95, top_k=20, repetition_penalty=1.05), []
    )  # fmt: skip
    assert defaults(top_k=Value("i32", 64))[0] == SamplingParams(temperature=1.0, top_k=64)
    found, faults = defaults(temp=Value("f32", -1.0), min_p=Value("f32", 0.1))
    assert found == SamplingParams(temperature=1.0, min_p=0.1)
    assert len(faults) == 1
    assert faults[0].startswith("a.gguf: temperature must be")


@pytest.fixture(scope="module")
def sampling(demo_saying):
    with lorakit.open(demo_saying({"do_sample": True, "temperature": 9.0}), threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def greedy(demo_saying):
    with lorakit.open(demo_saying(None), threads=1) as model:
        yield model


WAYS = {
    "complete": lambda m, **kw: m.complete(m.chat_prompt(HI), **kw).text,
    "chat": lambda m, **kw: m.chat(HI, **kw).completion.text,
    "stream": lambda m, **kw: "".join(m.stream(m.chat_prompt(HI), **kw)),
    "stream of messages": lambda m, **kw: m.stream(HI, **kw).reply.completion.text,
    "batch": lambda m, **kw: m.batch([lorakit.Request(prompt=m.chat_prompt(HI), **kw)])[0].text,
    "batch of messages": lambda m, **kw: m.batch([lorakit.Request(messages=HI, **kw)])[
        0
    ].completion.text,
    "session": lambda m, **kw: m.session().send(HI[0]["content"], **kw).completion.text,
    "session of keywords": lambda m, **kw: m.session(**kw).send(
        HI[0]["content"]
    ).completion.text,
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_ask_takes_them_and_a_keyword_beats_them(sampling, greedy, way):
    ask = WAYS[way]
    wanted = greedy.complete(greedy.chat_prompt(HI), max_tokens=12, seed=5).text
    drawn = greedy.complete(greedy.chat_prompt(HI), max_tokens=12, seed=5, temperature=9.0).text
    assert drawn != wanted  # or nothing could be seen
    assert ask(sampling, max_tokens=12, seed=5) == drawn
    assert ask(sampling, max_tokens=12, seed=5, temperature=0) == wanted
    assert ask(greedy, max_tokens=12, seed=5) == wanted


def test_sampling_given_as_a_whole_takes_nothing_of_them(sampling, greedy):
    params = SamplingParams(max_tokens=12, seed=5)
    prompt = greedy.chat_prompt(HI)
    wanted = greedy.complete(prompt, sampling=params).text
    assert sampling.complete(prompt, sampling=params).text == wanted
    assert sampling.complete(prompt, sampling=params, top_k=3).text == wanted


def test_mirostat_takes_the_place_of_the_models_filters():
    own = SamplingParams(temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.1)
    assert defaults_for(own, {"max_tokens": 3}) is own
    wanted = SamplingParams(temperature=0.7, repetition_penalty=1.1)
    assert defaults_for(own, {"mirostat_tau": 5.0}) == wanted


def test_they_are_said_in_words():
    assert in_words(SamplingParams()) == ""
    params = SamplingParams(temperature=0.7, top_k=20)
    assert in_words(params) == "temperature 0.7, top_k 20"
    assert in_words(params, {"temperature": 0.1}) == "top_k 20"


def test_run_says_them_and_its_options_beat_them(demo_saying):
    folder = demo_saying({"do_sample": True, "temperature": 9.0, "top_k": 50})
    words = [
        "run",
        folder,
        "turn the lights off in the kitchen",
        "--max-tokens",
        "8",
        "--seed",
        "1",
    ]
    done = invoke(*words)
    assert done.error is None
    assert "note: the model's own sampling: temperature 9, top_k 50" in done.stderr
    greedy = invoke(*words, "--temperature", "0")
    assert "own sampling: top_k 50" in greedy.stderr
    plain = invoke("run", demo.base_path(), *words[2:])
    assert "own sampling" not in plain.stderr
    assert greedy.stdout == plain.stdout != done.stdout


def test_chat_says_them(demo_saying):
    done = invoke("chat", demo_saying({"do_sample": True}), typed="/quit\n")
    assert "the model's own sampling: temperature 1" in done.stdout


def test_biases_and_the_least_length_on_the_command_line():
    words = ["run", demo.base_path(), "hello", "--max-tokens", "4", "--raw", "--json"]
    with lorakit.open(demo.base_path(), threads=1) as model:
        wanted = model.complete("hello", max_tokens=4, min_tokens=4, logit_bias={40: 100}).text
        assert wanted == model.tokenizer.decode([40] * 4)
    done = invoke(*words, "--logit-bias", "40=100", "--logit-bias", "7=-100", "--min-tokens", "4")
    assert json.loads(done.stdout)["text"] == wanted
    for wrong in ("40", "x=1", "40=x", "-3=1"):
        refused = invoke(*words, f"--logit-bias={wrong}")
        assert refused.error.code == "parameter_invalid"
    twice = invoke(*words, "--logit-bias", "7=1", "--logit-bias", "7=2")
    assert "token 7 twice" in twice.error.message
