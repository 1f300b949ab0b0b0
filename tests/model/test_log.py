"""What the logger `lorakit` says at INFO, and what --verbose shows of it."""

import logging
import re
from dataclasses import replace

import pytest

import lorakit
from commands import invoke
from lorakit import demo
from lorakit.adapter import Adapter
from lorakit.cli.output import show_log
from lorakit.model.load import in_words

HOME = demo.adapter_path("home")
SECRET = "sesame"


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "lorakit")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def quiet():
    """The logger as it was, after a test that shows it."""
    log = logging.getLogger("lorakit")
    before = log.level, list(log.handlers)
    yield log
    log.setLevel(before[0])
    log.handlers[:] = before[1]


WHERE = r"[\d.:]+/home/adapter_model\.safetensors\?\.\.\."
STORY = [
    r"opened base on onnx in \d+\.\d\d s",
    rf"fetching http://{WHERE}",
    rf"fetched http://{WHERE}: (?P<bytes>[\d,]+) bytes in \d+\.\d\d s, at .*",
    rf"http://{WHERE}: rank 8, alpha 16, scale 2, 42 modules \(down_proj, gate_proj, k_proj, "
    r"o_proj, q_proj, up_proj, v_proj\), [\d,]+ bytes",
    rf"loaded 'it' from http://{WHERE} in \d+\.\d\d\d s",
    r"applied 'it' at 1, in \d+\.\d\d\d s",
    r"rescaled 'it' from 1 to 0\.25, in \d+\.\d\d\d s",
    r"removed 'it', in \d+\.\d\d\d s",
    r"fetching .*",
    r"fetched .*: nothing new in .*",
    r".*: rank 8.*",
    r"loaded 'again' .*",
    r"it and again are the same adapter: together it acts at the scale -0\.5",
    r"applied 'it' at 0\.5, applied 'again' at -1, in .*",
    r"rescaled 'it' from 0\.5 to 2, removed 'again', in .*",
    r"removed 'it', in .*",
    r"unloaded 'it', in .*",
]


def test_the_life_of_an_adapter(web, said):
    url = f"{web.put_folder('/home', HOME)}/adapter_model.safetensors?key={SECRET}"
    with lorakit.open(demo.base_path(), threads=1) as model:
        it = model.load_adapter(url, "it")
        it.apply()
        it.scale = 0.25
        it.remove()
        model.load_adapter(url, "again")
        model.apply({"it": 0.5, "again": -1})
        model.apply({"it": 0.5, "again": -1})  # nothing changes, nothing is said
        model.apply({"it": 2.0})
        it.unload()
    for line, wanted in zip(said(), STORY, strict=True):
        assert re.fullmatch(wanted, line), (line, wanted)
        assert SECRET not in line
    count = re.fullmatch(STORY[2], said()[2])["bytes"]
    assert int(count.replace(",", "")) == sum(
        len(page.body) for name, page in web.pages.items() if "/adapter_" in name
    )


def test_what_the_runtime_refuses_is_not_said(said):
    with lorakit.open(demo.base_path(), threads=1) as model:
        model.load_adapter(HOME)
        before = len(said())
        with pytest.raises(lorakit.LorakitError):
            model.apply({"other": 1.0})
    assert said()[before:] == []


def test_an_adapter_in_words():
    home = lorakit.read_adapter(HOME)
    assert in_words(home).startswith("rank 8, alpha 16, scale 2, 42 modules")
    first, *rest = home.deltas
    half = replace(first, a=first.a[:2], b=first.b[:, :2], scale=8.0, alpha=None)
    mixed = in_words(Adapter(deltas=(half, *rest)))
    assert "rank 2 to 8, alpha 16, scale 2 to 8" in mixed
    assert in_words(Adapter()) == "0 bytes"


@pytest.mark.parametrize("place", ["before", "after"])
def test_verbose_shows_it_beside_the_output(quiet, place):
    words = ["run", demo.base_path(), "hello", "-a", f"{HOME}:0.5", "--max-tokens", "2"]
    plain = invoke(*words)
    assert "applied" not in plain.stderr
    done = invoke(*(["--verbose", *words] if place == "before" else [*words, "--verbose"]))
    assert done.stdout == plain.stdout
    assert re.search(r"^\d\d:\d\d:\d\d applied 'home' at 0.5, in ", done.stderr, re.MULTILINE)


def test_it_is_shown_once(quiet, capsys):
    show_log()
    show_log()
    logging.getLogger("lorakit").info("a line\x1b[31m of %d", 1)
    shown = capsys.readouterr().err
    assert shown.count("a line") == 1
    assert "\x1b" not in shown
