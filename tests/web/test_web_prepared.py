"""An adapter that a page has prepared once is taken from its cache as it was: whole, of the same
files, for the same inputs; else it is read again.
"""

import hashlib
import json

import pytest
from nodes import WEB

from folders import DATA
from lorakit.formats import read_adapter
from lorakit.formats.web import write_web
from web import serving

PEFT = DATA / "truth/peft/llama/plain"
WEIGHTS = "adapter_model.safetensors"
DIGEST = hashlib.sha256((PEFT / WEIGHTS).read_bytes()).hexdigest()
PINNED = {"options": {"digest": DIGEST}}
MODULES = [
    {"module": delta.module, "in": delta.in_features, "out": delta.out_features}
    for delta in read_adapter(PEFT).deltas
]


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def step(server):
    return {"path": server.put_folder("/home", PEFT), "modules": MODULES}


def run(node, *steps, **options):
    return node.run("loading.mjs", {"steps": list(steps)}, **options)


def test_what_was_prepared_is_what_was_read(plain_node, server, step, tmp_path):
    file = tmp_path / "half.safetensors"
    write_web(read_adapter(PEFT), file, dtype="float16")
    pin = {"options": {"digest": hashlib.sha256(file.read_bytes()).hexdigest()}}
    half = {"path": server.put("/half.safetensors", file.read_bytes()), "modules": MODULES}
    found = run(plain_node, step, {**step, **PINNED}, half, {**half, **pin})
    first, again, read, reread = found["answers"]
    assert first == again
    assert first["digest"] == f"sha256:{first['all']}"
    assert read == reread
    assert read["digest"] != first["digest"]
    assert (found["prepared"], found["files"]) == (2, 3)
    files = (PEFT / "adapter_config.json", PEFT / WEIGHTS, file)
    size = sum(path.stat().st_size for path in files)
    assert found["bytes"] > size + first["bytes"] + read["bytes"]


def times_fetched(node, server, step, **options):
    """Fetches of the weights for two loads, where only what was prepared stays in the cache."""
    before = len(server.asked[f"/home/{WEIGHTS}"])
    run(node, step, {"action": "files"}, {**step, **PINNED}, **options)
    return len(server.asked[f"/home/{WEIGHTS}"]) - before


def test_the_weights_are_not_asked_for_again(plain_node, broken_web, server, step):
    assert times_fetched(plain_node, server, step) == 1
    assert len(server.asked["/home/adapter_config.json"]) == 2  # alpha is in it
    web = broken_web({"sources.js": ("return files.prepared !== null;", "return false;")})
    assert times_fetched(plain_node, server, step, web=web) == 2


def other_config(server, step):
    """The same weights at another address, with twice the alpha."""
    path = server.put_folder("/other", PEFT)
    config = (PEFT / "adapter_config.json").read_text("utf-8")
    assert config.count('"lora_alpha": 16') == 1
    changed = config.replace('"lora_alpha": 16', '"lora_alpha": 32')
    server.put("/other/adapter_config.json", changed.encode())
    return {**step, **PINNED, "path": path}


def other_modules(step):
    modules = [{**MODULES[0], "in": 3}, *MODULES[1:]]
    return {**step, **PINNED, "modules": modules}


def answers(node, server, step, **options):
    """Everything that may not be mixed up, in one run."""
    pinned = {**step, **PINNED}
    damaged = [{"action": name} for name in ("data", "head", "short")]
    steps = [step, pinned, other_config(server, step), other_modules(step)]
    for action in damaged:
        steps += [action, pinned]
    found = run(node, *steps, **options)["answers"]
    first = found[0]
    same = [answer == first for answer in found]
    return [same, found[2].get("tensors") != first.get("tensors"), found[3].get("code")]


RIGHT = [[True, True, False, False, True, True, True], True, "adapter_mismatch"]


def test_other_files_other_inputs_and_damage_are_seen(plain_node, server, step):
    assert answers(plain_node, server, step) == RIGHT


@pytest.mark.parametrize(
    ("file", "text", "replacement"),
    [
        ("prepared.js", "all.set(config, text.length);", ""),
        ("prepared.js", "[VERSION, weights, modules]", "[VERSION, weights]"),
        ("prepared.js", "!== head.sha256)", "=== '')"),
        ("web_file.js", "if (metadata.get('digest') !== digest)", "if (false)"),
        ("prepared.js", "name, digest, base, baseName, rank,", "name, digest, base, rank,"),
    ],
)
def test_a_broken_variant_is_seen(plain_node, broken_web, server, step, file, text, replacement):
    web = broken_web({file: (text, replacement)})
    assert answers(plain_node, server, step, web=web) != RIGHT


def test_nothing_is_kept_where_the_user_says_so(plain_node, server, step):
    found = run(plain_node, {**step, "options": {"cache": False}})
    assert (found["prepared"], found["files"]) == (0, 0)


def test_a_cache_without_room_is_a_warning(plain_node, step):
    found = run(plain_node, {"action": "full"}, step)
    (answer,) = found["answers"]
    assert [warning["code"] for warning in answer["kept"]] == ["write_failed"] * 3
    assert "no room" in answer["kept"][0]["message"]
    assert answer["rank"] == 8


def test_its_version_is_the_packages():
    """Of another version nothing is taken: it may have read, refused or folded otherwise."""
    package = json.loads((WEB / "package.json").read_text("utf-8"))
    assert f"VERSION = '{package['version']}'" in (WEB / "prepared.js").read_text("utf-8")
