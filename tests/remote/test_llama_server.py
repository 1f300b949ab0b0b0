"""llama.cpp's own server, by the package that brings it: the same text as our llama engine."""

import asyncio
import json
import time
from urllib.request import Request as Asked
from urllib.request import urlopen

import pytest

import lorakit
from llama_serving import NAMES, demo_files, serving_llama
from lorakit import demo
from lorakit.chat.events import TextDelta
from lorakit.model.types import ReplyEnd
from lorakit.remote.kinds import KINDS
from lorakit.runtime.params import SamplingParams

pytest.importorskip("xllamacpp", reason="needs the package that has llama.cpp's server")
PROMPTS = ("turn the lights", "set a timer for", "hello")
ASKED = [{"role": "user", "content": "turn the lights off in the kitchen"}]
ADAPTERS = ({}, {"home": 1.0}, {"home": 0.5, "style": 0.7}, {"style": 1.0}, {"home": -0.3}, {})
HEAD = {"Content-Type": "application/json"}
END = "<start_function_response>"  # ends a reply with calls; --special writes it


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return demo_files(tmp_path_factory.mktemp("gguf"))


@pytest.fixture(scope="module")
def url(files):
    """The URL of a server that has them, until the last test; its text holds special tokens too."""
    with serving_llama("special", *files) as running:
        yield running


@pytest.fixture(scope="module")
def ours(files):
    base, *adapters = files
    with lorakit.open(base, threads=1) as model:
        for name, path in zip(NAMES, adapters, strict=True):
            model.load_adapter(path, name)
        yield model


@pytest.fixture
def theirs(url):
    with lorakit.open(url) as model:
        yield model


def slots(url):
    with urlopen(url.removesuffix("/v1") + "/slots") as reply:
        return json.load(reply)


def test_it_says_what_it_is(theirs, files):
    assert isinstance(theirs, lorakit.Model)
    about = theirs.capabilities
    assert (about.engine, about.context, about.vocabulary) == ("api", 512, 1024)
    assert theirs.name == "demo"
    assert [info.name for info in theirs.adapters] == ["home", "style"]
    assert theirs.adapters[0].source == str(files[1])


@pytest.mark.parametrize("prompt", PROMPTS)
def test_each_adapter_at_each_scale_gives_our_llama_engines_text(theirs, ours, prompt):
    """One after another, so that what the server cached of one must not act on the next."""
    for adapters in ADAPTERS:
        there = theirs.complete(prompt, adapters=adapters, max_tokens=24, stop=[END])
        here = ours.complete(prompt, adapters=adapters, max_tokens=24, stop=[END])
        assert there.text == here.text, adapters
        assert there.adapters == here.adapters
        assert there.usage.prompt_tokens == here.usage.prompt_tokens
        assert there.usage.completion_tokens == here.usage.completion_tokens


def test_biases_act_there_as_here(theirs, ours):
    """-100 on the first token of an answer, and 100 on one that it would not take."""
    for prompt in PROMPTS:
        first = ours.complete(prompt, max_tokens=1).tokens[0].token
        for bias in ({first: -100}, {first: -100, 40: 100}):
            there, here = (
                m.complete(prompt, max_tokens=6, logit_bias=bias) for m in (theirs, ours)
            )
            assert there.text == here.text
        assert {choice.token for choice in here.tokens} == {40}


def test_somebody_elses_requests_leave_no_kv_of_theirs(theirs, ours, url):
    """Who names no adapter there gets all of them, and its KV must not serve the next."""
    for prompt in PROMPTS:
        body = {"prompt": prompt, "max_tokens": 24, "temperature": 0}
        urlopen(Asked(f"{url}/completions", json.dumps(body).encode(), HEAD)).close()
        there = theirs.complete(prompt, adapters={}, max_tokens=24)
        assert there.text == ours.complete(prompt, adapters={}, max_tokens=24).text


def test_the_adapters_do_something(theirs):
    """Else the tests above would pass without any."""
    plain = theirs.chat(ASKED, max_tokens=32)
    assert plain.text != theirs.chat(ASKED, max_tokens=32, adapters={"home": 1.0}).text


SAID = {  # of SamplingParams, and what the server then says that it does
    "temperature": (0.5, {"temperature": 0.5}),
    "top_k": (5, {"top_k": 5}),
    "top_p": (0.5, {"top_p": 0.5}),
    "min_p": (0.25, {"min_p": 0.25}),
    "typical_p": (0.5, {"typical_p": 0.5}),
    "repetition_penalty": (1.25, {"repeat_penalty": 1.25, "repeat_last_n": 1 << 20}),
    "presence_penalty": (0.25, {"presence_penalty": 0.25, "repeat_last_n": 1 << 20}),
    "frequency_penalty": (0.5, {"frequency_penalty": 0.5, "repeat_last_n": 1 << 20}),
    "mirostat_tau": (3.0, {"mirostat": 2, "mirostat_tau": 3.0}),
    "seed": (7, {"seed": 7}),
    "stop": (("zz",), {"stop": ["zz"]}),
    "max_tokens": (3, {"max_tokens": 3, "n_predict": 3}),
    "logprobs": (2, {"n_probs": 2}),
    "ignore_eos": (True, {"ignore_eos": True}),
    "logit_bias": ({5: -2.0}, {"logit_bias": [{"bias": -2.0, "token": 5}]}),
    "grammar": ('root ::= "a"', {"grammar": 'root ::= "a"'}),
}


@pytest.mark.parametrize("name", SAID)
def test_the_server_does_what_a_parameter_says_and_nothing_of_its_own(url, name):
    """A field whose name is wrong would be passed over in silence."""

    def settings(**parameters):
        body = KINDS["llamacpp"].sampling(SamplingParams(**parameters), chat=False)
        body |= {"prompt": "a", "lora": []}
        request = Asked(f"{url.removesuffix('/v1')}/completion", json.dumps(body).encode(), HEAD)
        with urlopen(request) as reply:
            return json.load(reply)["generation_settings"]

    neutral, value = settings(max_tokens=1), SAID[name][0]
    assert (neutral["top_k"], neutral["top_p"], neutral["min_p"]) == (0, 1.0, 0.0)
    changed = settings(**{"max_tokens": 1, name: value})
    differ = {key: changed[key] for key in changed if changed[key] != neutral[key]}
    if name == "ignore_eos":  # it rules the end tokens out, by biases
        differ.pop("logit_bias")
    assert differ == SAID[name][1]


def test_every_parameter_of_its_kind_is_tried():
    known = KINDS["llamacpp"].known - {"mirostat_eta", "response_format"}
    # the first says nothing alone, and the second is a field of conversations
    assert set(SAID) == known


def test_conversations_stream_and_sessions_go_on(theirs, ours):
    here = ours.chat(ASKED, adapters=["home"], max_tokens=32).completion.text
    stream = theirs.stream(ASKED, adapters=["home"], max_tokens=32, stop=[END])
    events = list(stream)
    assert "".join(one.text for one in events if isinstance(one, TextDelta)) == here
    assert isinstance(events[-1], ReplyEnd)
    assert events[-1].reply.text == here
    session = theirs.session(adapters={"home": 1.0}, max_tokens=32, stop=[END])
    assert session.send(ASKED[0]["content"]).text == here
    assert [m["role"] for m in session.messages] == ["user", "assistant"]
    assert len(session.send("and on").text) > 0


def test_log_probabilities_are_those_of_our_engine(theirs, ours):
    there = theirs.complete("hello", logprobs=2, max_tokens=4).tokens
    here = ours.complete("hello", logprobs=2, max_tokens=4).tokens
    assert [one.token for one in there] == [one.token for one in here]
    for one, other in zip(there, here, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert [token for token, _ in one.top][:1] == [token for token, _ in other.top][:1]
        assert len(one.top) == 2
    alone = theirs.complete("hello", logprobs=0, max_tokens=1).tokens
    assert (len(alone), alone[0].top) == (1, ())


def test_coroutines_and_batches_are_served_together(theirs, ours):
    async def both():
        one = theirs.acomplete("hello", max_tokens=8)
        two = theirs.acomplete("set a timer for", max_tokens=8, adapters=["home"])
        pieces = [piece async for piece in theirs.stream("hello", max_tokens=8)]
        return await one, await two, "".join(pieces)

    hello = ours.complete("hello", max_tokens=8).text
    timer = ours.complete("set a timer for", max_tokens=8, adapters=["home"]).text
    one, two, streamed = asyncio.run(both())
    assert (one.text, two.text, streamed) == (hello, timer, hello)
    requests = [
        lorakit.Request(prompt="hello", max_tokens=8),
        lorakit.Request(prompt="set a timer for", max_tokens=8, adapters={"home": 1.0}),
    ] * 3
    assert [one.text for one in theirs.batch(requests)] == [hello, timer] * 3


def test_the_active_set_is_that_of_the_next_answer(theirs, ours):
    home = theirs.load_adapter("home")
    home.apply(0.5)
    home_too = theirs.load_adapter("home.gguf", "mine")
    assert home_too.info.source == home.info.source
    there = theirs.complete("set a timer for", max_tokens=8)
    assert there.text == ours.complete("set a timer for", max_tokens=8, adapters={"home": 0.5}).text
    assert there.adapters == (("home", 0.5),)
    theirs.clear_adapters()
    assert theirs.complete("hello", max_tokens=1).adapters == ()
    home.unload()
    with pytest.raises(lorakit.UnknownAdapterError):
        theirs.complete("hello", adapters=["home"])
    with pytest.raises(lorakit.UnknownAdapterError, match="no adapter named 'nope'"):
        theirs.load_adapter("nope")


def test_token_ids_are_sent_where_there_is_a_tokenizer(url, ours, theirs):
    ids = ours.encode("turn the lights")
    with pytest.raises(lorakit.CapabilityError, match="tokenizer="):
        theirs.complete(ids)
    with lorakit.open(url, tokenizer=demo.base_path()) as model:
        assert model.encode("turn the lights") == ids
        there = model.complete(ids, max_tokens=24, adapters=["home"])
    assert there.text == ours.complete(ids, max_tokens=24, adapters=["home"]).text


def test_a_prompt_that_does_not_fit_and_what_it_cannot_do(theirs):
    with pytest.raises(lorakit.ContextFullError, match="512"):
        theirs.complete("hello " * 900)
    with pytest.raises(lorakit.CapabilityError, match="embeddings"):
        theirs.embed("hello")
    assert theirs.complete("hello", max_tokens=1).text


def test_what_is_cancelled_ends_on_the_server(theirs, url):
    stream = theirs.stream("hello", max_tokens=100_000, ignore_eos=True, lookahead=None)
    next(stream)
    stream.cancel()
    for _ in range(600):  # of up to 500 tokens that would be to come
        if not any(slot["is_processing"] for slot in slots(url)):
            break
        time.sleep(0.05)
    else:
        pytest.fail("the server generates on")
    assert theirs.complete("hello", max_tokens=1).text
