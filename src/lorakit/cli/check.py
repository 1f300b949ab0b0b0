"""lorakit check: is an adapter whole, alive and of this base?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.base.grown import grown, resized_decoder
from lorakit.check import Mismatch, check, for_text, is_dead, what_to_do
from lorakit.cli.output import print_json, say
from lorakit.cli.reading import Reading
from lorakit.cli.references import (
    AdapterArgument,
    JsonOption,
    PrivateOption,
    fetched,
    open_base,
)
from lorakit.cli.signature import option
from lorakit.errors import CapabilityError
from lorakit.formats import read_adapter
from lorakit.formats.brought import check_brought
from lorakit.formats.gguf import cannot_express

FEW = 4  # mismatches that are listed in any case
MERGED = "lorakit run --merge, lorakit merge"  # what any adapter can do


def command(
    adapter: AdapterArgument,
    base: Annotated[str, option("--base", "-b", help="The base model folder.")],
    *,
    reading: Reading,
    every: Annotated[
        bool, option("--all", help="List every mismatch, where it is of another base, too.")
    ] = False,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Say whether an adapter is whole, alive and of this base; exits 1 if there is an error."""
    opened = open_base(base, allow_private=allow_private)
    path = fetched(adapter, allow_private=allow_private)
    loaded = read_adapter(path, opened.decoder, **replace(reading, partial=True).given)
    larger = grown(opened, [(loaded, 1.0)])
    rows = resized_decoder(opened, [(loaded, 1.0)]).vocabulary
    found = [*check(loaded, opened), *check_brought(path.expanduser(), opened, rows)]
    if reading.partial:
        found = [_taken(mismatch) for mismatch in found]
    errors = sum(mismatch.severity == "error" for mismatch in found)
    engines = {} if errors else _engines(for_text(loaded), larger, rows)
    whole, alive = not loaded.reading.missing, not is_dead(loaded)
    if json:
        mismatches = [asdict(mismatch) for mismatch in found]
        said = {"fits": not errors, "whole": whole, "alive": alive, "engines": engines}
        said |= {"vocabulary": {"base": opened.decoder.vocabulary, "adapted": rows}}
        print_json(said | {"renamed": loaded.reading.renamed, "mismatches": mismatches})
        raise SystemExit(1 if errors else 0)
    for before, after in loaded.reading.renamed:
        say(("renamed: ", "bold"), f"{before or '(nothing)'} -> {after or '(nothing)'}")
    of_another = "" if every else _of_another(loaded, opened, found)
    if of_another:
        say(("error: ", "red"), of_another)
    for mismatch in found:
        if of_another and mismatch.severity == "error":
            continue
        style = "red" if mismatch.severity == "error" else "yellow"
        say((f"{mismatch.severity}: ", style), str(mismatch))
    for name, reasons in engines.items():
        if reasons:
            say((f"{name}: ", "yellow"), f"not at run time: {_few(reasons)}; merged: {MERGED}")
    if errors:
        wrong = [mismatch for mismatch in found if mismatch.severity == "error"]
        say(("hint: ", "bold"), what_to_do(loaded, wrong))
    say(_verdict(errors, whole=whole, alive=alive, engines=engines))
    raise SystemExit(1 if errors else 0)


def _of_another(adapter: Adapter, base: Base, found: Sequence[Mismatch]) -> str:
    """One sentence where no module fits the base; or nothing, where some do."""
    errors = [mismatch for mismatch in found if mismatch.severity == "error"]
    wrong = {mismatch.item for mismatch in errors}
    modules = {delta.module for delta in adapter.deltas}
    if len(errors) < FEW or not modules <= wrong:
        return ""
    decoder = base.decoder
    return (
        f"it is of another base than {base.name} ({decoder.architecture.model_type}, "
        f"{len(decoder.layers)} layers, hidden size {decoder.hidden}): none of its {len(modules)} "
        f"modules fits, such as {errors[0]}; --all lists them"
    )


def _taken(mismatch: Mismatch) -> Mismatch:
    taken = mismatch.item == "incomplete save"
    return replace(mismatch, severity="warning") if taken else mismatch


def _verdict(errors: int, *, whole: bool, alive: bool, engines: dict[str, tuple[str, ...]]) -> str:
    if errors:
        return f"it does not fit: {errors} error{'s' if errors > 1 else ''}"
    runs = [name for name, reasons in engines.items() if not reasons]
    said = ["it fits"]
    said += [] if whole else ["it is incomplete"]
    said += [] if alive else ["it does nothing"]
    said += [f"it runs on {', '.join(runs)}"] if runs else []
    return "; ".join(said)


def _engines(adapter: Adapter, base: Base, rows: int) -> dict[str, tuple[str, ...]]:
    """Why each engine that opens this base cannot run the adapter; nothing: it runs."""
    if base.exported is not None:
        return {"onnx": _onnx(adapter, base)}
    if base.is_gguf:
        return {"llama": (*_tokens(rows, base), *map(str, cannot_express(adapter, base.decoder)))}
    return {"onnx": _onnx(adapter, base), "torch": ()}


def _tokens(rows: int, base: Base) -> tuple[str, ...]:
    own = base.decoder.vocabulary
    return (f"a vocabulary of {rows} tokens, the base has {own}",) if rows != own else ()


def _onnx(adapter: Adapter, base: Base) -> tuple[str, ...]:
    from lorakit.engines.onnx import attaching, exported  # load onnx, which is slow

    try:
        if base.exported is None:
            attaching.require_applicable(adapter, base)
        else:
            exported.require_applicable(adapter, base.exported)
    except CapabilityError as error:
        return error.items or (error.message,)
    return ()


def _few(reasons: Sequence[str]) -> str:
    more = len(reasons) - 2
    return "; ".join(reasons[:2]) + (f"; and {more} more" if more > 0 else "")
