"""What a format cannot say of an adapter, as values: to refuse with, or to leave out on request.

Each format has one function ``cannot_express(adapter, decoder) -> list[Fault]``. Its writer refuses
what the function lists, `lossy` leaves it out, and `inspect` shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lorakit.adapter import Adapter, Delta, Magnitude, Replacement, Site
from lorakit.architectures import Decoder
from lorakit.errors import UnsupportedError

Part = tuple[str, ...]  # which part of an adapter: its kind, then what names it
SHOWN = 50  # faults named in one error
ROUNDS = 4  # what is left out may leave other parts alone, such as a magnitude without its delta


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that a format cannot say. `part` is what to leave out; None: nothing would help."""

    item: str
    reason: str
    part: Part | None = None

    def __str__(self) -> str:
        return f"{self.item}: {self.reason}" if self.item else self.reason


Express = Callable[[Adapter, Decoder | None], list[Fault]]


def delta_fault(delta: Delta, reason: str) -> Fault:
    return Fault(item=delta.module, reason=reason, part=("delta", *delta.key))


def bias_fault(delta: Delta, reason: str) -> Fault:
    return Fault(item=delta.module, reason=reason, part=("bias", *delta.key))


def replacement_fault(replacement: Replacement, reason: str) -> Fault:
    part = ("replacement", replacement.name, replacement.kind)
    return Fault(item=replacement.name, reason=reason, part=part)


def magnitude_fault(magnitude: Magnitude, reason: str) -> Fault:
    return Fault(item=magnitude.module, reason=reason, part=("magnitude", magnitude.module))


def invocation_fault(reason: str) -> Fault:
    return Fault(item="invocation tokens", reason=reason, part=("invocation",))


def whole_fault(reason: str) -> Fault:
    return Fault(item="", reason=reason)


def dora_faults(adapter: Adapter) -> list[Fault]:
    """For a format with one flag for DoRA: magnitudes that some modules have and others lack."""
    bare = sorted(set(adapter.modules) - {m.module for m in adapter.magnitudes})
    alone = [m for m in adapter.magnitudes if m.module not in adapter.modules]
    faults = [magnitude_fault(m, "a DoRA magnitude without a delta") for m in alone]
    if not bare:
        return faults
    reason = f"a DoRA magnitude, which {bare[0]} and {len(bare) - 1} other modules lack"
    return faults + [magnitude_fault(m, reason) for m in adapter.magnitudes if m not in alone]


def linear_faults(adapter: Adapter, *, others: str, alone: str) -> list[Fault]:
    """For a format of linear layers' factors and nothing else.

    others: what is the matter with factors of other layers. alone: with invocation tokens.
    """
    faults = [] if adapter.deltas else [whole_fault("no low-rank delta")]
    for d in adapter.deltas:
        if d.site is not Site.LINEAR:
            faults.append(delta_fault(d, f"an embedding; its factors {others}"))
        elif d.a.ndim == 3:
            faults.append(delta_fault(d, f"experts; their factors {others}"))
        elif d.bias is not None:
            faults.append(bias_fault(d, "a bias of B"))
    faults += [replacement_fault(r, r.kind) for r in adapter.replacements]
    faults += [magnitude_fault(m, "a DoRA magnitude") for m in adapter.magnitudes]
    return faults + ([invocation_fault(alone)] if adapter.invocation_tokens else [])


def require_expressible(faults: Sequence[Fault], name: str, hint: str = "") -> None:
    """Raise UnsupportedError that lists all faults; nothing where there are none."""
    if not faults:
        return
    more = len(faults) - SHOWN
    raise UnsupportedError(
        f"{name} cannot express this adapter exactly",
        items=[str(fault) for fault in faults[:SHOWN]] + ([f"and {more} more"] if more > 0 else []),
        hint=hint or _way_out(faults),
    )


def _way_out(faults: Sequence[Fault]) -> str:
    if any(fault.part == ("invocation",) for fault in faults):  # merged, it would act on all tokens
        return "PEFT and GGUF files hold invocation tokens"
    return (
        "merge the adapter into its base (lorakit merge) and use the merged model instead, or "
        "export that (lorakit export)"
    )


def lossy(
    adapter: Adapter, cannot_express: Express, decoder: Decoder | None
) -> tuple[Adapter, tuple[Fault, ...]]:
    """The adapter without what a format cannot say, and everything that was left out.

    What is left may still be refused by the writer, where nothing that could be left out helps.
    """
    dropped: list[Fault] = []
    for _ in range(ROUNDS):
        faults = [fault for fault in cannot_express(adapter, decoder) if fault.part]
        if not faults:
            break
        adapter = without(adapter, faults)
        dropped += faults
    return adapter, tuple(dropped)


def without(adapter: Adapter, faults: Sequence[Fault]) -> Adapter:
    """The adapter without the parts that the faults name."""
    parts = {fault.part for fault in faults}
    return replace(
        adapter,
        deltas=tuple(
            replace(d, bias=None) if ("bias", *d.key) in parts else d
            for d in adapter.deltas
            if ("delta", *d.key) not in parts
        ),
        replacements=tuple(
            r for r in adapter.replacements if ("replacement", r.name, r.kind) not in parts
        ),
        magnitudes=tuple(m for m in adapter.magnitudes if ("magnitude", m.module) not in parts),
        invocation_tokens=() if ("invocation",) in parts else adapter.invocation_tokens,
    )
