"""Fork while the parent decodes with two threads; the child opens the model again and exits.

python tests/engines/llama/forked.py BASE ADAPTER     # prints one line per child
"""

import os
import signal
import sys

import lorakit

PROMPT, PATIENCE = [5, 6, 7], 60  # seconds


def main() -> None:
    base, adapter = sys.argv[1:]
    model = lorakit.open(base, threads=2)
    model.load_adapter(adapter, "it")
    expected = answer(model)
    stream = model.stream(PROMPT, max_tokens=200, ignore_eos=True, lookahead=None)
    next(stream)
    for _ in range(3):
        child = os.fork()
        if not child:
            in_child(base, adapter, expected)
        status = os.waitpid(child, 0)[1]
        print("ended" if status == 0 else f"status {status}", flush=True)
    assert answer(model) == expected
    stream.cancel()
    model.close()


def in_child(base: str, adapter: str, expected: str) -> None:
    signal.alarm(PATIENCE)
    again = lorakit.open(base, threads=2)
    again.load_adapter(adapter, "it")
    assert answer(again) == expected
    sys.exit(0)  # with both models open, as the interpreter ends


def answer(model: lorakit.Model) -> str:
    sets = {"it": 1.0}
    return model.complete(PROMPT, max_tokens=8, ignore_eos=True, adapters=sets, timeout=30).text


if __name__ == "__main__":
    main()
