"""What servers send for a conversation, in the forms of several servers, and what they are sent."""

import json
import threading

import pytest
from api_server import api_serving, delta, events, text, usage, whole

import lorakit
from lorakit import demo
from lorakit.chat.events import (
    CallArguments,
    CallEnd,
    CallStart,
    CallWithdrawn,
    ReasoningDelta,
    TextDelta,
    Withdrawn,
)
from lorakit.model.remote import open_remote
from lorakit.model.types import ReplyEnd
from lorakit.text.tokenizer import Tokenizer

HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [{"type": "function", "function": {"name": "set_lights", "parameters": {}}}]
LLAMA = {
    "data": [{"id": "tiny", "owned_by": "llamacpp", "meta": {"n_vocab": 1000, "n_ctx": 64}}],
}
LORAS = [{"id": 0, "path": "/a/home.gguf", "scale": 1.0}, {"id": 1, "path": "/b/home.gguf"}]
VLLM = {
    "data": [
        {"id": "tiny", "owned_by": "vllm", "parent": None, "max_model_len": 2048},
        {"id": "home", "owned_by": "vllm", "parent": "tiny", "root": "/adapters/home"},
    ]
}


def call(index=None, id=None, name=None, arguments=None):
    function = {}
    if name is not None:
        function["name"] = name
    if arguments is not None:
        function["arguments"] = arguments
    said = {"function": function, "type": "function"}
    said |= {"index": index} if index is not None else {}
    return said | ({"id": id} if id is not None else {})


def answered(*values, **keywords):
    """A conversation's reply, and its events, where a server sends these chunks."""
    with api_serving(v1__chat__completions=lambda body: events(*values)) as api:
        with open_remote(f"{api.url}/v1") as model:
            seen = list(model.stream(HELLO, **keywords))
            reply = model.chat(HELLO, **keywords)
        assert seen[-1] == ReplyEnd(seen[-1].reply)
        assert (seen[-1].reply.parsed, seen[-1].reply.usage) == (reply.parsed, reply.usage)
        return reply, seen[:-1]


CALLS = {  # one call, as a server sends it
    "in pieces": [
        delta(role="assistant", content=None),
        delta(tool_calls=[call(0, "c1", "set_lights", "")]),
        delta(tool_calls=[call(0, arguments='{"room": "kit')]),
        delta(tool_calls=[call(0, arguments='chen"}')]),
        delta("tool_calls"),
    ],
    "at once": [
        delta("tool_calls", tool_calls=[call(0, "c1", "set_lights", '{"room":"kitchen"}')])
    ],
    "without an index": [
        delta(tool_calls=[call(None, "c1", "set_lights", '{"room":')]),
        delta(tool_calls=[call(None, arguments='"kitchen"}')]),
        delta("stop"),
    ],
    "its id again": [
        delta(tool_calls=[call(0, "c1", "set_lights", '{"room":')]),
        delta(tool_calls=[call(0, "c1", "", '"kitchen"}')]),
        delta("tool_calls"),
    ],
}


@pytest.mark.parametrize("form", CALLS)
def test_a_call_is_one_in_whichever_pieces_it_comes(form):
    reply, seen = answered(*CALLS[form], tools=TOOLS)
    (found,) = reply.tool_calls
    assert (found.name, found.arguments, found.id) == ("set_lights", {"room": "kitchen"}, "c1")
    start, *pieces, end = seen
    assert (start, end) == (CallStart(0, "set_lights"), CallEnd(0, found))
    assert len(pieces) == (1 if form == "at once" else 2)
    assert json.loads("".join(piece.text for piece in pieces)) == found.arguments
    assert reply.finish_reason == "tool_calls"
    assert reply.message["tool_calls"][0]["function"]["name"] == "set_lights"


def test_calls_without_indices_begin_with_their_names():
    reply, _ = answered(
        delta(tool_calls=[call(None, "a", "one", '{"x":')]),
        delta(tool_calls=[call(None, arguments="1}")]),
        delta(tool_calls=[call(None, "b", "two", "{}")]),
        delta("tool_calls"),
    )
    assert [(one.name, one.arguments) for one in reply.tool_calls] == [
        ("one", {"x": 1}), ("two", {}),
    ]  # fmt: skip


def test_calls_of_one_name_by_their_server_are_told_apart():
    same = [call(n, "0", name, "{}") for n, name in enumerate(("one", "two", "three"))]
    reply, _ = answered(delta("tool_calls", tool_calls=same))
    assert [one.id for one in reply.tool_calls] == ["0", "call_1", "call_2"]


def test_a_whole_message_in_one_event_counts_unless_it_was_said_already():
    message = {"role": "assistant", "content": "all", "tool_calls": [call(None, "a", "f", "{}")]}
    whole_one = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    for before in ([], [delta(content="all"), delta(tool_calls=[call(0, "a", "f", "{}")])]):
        reply, _ = answered(*before, whole_one)
        assert (reply.text, [one.name for one in reply.tool_calls]) == ("all", ["f"])


def test_events_in_every_form_that_the_format_allows():
    """A mark of UTF-8 before the first, both ends of lines, comments, data in two lines."""
    begun = b'\xef\xbb\xbfdata: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    folded = b': x\r\nevent: x\r\ndata:{"choices":\r\ndata: [{"delta": {"content": "b"}}]}\r\n\r\n'
    reply, _ = answered(begun, folded, delta("stop", content="c"))
    assert reply.text == "abc"


def test_text_reasoning_and_two_calls_are_kept_apart():
    reply, seen = answered(
        delta(reasoning_content="hm"),
        delta(reasoning=" yes", reasoning_content=" yes"),
        delta(content="Well"),
        delta(content=", so", tool_calls=[]),
        delta(tool_calls=[call(0, "a", "one", "{}")]),
        delta(tool_calls=[call(1, "b", "two", "")]),
        delta("tool_calls"),
        usage(9, 4, prompt_tokens_details={"cached_tokens": 5}),
    )
    kinds = [type(one) for one in seen]
    of_a_call = [CallStart, CallArguments, CallEnd]
    assert kinds == [ReasoningDelta] * 2 + [TextDelta] * 2 + of_a_call * 2
    assert (reply.reasoning, reply.text) == ("hm yes", "Well, so")
    assert [(one.name, one.arguments) for one in reply.tool_calls] == [("one", {}), ("two", {})]
    assert [one.index for one in seen[4:]] == [0, 0, 0, 1, 1, 1]
    counted = reply.usage
    assert (counted.prompt_tokens, counted.completion_tokens, counted.cached_tokens) == (9, 4, 5)


@pytest.mark.parametrize("arguments", ["{oops", "[1]", '{"a": 1, "a": 2}', '{"a": "\\ud800"}'])
def test_a_call_that_cannot_be_read_is_malformed_with_its_reason(arguments):
    good = call(1, "b", "good", "{}")
    reply, _ = answered(
        delta(content="x"), delta(tool_calls=[call(0, "a", "f", arguments), good]), delta("stop")
    )
    (found,) = reply.malformed
    assert arguments in found.text
    assert found.reason
    assert found.position == 1
    assert [one.name for one in reply.tool_calls] == ["good"]


def test_what_was_told_of_a_call_that_is_none_is_withdrawn():
    good = call(1, "b", "good", "{}")
    reply, seen = answered(
        delta(tool_calls=[call(0, "a", "f", '{"a": ')]),
        delta(tool_calls=[call(0, arguments="1,}")]),
        delta("stop", tool_calls=[good]),
    )
    assert seen == [
        CallStart(0, "f"),
        CallArguments(0, '{"a": '),
        CallArguments(0, "1,}"),
        CallWithdrawn(0),
        CallStart(0, "good"),
        CallArguments(0, "{}"),
        CallEnd(0, reply.tool_calls[0]),
    ]


def test_what_servers_send_is_mended_where_that_is_asked_for():
    pieces = [
        delta(content="so"),
        delta(tool_calls=[call(0, "a", "f", "{'a': True,}"), call(1, "b", "g", "{}")]),
        delta(tool_calls=[call(2, "a", "h", '{"a": 1')]),
        delta("tool_calls"),
    ]
    reply, seen = answered(*pieces, repair=True)
    assert [str(one) for one in reply.tool_calls] == ["f(a=True)", "g()"]
    assert {one.index for one in reply.repairs} == {0}
    assert [bad.text for bad in reply.malformed] == ['{"name": "h", "arguments": {"a": 1}']
    after = seen[seen.index(Withdrawn()) + 1 :]
    ends = [one.call for one in after if isinstance(one, CallEnd)]
    assert (after[0], tuple(ends)) == (TextDelta("so"), reply.tool_calls)
    strict, _ = answered(*pieces)
    assert ([one.name for one in strict.tool_calls], strict.repairs) == (["g"], ())


WRONG = [
    delta(content=5),
    delta(tool_calls={"0": {}}),
    delta(tool_calls=[5]),
    delta(tool_calls=[{"function": 5}]),
    delta(tool_calls=[call(-1, "a", "f", "")]),
    delta(tool_calls=[call(0, "a", "f", 5)]),
    {"choices": [{"delta": 5}]},
    {"choices": [5]},
    "text",
    delta(content="\ud83d"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=map(str, range(len(WRONG))))
def test_fields_of_another_type_are_the_servers_fault(wrong):
    with pytest.raises(lorakit.ServerError) as caught:
        answered(wrong, delta("stop"))
    assert caught.value.code == "server_invalid"


def test_how_answers_end():
    assert answered(delta("length", content="a"))[0].finish_reason == "length"
    assert answered(delta("model_length", content="a"))[0].finish_reason == "length"
    assert answered(delta("stop", content=""))[0].finish_reason == "stop"
    with pytest.raises(lorakit.RequestError, match="content filter"):
        answered(delta("content_filter", content="a"))
    with pytest.raises(lorakit.ServerError, match="abort"):
        answered(delta("abort", content="a"))


# What is sent.


def sent(models=None, ask=None, path="/v1/chat/completions", **opening):
    """The body of the last request, where a model asks a server that has these models."""
    good = {
        "v1__chat__completions": lambda body: events(delta("stop", content="ok")),
        "v1__completions": lambda body: events(text("ok", "stop")),
        "lora-adapters": lambda body: whole(LORAS),
        "props": lambda body: whole({"default_generation_settings": {"n_ctx": 32}}),
        "v1__load_lora_adapter": lambda body: whole(b"Success", kind="text/plain"),
        "v1__unload_lora_adapter": lambda body: whole(b"Success", kind="text/plain"),
    }
    given = {} if models is None else {"models": models}
    with api_serving(**given, **good) as api:
        with open_remote(f"{api.url}/v1", **opening) as model:
            ask(model)
        return api.of(path)[-1].body


def test_messages_go_as_the_api_has_them():
    turn = {
        "role": "assistant", "content": None, "thinking": "hm", "refusal": None,
        "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}],
    }  # fmt: skip
    said = [*HELLO, turn, {"role": "tool", "tool_call_id": "call_0", "content": "done"}]
    plain = sent(ask=lambda model: model.chat(said, tools=TOOLS))
    function = {"name": "f", "arguments": '{"a": 1}'}
    sent_call = {"id": "call_0", "type": "function", "function": function}
    assert plain["messages"][1] == {"role": "assistant", "content": None, "tool_calls": [sent_call]}
    assert plain["messages"][2] == said[2]
    assert plain["tools"] == TOOLS
    assert plain["stream"] is True
    full = sent(VLLM, lambda model: model.chat(said, enable_thinking=False))
    assert full["messages"][1]["reasoning_content"] == "hm"
    assert full["chat_template_kwargs"] == {"enable_thinking": False}
    assert said[1] is turn
    assert "reasoning_content" not in turn  # the caller's messages are left alone


def test_pictures_go_as_data_urls(tmp_path):
    png = tmp_path / "a.png"
    png.write_bytes(b"\x89PNG...")
    parts = [{"type": "image", "path": str(png)}, {"type": "text", "text": "what is this"}]
    body = sent(ask=lambda model: model.chat([{"role": "user", "content": parts}]))
    picture, words = body["messages"][0]["content"]
    assert picture["image_url"]["url"] == "data:image/png;base64,iVBORy4uLg=="
    assert words == parts[1]


def test_every_parameter_that_a_server_knows_is_sent_so_that_none_of_its_defaults_acts():
    ask = lambda model: model.complete("x", seed=3, stop="\n", top_k=5, min_p=0.1)  # noqa: E731
    llama = sent(LLAMA, ask, "/v1/completions")
    for name, value in {
        "max_tokens": 256, "temperature": 0.0, "top_p": 1.0, "top_k": 5, "min_p": 0.1, "seed": 3,
        "typical_p": 1.0, "repeat_penalty": 1.0, "mirostat": 0, "stop": ["\n"], "prompt": "x",
    }.items():  # fmt: skip
        assert llama[name] == value, name
    vllm = sent(VLLM, ask, "/v1/completions")
    assert (vllm["top_k"], vllm["repetition_penalty"], vllm["stop_token_ids"]) == (5, 1.0, [])
    assert sent(VLLM, lambda m: m.complete("x"), "/v1/completions")["top_k"] == -1
    biased = {"logit_bias": {3: -100, 5: 2.5}}
    for models in (LLAMA, VLLM, None):
        said = sent(models, lambda m: m.complete("x", **biased), "/v1/completions")["logit_bias"]
        assert said == {"3": -100.0, "5": 2.5}
    ask = lambda model: model.complete("x", min_tokens=4)  # noqa: E731
    assert sent(VLLM, ask, "/v1/completions")["min_tokens"] == 4
    plain = sent(ask=lambda m: m.complete("x", logprobs=None), path="/v1/completions")
    assert set(plain) == {
        "model", "prompt", "stream", "stream_options", "max_tokens", "temperature", "top_p",
        "presence_penalty", "frequency_penalty",
    }  # fmt: skip


def test_what_a_model_does_not_take_is_said_another_way_once_it_refused():
    """As some of OpenAI's do, whose neutral values are what they do anyway."""

    def answer(body):
        for name in ("max_tokens", "presence_penalty"):
            if name in body:
                fields = {"code": "unsupported_parameter", "param": name, "message": f"no {name}"}
                return whole({"error": fields}, 400)
        return events(text("ok", "stop"))

    with api_serving(v1__completions=answer) as api, open_remote(f"{api.url}/v1") as model:
        assert model.complete("x", max_tokens=7).text == "ok"
        assert len(api.of("/v1/completions")) == 3
        body = api.asked[-1].body
        assert body["max_completion_tokens"] == 7
        assert "presence_penalty" not in body
        assert body["frequency_penalty"] == 0.0
        assert model.complete("x").text == "ok"
        assert len(api.of("/v1/completions")) == 4  # learned
        with pytest.raises(lorakit.ParameterError, match="no presence_penalty"):
            model.complete("x", presence_penalty=0.5)  # is not left out in silence


def test_what_one_request_learns_does_not_fail_those_beside_it():
    """All are sent before the first is refused."""
    all_sent = threading.Barrier(3)

    def answer(body):
        if "max_tokens" in body:
            all_sent.wait(60)
            fields = {"code": "unsupported_parameter", "param": "max_tokens", "message": "no"}
            return whole({"error": fields}, 400)
        return events(text("ok", "stop"))

    with api_serving(v1__completions=answer) as api, open_remote(f"{api.url}/v1") as model:
        streams = [model.stream("x", max_tokens=7) for _ in range(3)]
        assert [stream.result().text for stream in streams] == ["ok"] * 3


def test_other_refusals_are_not_tried_again():
    fields = {"code": "unsupported_value", "param": "temperature", "message": "only 1"}
    answer = lambda body: whole({"error": fields}, 400)  # noqa: E731
    with api_serving(v1__completions=answer) as api, open_remote(f"{api.url}/v1") as model:
        with pytest.raises(lorakit.ParameterError, match="only 1"):
            model.complete("x")
        assert len(api.of("/v1/completions")) == 1


def test_no_adapter_of_a_server_takes_the_name_of_another():
    """One that is forgotten would not be named in a request, and act as the server was started."""
    paths = ("a-1.gguf", "b/a.gguf", "c/a.gguf", "d/a.gguf")
    listed = [{"id": n, "path": path} for n, path in zip((0, 2, 1, 3), paths, strict=True)]
    api = api_serving(
        models=LLAMA,
        v1__completions=lambda body: events(text("ok", "stop")),
        **{"lora-adapters": lambda body: whole(listed)},
    )
    with api as server, open_remote(f"{server.url}/v1") as model:
        assert [info.name for info in model.adapters] == ["a-1", "a", "a-1-1", "a-3"]
        model.complete("x", adapters={"a-1-1": 0.5})
        assert {one["id"]: one["scale"] for one in server.asked[-1].body["lora"]} == {
            0: 0.0, 1: 0.5, 2: 0.0, 3: 0.0,
        }  # fmt: skip


LACKING = [
    (None, {"top_k": 3, "grammar": "root ::= x"}, ["top_k=3", "grammar"]),
    (None, {"ignore_eos": True}, ["ignore_eos"]),
    (None, {"response_format": {"type": "json_object"}}, ["in conversations alone"]),
    (VLLM, {"regex": "a", "lookup": True}, ["regex='a'", "lookup=True"]),
    (LLAMA, {"stop_tokens": [3]}, ["stop_tokens"]),
    (VLLM, {"mirostat_tau": 2.0}, ["mirostat_tau"]),
    (VLLM, {"logprobs": 21}, ["at most 20"]),
    (None, {"logprobs": 2}, ["tokenizer="]),
    (None, {"min_tokens": 3}, ["min_tokens=3"]),
    (LLAMA, {"min_tokens": 3}, ["min_tokens=3"]),
    (VLLM, {"logit_bias": {3: -101}}, ["from -100 to 100"]),
]


@pytest.mark.parametrize(("models", "keywords", "words"), LACKING)
def test_what_a_server_has_no_word_for_is_refused_before_anything_is_sent(models, keywords, words):
    def ask(model):
        with pytest.raises(lorakit.CapabilityError) as caught:
            model.complete("x", **keywords)
        for word in words:
            assert word in str(caught.value)
        with pytest.raises(lorakit.CapabilityError):
            model.stream(HELLO, control_tokens="text")
        if models is None:
            with pytest.raises(lorakit.CapabilityError, match="template"):
                model.chat(HELLO, enable_thinking=True)
        model.complete("y")  # the only request that is sent

    assert sent(models, ask, "/v1/completions")["prompt"] == "y"


# Adapters.


def test_llama_server_is_told_the_scale_of_every_adapter_it_has():
    """What is left out of the list would be reused from another request."""
    ask = lambda model: model.complete("x", adapters={"home": 0.5})  # noqa: E731
    assert sent(LLAMA, ask, "/v1/completions")["lora"] == [
        {"id": 0, "scale": 0.5}, {"id": 1, "scale": 0.0}
    ]  # fmt: skip
    nothing = sent(LLAMA, lambda model: model.complete("x"), "/v1/completions")
    assert [one["scale"] for one in nothing["lora"]] == [0.0, 0.0]

    def twice(model):
        model.load_adapter("home", "again")
        model.complete("x", adapters={"home": 0.5, "again": 0.25})

    assert sent(LLAMA, twice, "/v1/completions")["lora"][0] == {"id": 0, "scale": 0.75}
    both = sent(LLAMA, lambda m: m.chat(HELLO, adapters={"home-1": 2, "home": -1}))
    assert [one["scale"] for one in both["lora"]] == [-1.0, 2.0]


def test_a_server_that_began_anew_with_other_adapters_is_not_asked_for_them():
    loras = [{"id": 0, "path": "/a/home.gguf"}]
    with api_serving(
        models=LLAMA,
        v1__completions=lambda body: events(text("ok", "stop")),
        **{"lora-adapters": lambda body: whole(loras)},
    ) as api:
        with open_remote(f"{api.url}/v1") as model:
            assert model.complete("x", adapters=["home"]).text == "ok"
            loras[:] = [{"id": 0, "path": "/a/away.gguf"}]
            with pytest.raises(lorakit.UnknownAdapterError, match="another adapter"):
                model.complete("x", adapters=["home"])
            assert model.complete("x").text == "ok"
        assert len(api.of("/v1/completions")) == 2


def test_an_old_llama_server_that_applies_its_adapters_to_every_request_is_refused():
    props = {"default_generation_settings": {"n_ctx": 32, "params": {"temperature": 0.8}}}
    with api_serving(
        models=LLAMA,
        props=lambda body: whole(props),
        **{"lora-adapters": lambda body: whole(LORAS)},
    ) as api:
        with pytest.raises(lorakit.CapabilityError, match="for a request"):
            open_remote(f"{api.url}/v1")
        props["default_generation_settings"]["params"]["lora"] = []
        with open_remote(f"{api.url}/v1") as model:
            assert [info.name for info in model.adapters] == ["home", "home-1"]


def test_vllm_runs_one_adapter_by_its_name_and_has_no_scales():
    def ask(model):
        assert model.capabilities.context == 2048
        home = model.load_adapter("home")
        for scales in ({"home": 0.5}, {"home": -1}):
            with pytest.raises(lorakit.CapabilityError, match="no scales"):
                model.complete("x", adapters=scales)
            with pytest.raises(lorakit.CapabilityError, match="no scales"):
                model.apply(scales)
        with pytest.raises(lorakit.CapabilityError, match="no scales"):
            home.apply(0.5)
        assert home.scale is None  # what was refused changed nothing
        model.load_adapter("org/other", "other")
        with pytest.raises(lorakit.CapabilityError, match="one adapter at a time"):
            model.complete("x", adapters=["home", "other"])
        with pytest.raises(lorakit.CapabilityError, match="keep"):
            home.apply(kv="recompute")
        home.apply()
        assert model.complete("x").adapters == (("home", 1.0),)

    assert sent(VLLM, ask, "/v1/completions")["model"] == "home"
    off = sent(VLLM, lambda m: m.complete("x", adapters={"home": 0}), "/v1/completions")
    assert off["model"] == "tiny"


def test_vllm_loads_what_it_is_given_a_path_of_and_unloads_its_own_alone():
    with api_serving(
        models=VLLM,
        v1__load_lora_adapter=lambda body: whole(b"Success", kind="text/plain"),
        v1__unload_lora_adapter=lambda body: whole(b"Success", kind="text/plain"),
        v1__completions=lambda body: events(text("ok", "stop")),
    ) as api:
        with open_remote(f"{api.url}/v1", adapter="home") as model:
            new = model.load_adapter("/adapters/new", "new")
            with pytest.raises(lorakit.CapabilityError, match="one adapter at a time"):
                new.apply()  # beside home, which is active
            model.apply({"new": 1.0})
            model.load_adapter("hf:org/repo")
            model.find("home").unload()
            assert model.complete("x").text == "ok"
            model.find("new").unload()
        loaded = [one.body for one in api.of("/v1/load_lora_adapter")]
        gone = [one.body["lora_name"] for one in api.of("/v1/unload_lora_adapter")]
    assert loaded == [
        {"lora_name": "new", "lora_path": "/adapters/new"},
        {"lora_name": "repo", "lora_path": "org/repo"},
    ]
    assert gone == ["new", "repo"]  # the last one when the model was closed


def test_closing_waits_once_for_a_server_that_is_gone(caplog):
    with api_serving(
        models=VLLM, v1__load_lora_adapter=lambda body: whole(b"Success", kind="text/plain")
    ) as api:
        model = open_remote(f"{api.url}/v1")
        for name in "abc":
            model.load_adapter(f"/adapters/{name}")
    model.close()
    assert caplog.text.count("stays loaded") == 1
    assert model.closed


LOADS = [
    (whole({"detail": "Not Found"}, 404), lorakit.CapabilityError, "RUNTIME_LORA"),
    (
        whole({"error": {"message": "No adapter found for /x"}}, 404),
        lorakit.UnknownAdapterError,
        "/x",
    ),
    (whole({"error": {"message": "already loaded"}}, 400), lorakit.ParameterError, "already"),
]


@pytest.mark.parametrize(("answer", "kind", "word"), LOADS, ids=["no call", "no adapter", "twice"])
def test_why_vllm_does_not_load(answer, kind, word):
    with (
        api_serving(models=VLLM, v1__load_lora_adapter=lambda body: answer) as api,
        open_remote(f"{api.url}/v1") as model,
    ):
        with pytest.raises(kind, match=word):
            model.load_adapter("/x", "x")
        assert model.find("x") is None
        assert [info.name for info in model.adapters] == ["home"]


def test_an_adapter_that_is_gone_is_unknown_and_not_the_base():
    said = {"error": {"message": "The model `home` does not exist.", "type": "NotFoundError"}}
    with (
        api_serving(models=VLLM, v1__completions=lambda body: whole(said, 404)) as api,
        open_remote(f"{api.url}/v1") as model,
        pytest.raises(lorakit.UnknownAdapterError, match="any more"),
    ):
        model.complete("x", adapters=["home"])


def test_other_servers_have_what_they_list():
    models = {"data": [{"id": "base"}, {"id": "org/tuned"}]}
    ask = lambda model: (model.load_adapter("org/tuned"), model.complete("x", adapters=["tuned"]))  # noqa: E731
    assert sent(models, ask, "/v1/completions", model="base")["model"] == "org/tuned"
    with pytest.raises(lorakit.UnknownAdapterError):
        sent(models, lambda model: model.load_adapter("/a/path"), model="base")
    with pytest.raises(lorakit.UnknownAdapterError) as caught:
        sent(models, lambda model: model.load_adapter("org/tund"), model="base")
    assert caught.value.hint.endswith("; did you mean org/tuned?")
    with pytest.raises(lorakit.ParameterError, match="has no model 'bas'"):
        sent(models, model="bas")


def test_a_server_without_a_list_runs_the_model_that_is_named():
    with (
        api_serving(
            v1__models=lambda body: whole({}, 404),
            v1__completions=lambda body: events(text("ok", "stop")),
        ) as api,
        open_remote(f"{api.url}/v1", model="mine") as model,
    ):
        assert model.complete("x").text == "ok"
        assert api.asked[-1].body["model"] == "mine"


def test_weights_and_what_reads_files_are_refused():
    def ask(model):
        for wrong in (
            lorakit.AdapterConfig("home", mode="merge"),
            lorakit.AdapterConfig("home", absolute_scale=2.0),
            lorakit.AdapterConfig("home", alpha=8),
        ):
            with pytest.raises(lorakit.CapabilityError):
                model.load_adapter(wrong)
        with pytest.raises(lorakit.CapabilityError):
            model.load_adapter(lorakit.Adapter(deltas=()), "a")
        with pytest.raises(lorakit.CapabilityError, match="weights"):
            model.find("home").adapter  # noqa: B018
        info = model.find("home").info
        assert (info.rank, info.nbytes, info.digest) == (0, 0, "")
        model.complete("x")

    sent(VLLM, ask, "/v1/completions")


def test_an_adapter_that_may_fail_is_a_warning_when_opening():
    opened = []
    config = lorakit.AdapterConfig("nope", on_error="base")
    sent(VLLM, lambda model: opened.append(model.warnings) or model.complete("x"),
         "/v1/completions", adapter=[config, lorakit.AdapterConfig("home", scale=1)])  # fmt: skip
    (warning,) = opened[0]
    assert (warning.code, warning.adapter) == ("adapter_unknown", "nope")
    with pytest.raises(lorakit.UnknownAdapterError):
        sent(VLLM, adapter="nope")


# Numbers.


def logprobs(said, models, path="/v1/completions", **keywords):
    chunk = {"choices": [{"text": "a", "logprobs": said, "finish_reason": "stop"}]}
    with (
        api_serving(models=models, v1__completions=lambda body: events(chunk)) as api,
        open_remote(f"{api.url}/v1", **keywords) as model,
    ):
        return model.complete("x", logprobs=2).tokens


def test_log_probabilities_in_the_forms_of_servers():
    columns = {
        "tokens": ["token_id:7"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"token_id:9": -2.0, "token_id:7": -0.5, "token_id:8": -3.0}],
    }
    (token,) = logprobs(columns, VLLM)
    assert (token.token, token.logprob, token.top) == (7, -0.5, ((7, -0.5), (9, -2.0)))
    top = [{"token": "a", "id": 5, "logprob": -1.0}]
    rows = {"content": [{"token": "a", "id": 5, "logprob": -1.0, "top_logprobs": top}]}
    assert logprobs(rows, LLAMA)[0].top == ((5, -1.0),)


def test_tokens_without_ids_are_found_by_their_bytes_in_a_tokenizer():
    tokenizer = Tokenizer.open(demo.base_path())
    hello, the = tokenizer.encode("hello", special=False)[0], tokenizer.token_id("the")
    said = lambda token: {  # noqa: E731
        "token": "?", "bytes": list(tokenizer.token_bytes(token)), "logprob": -1.0,
    }  # fmt: skip
    rows = {"content": [{**said(hello), "top_logprobs": [said(hello), said(the)]}]}
    plain = {"data": [{"id": "tiny"}]}
    (token,) = logprobs(rows, plain, tokenizer=demo.base_path())
    assert (token.token, token.top) == (hello, ((hello, -1.0), (the, -1.0)))
    columns = {"tokens": [tokenizer.decode([the])], "token_logprobs": [-0.5]}
    assert logprobs(columns, plain, tokenizer=demo.base_path())[0].token == the
    with pytest.raises(lorakit.CapabilityError, match="tokenizer="):
        logprobs(rows, plain)


@pytest.mark.parametrize(
    "said",
    [
        5,
        {"content": 5},
        {"content": [{"token": "a", "id": 1, "logprob": 1.0}]},
        {"content": [{"token": "a", "id": 1, "logprob": None}]},
        {"content": [{"token": "a", "logprob": -1.0}]},
        {"content": [{"token": "a", "id": -1, "logprob": -1.0}]},
        {"content": [{"token": "a", "id": 1 << 40, "logprob": -1.0}]},
        {"content": [{"token": "a", "bytes": 10**11, "logprob": -1.0}]},  # no room for them
        {"tokens": ["a"], "token_logprobs": []},
    ],
)
def test_log_probabilities_that_are_none(said):
    with pytest.raises(lorakit.ServerError) as caught:
        logprobs(said, LLAMA)
    assert caught.value.code == "server_invalid"


def test_a_server_that_passes_over_logprobs_is_not_passed_over():
    with pytest.raises(lorakit.CapabilityError, match="no log probabilities"):
        logprobs(None, LLAMA)


def test_a_llama_server_does_not_embed_with_adapters():
    """It would take the scales that it was started with, whatever is asked for."""
    said = {"data": [{"embedding": [3.0, 4.0]}]}
    api = api_serving(
        models=LLAMA,
        v1__embeddings=lambda body: whole(said),
        **{"lora-adapters": lambda body: whole(LORAS[:1])},
    )
    with api as server, open_remote(f"{server.url}/v1") as model:
        for ask in (lambda: model.embed("x", adapters="home"), lambda: model.embed("x")):
            model.apply({"home": 1.0})
            with pytest.raises(lorakit.CapabilityError, match="embeds with the base alone"):
                ask()
        assert model.embed("x", adapters={}).tolist() == pytest.approx([0.6, 0.8])


def test_embeddings():
    vector = [3.0, 4.0]
    said = {"data": [{"embedding": vector}]}
    with (
        api_serving(v1__embeddings=lambda body: whole(said)) as api,
        open_remote(f"{api.url}/v1") as model,
    ):
        assert model.embed("x").tolist() == pytest.approx([0.6, 0.8])
        assert model.embed("x", normalize=False).tolist() == vector
        with pytest.raises(lorakit.CapabilityError, match="pools"):
            model.embed("x", pooling="last")
        rows = ([], [{"embedding": "AAAA"}], [{"embedding": [None]}], [{"embedding": []}])
        for wrong in ({}, *({"data": row} for row in rows)):
            said.clear()
            said.update(wrong)
            with pytest.raises(lorakit.ServerError, match="no embedding"):
                model.embed("x")
        assert json.loads(json.dumps(api.asked[-1].body))["input"] == "x"


def test_tools_are_run_for_a_model_on_a_server():
    called = []

    def set_lights(room: str) -> str:
        called.append(room)
        return "done"

    replies = [CALLS["in pieces"], [text("Dark."), delta("stop"), usage()]]
    with api_serving(v1__chat__completions=lambda body: events(*replies.pop(0))) as api:
        with open_remote(f"{api.url}/v1") as model:
            run = model.run_tools(HELLO, [set_lights])
        first, second = api.of("/v1/chat/completions")
    assert (run.text, called) == ("Dark.", ["kitchen"])
    assert first.body["tools"][0]["function"]["name"] == "set_lights"
    result = {"role": "tool", "tool_call_id": "c1", "name": "set_lights", "content": "done"}
    assert second.body["messages"][-1] == result
    assert second.body["messages"][-2]["tool_calls"][0]["id"] == "c1"
