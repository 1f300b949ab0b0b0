"""`lorakit` and `python -m lorakit`. Ctrl-C ends cleanly, while it is still starting too."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from lorakit.cli import main as run  # slow to import; nothing may precede the try

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
