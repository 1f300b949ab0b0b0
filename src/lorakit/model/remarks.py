"""What `open` has to say of a model that it opened nevertheless: warnings, also in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.errors import LorakitError
from lorakit.model.adapter_config import (
    CONTEXT,
    READ,
    SAME_SCALE,
    TEXT_ALONE,
    AdapterConfig,
    ModelWarning,
)
from lorakit.model.load import twice_scaled
from lorakit.model.model import Model
from lorakit.sources import describe
from lorakit.text.tokenizer import TextTokenizer

log = logging.getLogger("lorakit")


def warned(
    texts: Iterable[str], known: Sequence[ModelWarning] = (), code: str = READ
) -> list[ModelWarning]:
    """Warnings about the base, of which the log tells, too, that are not known already."""
    before = {warning.message for warning in known}
    new = [text for text in texts if text and text not in before]
    for text in new:
        log.info("%s", text)
    return [ModelWarning(code=code, message=text, adapter="") for text in new]


def without_rows(tokenizer: TextTokenizer | None, base: Base) -> str:
    """That an adapter's tokenizer knows tokens for which the base has no rows."""
    more = 0 if tokenizer is None else tokenizer.vocabulary - base.decoder.vocabulary
    if more <= 0:
        return ""
    return f"tokens of the adapter's tokenizer that have no row in the base, for no prompt: {more}"


def remarks(choice: AdapterConfig, adapter: Adapter) -> list[ModelWarning]:
    """What reading it had to decide, and a scale that is probably meant otherwise."""
    reference = describe(choice.path, choice.source)
    notes = [(READ, note) for note in adapter.reading.notes]
    if twice := twice_scaled(adapter, choice.scale, choice.name):
        notes.append((SAME_SCALE, twice))
    for _, message in notes:
        log.warning("%s: %s", reference, message)
    return [ModelWarning(code=code, message=text, adapter=reference) for code, text in notes]


def shorter(model: Model, asked: int | None) -> list[ModelWarning]:
    """That a model holds less than was asked for."""
    limit = model.capabilities.longest
    if asked is None or not limit or asked <= limit:
        return []
    message = (
        f"context: {model.name} was made for {limit} tokens, and holds {limit} of the {asked} that "
        "were asked for"
    )
    log.warning("%s", message)
    return [ModelWarning(code=CONTEXT, message=message, adapter="")]


def left_out(base: Base) -> tuple[ModelWarning, ...]:
    """That a model which also sees runs as its text model alone."""
    if not base.left_out:
        return ()
    message = (
        f"{base.name} is a model that also sees; its text model runs, without "
        f"{len(base.left_out)} tensors such as {base.left_out[0]}"
    )
    log.warning("%s", message)
    return (ModelWarning(code=TEXT_ALONE, message=message, adapter=""),)


def survived(choice: AdapterConfig, error: LorakitError) -> ModelWarning:
    """A warning for a failed adapter. Raises the error unless on_error allows it to fail."""
    if choice.on_error == "raise":
        raise error
    reference = describe(choice.path, choice.source)
    log.warning("going on without the adapter %s [%s]: %s", reference, error.code, error.message)
    return ModelWarning(code=error.code, message=str(error), adapter=reference)
