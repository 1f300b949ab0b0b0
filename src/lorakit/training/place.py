"""The place of a run: asked for before anything long begins, and its own until the run has ended.

A second run into the same place would train as long and then lose its work, and take away the
first one's checkpoint. The lock is the system's, which lets go of it however a process ends; so the
file that a killed run leaves keeps nobody out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lorakit.errors import ParameterError, WriteError
from lorakit.training.bundle import require_place


@contextmanager
def reserved(place: Path, *, overwrite: bool) -> Iterator[None]:
    """Nobody else trains into a place inside the block, on this machine or one that shares it.

    Raises ParameterError as `require_place` does, and with the code output_busy where another run
    has it; WriteError where nothing can be written there.
    """
    require_place(place, overwrite=overwrite)
    made = [folder for folder in (place.parent, *place.parent.parents) if not folder.exists()]
    path = place.with_name(f"{place.name}.lock")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)
        lock.acquire(timeout=0)
    except Timeout:
        raise ParameterError(
            f"another run is training {place}",
            code="output_busy",
            hint="wait for it or stop it, or name another folder",
        ) from None
    except OSError as error:
        _clear(made)
        raise WriteError(f"cannot write {place}: {error.strerror or error}") from error
    try:
        require_place(place, overwrite=overwrite)  # another run may have ended in between
        yield
    finally:
        with suppress(OSError):  # Windows removes it when it is let go
            path.unlink()
        lock.release()
        _clear(made)


def _clear(folders: list[Path]) -> None:
    """Remove folders that were made for a run that left nothing in them."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
