"""What tests of the runtime share: tokens shown as numbers, small adapters, a forked child."""

import os

import numpy as np

from lorakit.adapter import Adapter, Delta


class Numbers:
    """Shows token ids as text."""

    def step(self, token):
        return f"{token} "

    def flush(self):
        return ""


def adapter(seed, invocation=()):
    a = np.random.default_rng(seed).normal(size=(2, 4)).astype(np.float32)
    delta = Delta(module="m", a=a, b=a.T.copy(), scale=1.0)
    return Adapter(deltas=(delta,), invocation_tokens=invocation)


def in_child(work, *, whole_end=False):
    """Run it in a forked child: what it returns, or how it failed, as text; and its exit status.

    whole_end: the child ends as a user's program does, with its atexit functions.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode()[:4000])
        os.close(writer)
        if whole_end:
            raise SystemExit(0)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = file.read().decode()
    return said, os.waitpid(child, 0)[1]
