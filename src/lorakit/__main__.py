"""`lorakit` and `python -m lorakit`. Ctrl-C ends cleanly, while it is still starting too."""

import contextlib
import signal
import sys


def main() -> None:
    """Run the command line. SIGTERM ends it as Ctrl-C does: nothing is left half-written."""
    try:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
        from lorakit.cli import main as run  # slow to import; nothing may precede the try

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
