"""Every fault of an adapter beside a base at once: whole, alive, of this base?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lorakit.adapter import Adapter
from lorakit.architectures import Decoder
from lorakit.base.folder import Base
from lorakit.base.grown import resized_decoder
from lorakit.base.quantised import original_name
from lorakit.check.alive import dead, tiny
from lorakit.check.fit import RESIZED, names_and_shapes
from lorakit.check.mismatch import Mismatch
from lorakit.check.reduced import left_out_note, without_seeing
from lorakit.errors import MismatchError

SHOWN = 20  # mismatches named in one error; `check` returns all
_TO_RESIZE = (
    "open the base together with this adapter (lorakit.open, lorakit run -a), or merge it (lorakit "
    "merge): a Hugging Face folder then becomes as large, where the adapter holds all of embedding "
    "and head, and no other adapter has another size; else open the base as it was saved after the "
    "resize"
)


def check(adapter: Adapter, base: Decoder | Base) -> tuple[Mismatch, ...]:
    """All mismatches between an adapter and a base, errors first; empty where it fits.

    What the adapter's own file lacks is among them, and warnings where it does nothing, or has
    values that half precision does not hold. With a Base, its name and fingerprint are compared
    with what the adapter asks for too, and a vocabulary that becomes the adapter's is a warning.
    Reads every value of the adapter once, and the base's weights only for a recorded fingerprint.
    """
    text, seeing = without_seeing(adapter)
    adapter = text if text.deltas or text.replacements else adapter
    found = [*_notes(adapter), *dead(adapter), *tiny(adapter)]
    found += _seeing(seeing) if adapter is text else []
    if isinstance(base, Base):
        larger = resized_decoder(base, [(adapter, 1.0)])
        found += [*names_and_shapes(adapter, larger), *_precondition(adapter, base)]
        found += _vocabulary(base, larger.vocabulary)
    else:
        found += names_and_shapes(adapter, base)
    if not any(mismatch.severity == "error" for mismatch in found):  # of another base, it lacks all
        found += _missing(adapter)
    return tuple(sorted(found, key=lambda mismatch: mismatch.severity == "warning"))


def misfits(adapter: Adapter, base: Decoder | Base) -> list[Mismatch]:
    """What `check` finds of the adapter beside the base, whatever its file lacks."""
    if not isinstance(base, Base):
        return names_and_shapes(adapter, base)
    return [*names_and_shapes(adapter, base.decoder), *_precondition(adapter, base)]


def require_fit(adapter: Adapter, base: Decoder | Base) -> None:
    """Raise MismatchError with every error that `check` finds; warnings pass.

    What the file lacks passes, too: whoever read it has refused it, or taken it as it is.
    """
    errors = [mismatch for mismatch in misfits(adapter, base) if mismatch.severity == "error"]
    if not errors:
        return
    more = len(errors) - SHOWN
    decoder = base.decoder if isinstance(base, Base) else base
    raise MismatchError(
        f"the adapter does not fit the base ({decoder.architecture.model_type}, "
        f"{len(decoder.layers)} layers, hidden size {decoder.hidden})",
        items=[str(error) for error in errors[:SHOWN]] + ([f"and {more} more"] if more > 0 else []),
        hint=what_to_do(adapter, errors),
    )


def what_to_do(adapter: Adapter, errors: Sequence[Mismatch]) -> str:
    """The way out of these errors of `check`."""
    if any(RESIZED in error.advice for error in errors):
        return _TO_RESIZE
    name, hint = adapter.precondition.name, "open the base that the adapter was trained on"
    if name and (original := original_name(name)):
        return f"{hint}: the original of {name}, by its name {original}"
    return f"{hint}: {name}" if name else hint


def _seeing(names: Sequence[str]) -> Iterator[Mismatch]:
    if names:
        yield Mismatch(
            item="what sees",
            expected="parts for text",
            found=left_out_note(names),
            advice="the parts for text act; lorakit merge keeps the others in a base that sees",
            severity="warning",
        )


def _vocabulary(base: Base, rows: int) -> Iterator[Mismatch]:
    own = base.decoder.vocabulary
    opened = "" if base.is_gguf else "where it is opened with the adapter, and "
    if own != rows:
        yield Mismatch(
            item="vocabulary",
            expected=f"{own} tokens, as the base has",
            found=f"{rows}: it was resized by {rows - own} in training",
            advice=f"the base {'grows' if rows > own else 'shrinks'} to it {opened}where the "
            "adapter is merged",
            severity="warning",
        )


def _missing(adapter: Adapter) -> Iterator[Mismatch]:
    for line in adapter.reading.missing:
        yield Mismatch(
            item="incomplete save",
            expected="all that the adapter's config promises",
            found=line,
            advice="save or download it again; --partial takes it as it is",
        )


def _notes(adapter: Adapter) -> Iterator[Mismatch]:
    """What had to be decided to read it."""
    for note in adapter.reading.notes:
        yield Mismatch(
            item="reading", expected="a config that says it all", found=note, severity="warning"
        )


def _precondition(adapter: Adapter, base: Base) -> Iterator[Mismatch]:
    """Names differ for honest reasons (a local copy, a renamed folder), so these are warnings."""
    asked, name = adapter.precondition, base.exported.base_name if base.exported else base.name
    if asked.fingerprint is not None and asked.fingerprint != base.fingerprint:
        yield Mismatch(
            item="base fingerprint",
            expected=asked.fingerprint[:16],
            found=base.fingerprint[:16],
            advice="other weights, or the same in another dtype",
            severity="warning",
        )
    elif (
        asked.fingerprint is None
        and asked.name
        and not any(_alike(asked.name, each) for each in (name, base.given_name))
    ):
        yield Mismatch(
            item="base name",
            expected=asked.name,
            found=name,
            advice="make sure that it is the same model" + _or_original(asked.name),
            severity="warning",
        )


def _or_original(name: str) -> str:
    original = original_name(name)
    return f", or the original of the quantised one, by its name {original}" if original else ""


def _alike(asked: str, name: str) -> bool:
    """Whether it is the same name, or that of the original of a quantised base."""
    return _plain(name) in (_plain(asked), _plain(original_name(asked) or asked))


def _plain(name: str) -> str:
    """The last part, as in an id of the Hub: GGUF files have spaces where that has dashes."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].casefold().replace(" ", "-")
