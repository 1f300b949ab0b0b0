"""Training runs that something happens to, each in a child, and the same call once more after it.

Run as a program with a folder; prints a JSON object: by case, how the first run ended, what it
left, how the second ended, and the digest of the adapter's file.
"""

import hashlib
import json
import os
import random
import resource
import signal
import sys
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from lorakit import demo
from lorakit.errors import LorakitError
from lorakit.files import atomic
from lorakit.files.safetensors import open_safetensors, write_safetensors
from lorakit.training import checkpoint, loop, replay, run
from lorakit.training.core import model
from lorakit.training.core.numerics import Numerics
from lorakit.training.data import read_examples
from lorakit.training.events import Checkpointed, Stepped, Warned
from lorakit.training.optimizer import Optimizer
from lorakit.training.render import Rendered

STEPS = 8
SETTINGS = {"batch": 4, "holdout": 4, "evaluate_every": 3, "checkpoint_every": 2, "sweep": False}
REQUESTS = ("set a timer for 5 minutes", "hello there", "what is the weather in Rome", "thanks")
REQUESTS += ("note: buy milk", "tell me a joke", "wake me at 7:15", "who are you")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def at_step(number, act):
    """The fault of a run: something is done once a step is taken."""

    def progress(event):
        if isinstance(event, Stepped) and event.step == number:
            act()

    return progress


def in_save(number, act):
    """Something is done in the middle of a save: half of the bytes are on the disk."""
    saves = iter(range(100))

    def write(file, tensors, metadata):
        write_safetensors(file, tensors, metadata)
        if next(saves) == number:
            file.flush()
            os.ftruncate(file.fileno(), file.tell() // 2)
            os.fsync(file.fileno())
            act()

    checkpoint.write_safetensors = write


def before_rename(number, act):
    """The same once all bytes are there, and before they have their name."""
    moves = iter(range(100))
    move = atomic.move

    def instead(source, target):
        if target.name.endswith(".checkpoint") and next(moves) == number:
            act()
        move(source, target)

    atomic.move = instead


def in_bundle():
    def write_bundle(*arguments, **options):
        kill()

    run.write_bundle = write_bundle


def in_place():
    """The broken variant of a save: into the file itself."""

    def write(path, content):
        with path.open("wb") as file:
            content(file)

    checkpoint.write_atomic = write


def full_disk():
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))


def no_memory():
    """Nothing more than the process has, and a batch that wants more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + (8 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
    draw = random.Random(0).randrange
    ids = [tuple(draw(20, 1000) for _ in range(900)) for _ in range(64)]
    loop.passes = lambda rows, accumulate: [[Rendered(ids=i, answers=(True,) * 900) for i in ids]]


def forgetful():
    """The broken variant of a resume: the optimizer begins anew."""
    Optimizer.restore = lambda self, state: None


CASES = {  # what happens to the first run, and to the second
    "nothing": ({}, None),
    "killed at a step": ({"progress": at_step(5, kill)}, None),
    "killed in the first save": ({"before": partial(in_save, 0, kill)}, None),
    "killed in a later save": ({"before": partial(in_save, 2, kill)}, None),
    "killed before the rename": ({"before": partial(before_rename, 2, kill)}, None),
    "killed at the end": ({"before": in_bundle}, None),
    "interrupted": ({"progress": at_step(3, interrupt)}, None),
    "full disk": ({"progress": at_step(3, full_disk)}, None),
    "no memory": ({"progress": at_step(3, no_memory)}, None),
    "forgets the optimizer": ({"progress": at_step(5, kill)}, forgetful),
    "saves in place": ({"before": lambda: (in_place(), in_save(2, kill))}, None),
}


def train(output, told, progress=lambda event: None, before=lambda: None):
    torch.set_num_threads(1)
    replay.requests_apart_from = lambda examples: REQUESTS
    model.choose = lambda *arguments: Numerics(dtype="float32")  # else a busy machine may choose
    before()

    def tell(event):
        if isinstance(event, Warned | Checkpointed):
            told(getattr(event, "text", None) or f"checkpoint {event.step}")
        progress(event)

    data = demo.folder() / "training"
    examples = read_examples(data / "forty.jsonl").examples
    run.train(demo.base_path(), examples, output, steps=STEPS, progress=tell, **SETTINGS)


def child(work):
    """Run in a forked child: (how it ended, what it said)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        with open(reading) as pipe:  # noqa: PTH123  # a pipe has no path
            lines = [json.loads(line) for line in pipe]
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), lines
    os.close(reading)

    def told(text):
        os.write(writing, json.dumps(text).encode() + b"\n")

    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work(told)
        code = 0
    except KeyboardInterrupt:
        code = 130
    except LorakitError as error:
        with suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        told({"code": error.code, "said": str(error)})
        code = 2
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def step_of(path):
    if not path.exists():
        return None
    return json.loads(open_safetensors(path).tensors[checkpoint.KEY].tobytes())["step"]


def main():
    folder, found = Path(sys.argv[1]), {}
    for name, (first, second) in CASES.items():
        if len(sys.argv) > 2 and name not in sys.argv[2:]:
            continue
        output = folder / name / "home"
        output.parent.mkdir()
        path = checkpoint.checkpoint_path(output)
        ended, said = child(lambda told, o=output, f=first: train(o, told, **f))
        torn = False
        try:
            left = step_of(path)
        except LorakitError:
            left, torn = None, True
        again = {} if second is None else {"before": second}
        ended2, said2 = (
            (0, [])
            if output.exists()
            else child(lambda told, o=output, f=again: train(o, told, **f))
        )
        weights = output / "adapter_model.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None
        rest = sorted(file.name for file in output.parent.iterdir())
        found[name] = {
            "first": ended, "said": said, "left": left, "torn": torn, "second": ended2,
            "said again": said2, "digest": digest, "rest": rest,
        }  # fmt: skip
    print(json.dumps(found))


main()
