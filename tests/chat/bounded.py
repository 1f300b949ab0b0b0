"""Renders templates in a child process of bounded memory and CPU time, and says how each ended.

Run as a program it reads {"work": ..., "cpu": ..., "unguarded": ..., "templates": {name: text}}
from standard input and writes one JSON line per template. What hangs in C is killed by the timer,
and shows as the template that has no line.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

if sys.platform.startswith("linux"):
    import resource

MEMORY = 320 << 20  # bytes beyond what the process has when it begins
KILL = 10.0  # CPU seconds for one template
TEXT = "aB c" * 250_000
MESSAGES = [{"role": "user", "content": "x"}]
INPUTS = {
    "text": TEXT,
    "wide": "\u1234 \u1235" * 250_000,
    "words": [f"word {index}" for index in range(20_000)],
    "numbers": list(range(20_000)),
    "objects": [{"a": f"v{index}", "b": {"c": index}} for index in range(5_000)],
    "mapping": {f"key {index}": f"value {index}" for index in range(20_000)},
}


def run(templates: dict[str, str], **options: object) -> dict[str, dict[str, object]]:
    """How each template ended: rendered, refused, or stopped by counts, seconds or memory."""
    import pytest  # the child needs none of it

    if not sys.platform.startswith("linux"):
        pytest.skip("a limit on memory holds on Linux")
    request = json.dumps({"templates": templates, **options})
    done = subprocess.run(
        [sys.executable, __file__], input=request, capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    ended = {line.pop("name"): line for line in lines}
    if len(ended) < len(templates):
        hung = next(name for name in templates if name not in ended)
        ended[hung] = {"end": "killed", "message": done.stderr[-500:]}
    return ended


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "src"))
    from lorakit.chat.sandbox import budget
    from lorakit.chat.template import ChatTemplate

    request = json.load(sys.stdin)
    budget.MAX_WORK = request.get("work", budget.MAX_WORK)
    budget.MAX_CPU = request.get("cpu", budget.MAX_CPU)
    for change in request.get("unguarded", ()):
        _remove_guard(change)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    for name, text in request["templates"].items():
        signal.setitimer(signal.ITIMER_VIRTUAL, request.get("kill", KILL))
        print(json.dumps({"name": name, **_ended(ChatTemplate, text)}), flush=True)


def _ended(kind: type, text: str) -> dict[str, object]:
    from lorakit.errors import LorakitError

    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    variables = {name: value for name, value in INPUTS.items() if name in text}
    try:
        template = kind(sources={"default": text})
        reads = template.variables()
        used = {name: value for name, value in variables.items() if name in reads}
        message, end = template.render(MESSAGES, **used)[:40], "rendered"
    except LorakitError as error:
        message, end = error.message, _reason(error)
    return {
        "end": end,
        "message": message[:200],
        "cpu": resource.getrusage(resource.RUSAGE_SELF).ru_utime - before,
        "peak": _peak(),
    }


def _peak() -> int:
    """MiB. Not ru_maxrss, which begins with what the parent had, as a child inherits it."""
    for line in (
        Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    ):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) >> 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _reason(error: Exception) -> str:
    from lorakit.chat.sandbox.budget import LimitError

    cause = error.__cause__
    if isinstance(cause, MemoryError):
        return "memory"
    if "seconds of work" in str(cause):
        return "seconds"
    return "counts" if isinstance(cause, LimitError | RecursionError) else "refused"


def _remove_guard(change: str) -> None:
    """Broken variants: an operation that draws nothing for what it does."""
    from lorakit.chat.sandbox import budget, environment, filters, methods, operators, writing

    if change == "upper":
        methods._TEXT["upper"] = str.upper
    elif change == "equality":
        operators.equal.__code__ = (lambda left, right: left == right).__code__
    elif change == "sort":
        environment.FILTERS["sort"] = filters.LISTED["sort"] = lambda value: sorted(value)
    elif change == "repetition":
        operators._repeated.__code__ = (lambda left, right: left * right).__code__
    elif change == "text":
        writing.to_repr.__code__ = (lambda value: repr(value)).__code__
    elif change == "bytes":
        budget.MAX_BYTES = 1 << 60
    else:
        raise ValueError(change)


if __name__ == "__main__":
    main()
