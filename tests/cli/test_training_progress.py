"""What a training run shows while it goes on."""

import os
import struct
import sys

import pytest

from lorakit.cli.progress import LiveLine
from lorakit.cli.training_progress import TrainingProgress, duration, status
from lorakit.training.data import Example
from lorakit.training.evaluate import Evaluation, Outcome
from lorakit.training.events import Evaluated, Started, Stepped, Warned, Working


def stepped(step, steps=600, left=102.0):
    return Stepped(
        step=step,
        steps=steps,
        loss=0.31234,
        rate=0.01,
        learnt_tokens=99,
        tokens_per_second=4210.4,
        seconds_left=left,
    )


def evaluated(step, right=9, of=10):
    example = Example(task="calls", place="eval.jsonl:1")
    outcomes = tuple(Outcome(example=example, score=float(n < right)) for n in range(of))
    return Evaluated(step=step, evaluation=Evaluation(outcomes=outcomes), best=True)


STARTED = Started(
    settings=None, examples=900, varied=880, tokens=41200, learnt_tokens=13020, replayed=407
)
EVENTS = [STARTED, *(stepped(n) for n in range(1, 301)), evaluated(300), stepped(301)]


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (79, "step 120/600  ###............  loss 0.312  4,210 tokens/s  1:42 left"),
        (60, "step 120/600  loss 0.312  4,210 tokens/s  1:42 left"),
        (50, "120/600  loss 0.312  4,210 tokens/s  1:42 left"),
        (39, "120/600  loss 0.312  1:42 left"),
        (20, "120/600  1:42 left"),
    ],
)
def test_a_narrow_terminal_shows_what_matters_most(width, line):
    assert status(stepped(120), "", width) == line


def test_the_latest_measurement_stands_at_the_end():
    assert status(stepped(120), "91.0% exact match", 79).endswith("left  91.0% exact match")
    assert status(stepped(120), "91.0% exact match", 39).endswith("91.0% exact match")


def test_without_an_estimate_there_is_none():
    assert "left" not in status(stepped(1, left=None), "", 79)


@pytest.mark.parametrize(
    ("seconds", "text"), [(7.2, "0:07"), (102, "1:42"), (3730, "1:02:10"), (59.6, "1:00")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def run(events=EVENTS):
    with LiveLine() as line:
        progress = TrainingProgress(line)
        for event in events:
            progress(event)


def test_in_a_file_it_is_a_few_plain_lines(capsys):
    run()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        "900 examples, 880 of them varied in values and wording, and 407 requests to keep; "
        "41,200 tokens, 13,020 of them to learn"
    )
    assert lines[1] == "step 1/600  loss 0.312  4,210 tokens/s  1:42 left"
    assert lines[-1] == "step 300: 90.0% exact match"
    assert len(lines) == 8
    assert all(line.isprintable() for line in lines)


def test_notes_cannot_move_the_cursor(capsys):
    run([Warned(text="a\x1b[2Jb")])
    assert capsys.readouterr().err == "note: a\\x1b[2Jb\n"


def test_in_a_file_a_phase_is_one_line(capsys):
    with LiveLine() as line:
        for percent in range(3):
            line.show(f"converting a.gguf {percent}%", "converting a.gguf")
        line.show("proving 1%", "proving")
        line.show("left 1:42")
    assert capsys.readouterr().err == "converting a.gguf\nproving\n"


def part_of(terminal):
    """What can be read at once; nothing where the other side was closed."""
    try:
        return os.read(terminal, 65536).decode()
    except OSError:  # Linux says so in this way
        return ""


@pytest.mark.skipif(sys.platform == "win32", reason="terminals are POSIX's")
@pytest.mark.parametrize("columns", [80, 40])
def test_on_a_terminal_one_line_changes(columns, monkeypatch):
    import fcntl  # these are POSIX alone
    import pty
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(child, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        run([STARTED, Working(what="asking the base", done=3, total=407), *EVENTS[-4:]])
    text = "".join(iter(lambda: part_of(parent), ""))
    os.close(parent)
    changing = text.replace("\r\n", "\n").split("\r\x1b[K")[1:]
    assert "asking the base  3/407" in changing
    assert any(part.startswith(("step 301/600", "301/600")) for part in changing)
    assert all(len(part.partition("\n")[0]) < columns for part in changing if "/600" in part)
    assert text.endswith("\r\x1b[K")  # nothing is left
