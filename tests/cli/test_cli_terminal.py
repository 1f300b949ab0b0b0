"""`lorakit chat` at a terminal: keys, pastes, Ctrl-C, history, widths, terminals that do less."""

import json
import re
import stat
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from commands import invoke
from lorakit import demo
from terminals import (
    ALT_ENTER,
    BACKSPACE,
    CTRL_C,
    CTRL_D,
    LEFT,
    PASTE,
    TAB,
    UP,
    Terminal,
)

BASE = demo.base_path()
HOME, SHOP = demo.adapter_path("home"), demo.adapter_path("shop")
THREE = "turn the lights off\nin the kitchen\nplease"
COLOUR = re.compile(rb"\x1b\[(\d+;)*(3[0-7]|9[0-7])(;\d+)*m")


def chat(*arguments, **options):
    return Terminal("chat", BASE, "-a", HOME, "--threads", "1", *arguments, **options)


def said(path):
    """What the user said, in a saved conversation."""
    messages = json.loads(path.read_text())["messages"]
    return [message["content"] for message in messages if message["role"] == "user"]


@pytest.mark.parametrize("columns", [80, 40])
def test_keys_and_a_paste_of_three_lines_that_is_one_message(tmp_path, columns):
    file = tmp_path / "talk.json"
    with chat(columns=columns) as terminal:
        terminal.prompt()
        assert "Hello!" in terminal.say("hello")
        refused = terminal.say("/hlp").splitlines()
        assert "hint: /help lists them; // begins" in " ".join(refused)
        assert all(len(line) < columns for line in refused if not line.startswith(">"))
        terminal.key(UP, UP)
        terminal.sees("hello")
        terminal.say("")
        terminal.key("byx", LEFT, "e", LEFT, LEFT, BACKSPACE, "B")
        terminal.say("")
        terminal.key(PASTE.format(THREE))
        terminal.sees("please")
        assert 'set_lights(room="kitchen", state="off")' in terminal.say("").replace("\n", "")
        terminal.key("one", ALT_ENTER, "two", "\r")
        terminal.prompt()
        terminal.say(f"/save {file}")
        terminal.key(CTRL_D)
        assert terminal.ends() == 0
        assert b"^[[A" not in terminal.raw
    assert said(file) == ["hello", "hello", "Byex", THREE, "one\ntwo"]


def test_what_a_chat_says_is_folded_between_words():
    shown = {}
    for columns in (40, 300):
        with chat(columns=columns) as terminal:
            said = [terminal.prompt(), *map(terminal.say, ("/help", "/help set", "/set"))]
            said.append(terminal.say("turn the lights off in the kitchen"))
            shown[columns] = [
                line
                for part in said
                for line in part.splitlines()
                if not line.startswith((">", "set_lights"))  # what is typed, and an answer
            ]
    assert max(map(len, shown[40])) < 40
    assert max(map(len, shown[300])) > 100
    narrow, wide = (" ".join(" ".join(lines).split()) for lines in shown.values())
    assert narrow == wide
    assert "/result TEXT says what set_lights gave back" in narrow


def test_ctrl_c_clears_a_line_and_asks_before_it_leaves(tmp_path):
    file = tmp_path / "talk.json"
    with chat() as terminal:
        terminal.prompt()
        terminal.say("hello")
        terminal.key("half a sentence")
        terminal.sees("sentence")
        terminal.key(CTRL_C)
        terminal.say("who are you")
        terminal.say(f"/save {file}")
        terminal.key(CTRL_C)
        assert "Ctrl-C again leaves" in terminal.prompt()
        terminal.say("/adapter")  # going on is an answer, too
        terminal.key(CTRL_C)
        assert "Ctrl-C again leaves" in terminal.prompt()
        terminal.key(CTRL_C)
        assert terminal.ends() == 0
    assert said(file) == ["hello", "who are you"]


def test_tab_completes_commands_adapters_and_files(tmp_path):
    (tmp_path / "some tools.json").write_text(json.dumps([{"name": "ring"}]))
    with chat(folder=tmp_path) as terminal:
        terminal.prompt()
        terminal.key("/res", TAB)
        terminal.sees("result")
        terminal.sees("reset")
        terminal.key("et\r")
        assert "forgotten" in terminal.prompt()
        terminal.key("/ada", TAB, "s", BACKSPACE, " ho", TAB)
        terminal.sees("home")
        assert "home at 0.5 (rank 8)" in terminal.say("0.5")
        terminal.key("/tools so", TAB)
        terminal.sees("'some tools.json'")
        assert "tools: ring()" in terminal.say("")
        terminal.key(CTRL_D)
        assert terminal.ends() == 0


def test_what_was_typed_is_found_again_next_time(tmp_path):
    kept = tmp_path / "state" / "history"
    env = {"LORAKIT_HISTORY": str(kept)}
    for keys, expected in ((("bye\r",), "Goodbye!"), ((UP, "\r"), "Goodbye!")):
        with chat(env=env) as terminal:
            terminal.prompt()
            terminal.key(*keys)
            assert expected in terminal.prompt()
            terminal.key(CTRL_D)
            assert terminal.ends() == 0
    assert kept.read_text() == '"bye"\n'  # what is found again is not kept twice
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    with chat("--no-history", env=env) as terminal:
        terminal.prompt()
        terminal.say("hello")
        terminal.key(CTRL_D)
        assert terminal.ends() == 0
    assert kept.read_text() == '"bye"\n'


def test_no_colour_where_none_is_wanted():
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        with chat(env=env) as terminal:
            terminal.prompt()
            terminal.say("turn the lights off in the kitchen")
            terminal.key(CTRL_D)
            assert terminal.ends() == 0
            assert bool(COLOUR.search(terminal.raw)) == coloured


def test_a_terminal_that_cannot_move_its_cursor(tmp_path):
    file = tmp_path / "talk.json"
    with chat(env={"TERM": "dumb"}) as terminal:
        terminal.prompt()
        assert "Hello!" in terminal.say("hello")
        terminal.key('"""turn the lights off\n', "in the kitchen\n", 'please"""\n')
        terminal.sees("set_lights(")
        terminal.prompt()
        terminal.say(f"/save {file}")
        terminal.key(CTRL_C)
        assert "Ctrl-C again leaves" in terminal.prompt()
        terminal.key(CTRL_D)
        assert terminal.ends() == 0
        assert b"\x1b" not in terminal.raw
    assert said(file) == ["hello", THREE]


def test_without_its_brackets_a_paste_is_three_messages(tmp_path):
    """What the test of the paste would see if it were read line by line."""
    file = tmp_path / "talk.json"
    with chat() as terminal:
        terminal.prompt()
        for line in THREE.splitlines():
            terminal.say(line)
        terminal.say(f"/save {file}")
    assert said(file) == THREE.splitlines()


def test_escapes_in_what_is_typed_are_no_keys_and_reach_no_terminal(tmp_path):
    """A colour that is pasted without brackets looks to the editor like a click of a mouse."""
    file, title = tmp_path / "talk.json", "\x1b]0;owned\x07"
    with chat() as terminal:
        terminal.prompt()
        terminal.say("\x1b[31mhello")
        terminal.say(PASTE.format(f"a{title}b\x03\x04"))
        terminal.say(f"/save {file}")
        assert "Unhandled" not in terminal.shown
        assert title.encode() not in terminal.raw
    assert said(file) == ["hello", f"a{title}b\x03\x04"]


def inspected(columns):
    with Terminal("inspect", HOME, "-b", BASE, columns=columns) as terminal:
        assert terminal.ends() == 0
        return terminal.shown.splitlines()


def test_inspect_folds_its_rows_under_themselves_where_the_terminal_is_narrow():
    usual, narrow = inspected(80), inspected(40)
    (digest,) = [line.split()[1] for line in usual if line.startswith("digest")]
    assert digest not in "".join(narrow)
    assert digest in "".join(line.strip() for line in narrow)
    assert max(map(len, narrow)) < 40
    assert max(map(len, usual)) > 80, "the metadata is one line, as ever"
    assert "adapter_config.json 1.17 KB, adapter_model.safetensors 392 KB" in "".join(usual)


def test_run_shows_calls_as_code_and_raw_what_the_model_wrote():
    asked = ("run", BASE, "turn the lights off in the kitchen", "-a", HOME, "--threads", "1")
    for more, said in (
        ((), 'set_lights(room="kitchen", state="off")\n'),
        (("--max-tokens", "0"), "(cut off after 0 tokens; --max-tokens N allows more)\n"),
        (("--json",), '{"text": "", "tool_calls": [{'),
    ):
        with Terminal(*asked, *more, columns=200) as terminal:
            assert terminal.ends() == 0
            assert terminal.shown.startswith(said)
    prompt = "<start_of_turn>user\nlights off please<end_of_turn>\n<start_of_turn>model\n"
    with Terminal("run", BASE, prompt, "-a", HOME, "--raw", "--threads", "1") as terminal:
        assert terminal.ends() == 0
        assert terminal.shown.startswith("<start_function_call>call:")


def test_of_a_download_a_line_stays(tmp_path):
    handler = partial(SimpleHTTPRequestHandler, directory=HOME)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}/"
        with Terminal("inspect", place, env={"LORAKIT_CACHE": str(tmp_path)}) as terminal:
            assert terminal.ends() == 0
        server.shutdown()
    assert "\nfetched 2 files, 393 KB\nformat  " in terminal.shown


def rows_of(columns, *words):
    with Terminal(*words, columns=columns) as terminal:
        assert terminal.ends() == 0
        return terminal.shown.splitlines()


def test_a_table_that_is_too_wide_has_its_names_above_its_rows():
    words = ("inspect", HOME, "--modules")
    usual, narrow = rows_of(80, *words), rows_of(45, *words)
    (wide,) = (line for line in usual if line.startswith("model.layers.0.mlp.up_proj"))
    name, figures = wide.split(maxsplit=1)
    at = narrow.index(name)
    assert narrow[at + 1].split() == figures.split()
    assert max(map(len, narrow[at:])) <= 45 < max(map(len, usual[-5:]))


def test_the_ranks_fit_and_a_first_sentence_folds():
    for columns in (80, 40):
        table = rows_of(columns, "inspect", HOME, "--ranks")
        assert max(len(line) for line in table if "squares" not in line) <= columns
    told = rows_of(60, "demo", "--examples", "1")
    assert told[:2] == [line for line in told[:2] if 0 < len(line) < 60]
    assert " ".join(told[:2]).endswith("All below runs live.")


EVAL = ("eval", BASE, "--data", demo.training_path("eval"), "--limit", "6", "-a", HOME, "--threads",
        "1", "--compare", "base", "--failures", "2")  # fmt: skip


def table_of(lines):
    """Without the summary above it, whose digest is broken where the terminal ends."""
    starts = [n for n, line in enumerate(lines) if line.startswith("singular values")]
    return lines[starts[0] :] if starts else lines


@pytest.mark.parametrize(
    "words",
    [("inspect", HOME, "--spectrum"), ("inspect", HOME, "--ranks"),
     ("inspect", HOME, "--overlap", SHOP), EVAL, ("cache", "list")],
    ids=["spectrum", "ranks", "overlap", "eval", "cache"],
)  # fmt: skip
def test_sixty_and_forty_columns_are_enough_and_nothing_is_lost(words, tmp_path, monkeypatch):
    if words[0] == "cache":
        monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
        assert invoke("run", BASE, "hi", "--threads", "1", "--max-tokens", "1").code == 0
    wide, *narrow = (
        [line for line in table_of(rows_of(columns, *words)) if "evaluating" not in line]
        for columns in (250, 60, 40)
    )
    wanted = re.sub(r"\d+ ms|[█▏▎▍▌▋▊▉·]+|\d+ minutes? ago|just now", "", " ".join(wide)).split()
    for columns, lines in zip((60, 40), narrow, strict=True):
        assert not {*wanted} - {*" ".join(lines).split()}
        lines = [line for line in lines if " " in line.strip() and str(tmp_path) not in line]
        assert max(map(len, lines)) <= columns  # no word of a value is broken
    assert max(map(len, wide)) > 40


def test_rows_that_fit_in_no_table_have_a_title_at_each_cell():
    table = rows_of(60, *EVAL)
    at = table.index("home")
    assert table[at + 1].startswith("  right 0.0% (0.0-39.0%)  names ")
    assert "  against the first +0 -0, " in "".join(table[at:])


def test_the_demo_fits_into_forty_columns():
    told = [line for line in rows_of(40, "demo", "--examples", "1") if "answering" not in line]
    answers = [line for line in told if line.startswith("      ")]
    assert max(len(line) for line in told if line not in answers) <= 40
    assert "    Hello! What can I do for you?" in told[-1:]


@pytest.mark.parametrize("columns", [80, 40])
def test_errors_and_notes_fold_between_words_with_the_hint_apart(tmp_path, columns):
    (tmp_path / "gemma").mkdir()
    with Terminal("run", "google/gemma-3", "hi", columns=columns, folder=tmp_path) as terminal:
        assert terminal.ends() == 1
        lines = [line.rstrip() for line in terminal.shown.splitlines()]
    assert max(map(len, lines)) < columns
    assert "(hint:" not in terminal.shown
    at = next(n for n, line in enumerate(lines) if line.startswith("hint: expected a GGUF file"))
    said = "error [source_not_found]: there is no base model at google/gemma-3"
    assert " ".join(lines[:at]) == said
    assert " ".join(lines[at:]).endswith("for the Hub: hf:google/gemma-3")
