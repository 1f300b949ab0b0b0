"""`lorakit` and `python -m lorakit`. Ctrl-C ends cleanly, while it is starting or ending too."""

import atexit
import contextlib
import os
import signal
import sys
import threading
from types import FrameType


def main() -> None:
    """Run the command line. SIGTERM ends it as Ctrl-C does: nothing is left half-written."""
    pressed = ended = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if ended:  # all is done and said: nothing is left to stop
            return
        pressed = True
        signal.default_int_handler(number, frame)

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one would break off what clears away
        sys.exit(143)

    try:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, terminate)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, interrupt)
                # Python gives the signal back to the system at its very end, which would kill.
                atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        from lorakit.cli import main as run  # slow to import; nothing may precede the try

        run(lambda: pressed)
    except (KeyboardInterrupt, ImportError):  # numpy makes the one the other while it loads
        if not pressed and isinstance(sys.exception(), ImportError):
            raise
        sys.stderr.write("interrupted\n")
        opening = [t for t in threading.enumerate() if t.name == "lorakit-engine"]
        for thread in opening:
            thread.join(3)  # what it builds is cleared away
        if any(thread.is_alive() for thread in opening):
            sys.stdout.flush()
            os._exit(130)  # it is in native code that cannot be stopped
        sys.exit(130)
    finally:
        ended = True


if __name__ == "__main__":
    main()
