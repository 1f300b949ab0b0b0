"""Which way round PEFT stored the factors of experts, where the config does not say its version.

Before PEFT 0.19 in and out were exchanged. PEFT writes `peft_version` since 0.18; others, and PEFT
0.17, write none. Then the sizes decide: gate_up_proj takes the hidden size to twice the experts'
width, down_proj takes that width back. Where both orders agree with all that is known, as when the
hidden size is twice the width and down_proj is not there, a field of the config tells that came
later, or the model card that PEFT writes beside the weights. Else the file is refused: one of the
two readings is another adapter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorakit.architectures import Decoder
from lorakit.errors import UnsupportedError
from lorakit.files.bounded import read_bounded
from lorakit.formats.folder import member
from lorakit.formats.peft.config import flipped_by
from lorakit.formats.peft.parts import Parts

Sizes = tuple[int, int]  # in, out
CARD = "README.md"
MAX_CARD = 1 << 20  # bytes
# Fields that no PEFT before 0.19 writes, as its releases 0.17.0 to 0.21.0 have them.
SINCE_0_19 = frozenset(
    {"kasa_config", "lora_ga_config", "monteclora_config", "use_bdlora", "velora_config"}
)
_WRITTEN_BY = re.compile(rb"^- PEFT (\d{1,6}\.\d{1,6}[^\s]{0,40})\s*$", re.MULTILINE)
_READS_HIDDEN = (".q_proj", ".k_proj", ".v_proj")
_WRITES_HIDDEN = (".o_proj",)


def version_of_card(folder: Path) -> str | None:
    """The PEFT that wrote a folder, as the model card says that it writes beside the weights."""
    card = member(folder, CARD)
    found = set(_WRITTEN_BY.findall((read_bounded(card, MAX_CARD) or b"") if card else b""))
    return found.pop().decode("ascii", "replace") if len(found) == 1 else None


def is_flipped(
    fused: str | None,
    down: str | None,
    parts: Parts,
    decoder: Decoder | None,
    config: Mapping[str, Any],
) -> bool:
    """Whether in and out are exchanged.

    fused, down: the modules whose tensors are those of gate_up_proj and down_proj, as far as the
    config targets them. config: as the file has it.
    Raises UnsupportedError where it cannot be told.
    """
    sizes = (_sizes(fused, parts), _sizes(down, parts))
    if sizes == (None, None):
        return False  # no pair at all, which is a fault of its own
    width = decoder.experts.intermediate if decoder and decoder.experts else None
    hidden = decoder.hidden if decoder else _hidden(parts)
    for known in ((hidden, width), (_hidden(parts), None)):  # of another base: what the file says
        fits = [flip for flip in (False, True) if _agrees(sizes, known, flip)]
        if len(fits) == 1:
            return fits[0]
    told = False if config.keys() & SINCE_0_19 else flipped_by(parts.written_by)
    if told is not None:
        return told
    raise UnsupportedError(
        f"{parts.where}: the factors of its experts could be either way round: PEFT before 0.19 "
        "exchanged in and out, and the config has no peft_version",
        items=[f"{fused or down}: both readings agree with {_known(decoder)}"],
        hint='say which in its adapter_config.json: "peft_version": "0.21.0", or "0.17.0" where '
        "that trained it" + ("" if decoder else "; or name the base, which may tell"),
    )


def _known(decoder: Decoder | None) -> str:
    return "the base's sizes" if decoder else "what the file says of its base"


def _sizes(module: str | None, parts: Parts) -> Sizes | None:
    a, b = parts.of("a").get(module or ""), parts.of("b").get(module or "")
    return None if a is None or b is None else (a.shape[1], b.shape[0])


def _agrees(
    sizes: tuple[Sizes | None, Sizes | None], known: tuple[int | None, int | None], flip: bool
) -> bool:
    """known: the hidden size and the experts' width."""
    fused, down = ((size[1], size[0]) if size and flip else size for size in sizes)
    hidden, width = known
    claims: list[tuple[int | None, int | None]] = []
    if fused is not None:
        claims += [(fused[0], hidden), (fused[1], None if width is None else 2 * width)]
        claims.append((fused[1] % 2, 0))
    if down is not None:
        claims += [(down[0], width), (down[1], hidden)]
    if fused is not None and down is not None:
        claims += [(fused[0], down[1]), (fused[1], 2 * down[0])]
    return all(found == wanted for found, wanted in claims if wanted is not None)


def _hidden(parts: Parts) -> int | None:
    """The hidden size that the attention's own layers show, where they agree."""
    found = {a.shape[1] for name, a in parts.of("a").items() if name.endswith(_READS_HIDDEN)}
    found |= {b.shape[0] for name, b in parts.of("b").items() if name.endswith(_WRITES_HIDDEN)}
    return found.pop() if len(found) == 1 else None
