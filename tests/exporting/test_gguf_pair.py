"""A GGUF base and a GGUF adapter, as an app ships them, in llama.cpp's own server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import lorakit
from lorakit import demo
from lorakit.base.gguf import open_base
from lorakit.formats.convert import convert

pytest.importorskip("xllamacpp", reason="needs the package that has llama.cpp's server")
SERVER = Path(__file__).with_name("llama_server.py")
HOME = demo.adapter_path("home")
ASKED = [{"role": "user", "content": "turn the lights off in the kitchen"}]
SCALES = (1.0, 0.0)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter") / "home.gguf"
    convert(HOME, path, to="gguf", base=open_base(demo.base_path()))
    return path


def served(model, adapter, ids):
    """What the server generates at each scale."""
    task = {"model": str(model), "adapter": str(adapter), "ids": ids, "scales": SCALES}
    done = subprocess.run(
        [sys.executable, SERVER], input=json.dumps(task), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("split_size", [None, 1_000_000], ids=["one file", "parts"])
def test_the_server_generates_what_lorakit_does(adapter, tmp_path, split_size):
    lorakit.export(
        demo.base_path(), tmp_path / "g", to="gguf", quantize="F16", split_size=split_size
    )
    first = min((tmp_path / "g").glob("*.gguf"))
    assert (len(open_base(first).files) > 1) == (split_size is not None)
    with lorakit.open(first, threads=1) as model:
        model.load_adapter(adapter, "home")
        ids = list(model.chat_prompt(ASKED))
        ours = [
            model.complete(ids, max_tokens=32, temperature=0.0, adapters={"home": scale})
            for scale in SCALES
        ]
        call = model.parse_reply(ours[0]).tool_calls[0]
    assert (call.name, call.arguments) == ("set_lights", {"room": "kitchen", "state": "off"})
    assert served(first, adapter, ids) == [
        [choice.token for choice in reply.tokens] for reply in ours
    ]
