"""lorakit check: does an adapter fit a base?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from lorakit.check import check
from lorakit.cli.output import print_json, say
from lorakit.cli.references import (
    AdapterArgument,
    JsonOption,
    PickleOption,
    PrivateOption,
    open_base,
    read_reference,
)
from lorakit.cli.signature import option


def command(
    adapter: AdapterArgument,
    base: Annotated[str, option("--base", "-b", help="The base model folder.")],
    allow_pickle: PickleOption = False,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """List every mismatch between an adapter and a base; exits 1 if there is an error."""
    opened = open_base(base, allow_private=allow_private)
    loaded = read_reference(
        adapter, opened.decoder, allow_pickle=allow_pickle, allow_private=allow_private
    )
    found = check(loaded, opened)
    errors = sum(mismatch.severity == "error" for mismatch in found)
    if json:
        print_json({"fits": not errors, "mismatches": [asdict(mismatch) for mismatch in found]})
    else:
        for mismatch in found:
            style = "red" if mismatch.severity == "error" else "yellow"
            say((f"{mismatch.severity}: ", style), str(mismatch))
        counted = f"{errors} error{'s' if errors > 1 else ''}"
        say("it fits" if not errors else f"it does not fit: {counted}")
    raise SystemExit(1 if errors else 0)
