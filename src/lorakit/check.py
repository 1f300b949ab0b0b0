"""Is an adapter whole, alive and of this base? Every fault at once, each with what to do about it.

It compares names, shapes and values; it knows nothing of formats or engines.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter, Array, Delta, Magnitude, Replacement, Site
from lorakit.architectures import HEAD, Decoder, ModuleShape, is_seeing
from lorakit.base.folder import Base
from lorakit.base.grown import resized_decoder
from lorakit.base.quantised import original_name
from lorakit.errors import MismatchError

SHOWN = 20  # mismatches named in one error; `check` returns all
_NUMBER = re.compile(r"\.\d+(?=\.|$)")
_LAYER = re.compile(r"\.(?:layers|h)\.(\d{1,9})\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One thing that does not fit. A warning does not keep the adapter from being used."""

    item: str
    expected: str
    found: str
    advice: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        advice = f" ({self.advice})" if self.advice else ""
        return f"{self.item}: expected {self.expected}, found {self.found}{advice}"


def check(adapter: Adapter, base: Decoder | Base) -> tuple[Mismatch, ...]:
    """All mismatches between an adapter and a base, errors first; empty where it fits.

    What the adapter's own file lacks is among them, and warnings where it does nothing, or has
    values that half precision does not hold. With a Base, its name and fingerprint are compared
    with what the adapter asks for too, and a vocabulary that becomes the adapter's is a warning.
    Reads every value of the adapter once, and the base's weights only for a recorded fingerprint.
    """
    text, seeing = without_seeing(adapter)
    adapter = text if text.deltas or text.replacements else adapter
    found = [*_notes(adapter), *_dead(adapter), *_tiny(adapter)]
    found += _seeing(seeing) if adapter is text else []
    if isinstance(base, Base):
        larger = resized_decoder(base, [(adapter, 1.0)])
        found += [*misfits(adapter, larger), *_precondition(adapter, base)]
        found += _vocabulary(base, larger.vocabulary)
    else:
        found += misfits(adapter, base)
    if not any(mismatch.severity == "error" for mismatch in found):  # of another base, it lacks all
        found += _missing(adapter)
    return tuple(sorted(found, key=lambda mismatch: mismatch.severity == "warning"))


def misfits(adapter: Adapter, base: Decoder | Base) -> list[Mismatch]:
    """What `check` finds of the adapter beside the base, whatever its file lacks."""
    decoder = base.decoder if isinstance(base, Base) else base
    modules, adapted = decoder.modules(), frozenset(adapter.modules)
    found = list(_deltas(adapter, decoder))
    for magnitude in adapter.magnitudes:
        found += _magnitude(magnitude, adapted, modules)
    parameters = decoder.parameters()
    for replacement in adapter.replacements:
        found += _replacement(replacement, parameters, decoder)
    found += [
        Mismatch(item=name, expected="finite values", found="NaN or infinity", advice=_DIVERGED)
        for name in adapter.non_finite()
    ]
    found += _tokens(adapter, decoder)
    if isinstance(base, Base):
        found += _precondition(adapter, base)
    return found


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
    if any(_RESIZED in error.advice for error in errors):
        return _TO_RESIZE
    name, hint = adapter.precondition.name, "open the base that the adapter was trained on"
    if name and (original := original_name(name)):
        return f"{hint}: the original of {name}, by its name {original}"
    return f"{hint}: {name}" if name else hint


def without_seeing(adapter: Adapter) -> tuple[Adapter, tuple[str, ...]]:
    """The adapter without its parts for what sees or hears, and their names.

    They are of a model that holds this one's text, and cannot act on text.
    """
    names = [*adapter.modules, *(r.name for r in adapter.replacements)]
    seeing = tuple(name for name in names if is_seeing(name))
    if not seeing:
        return adapter, ()
    kept = replace(
        adapter,
        deltas=tuple(d for d in adapter.deltas if not is_seeing(d.module)),
        magnitudes=tuple(m for m in adapter.magnitudes if not is_seeing(m.module)),
        replacements=tuple(r for r in adapter.replacements if not is_seeing(r.name)),
    )
    return kept, seeing


def for_text(adapter: Adapter) -> Adapter:
    """`without_seeing`, with a note of it in the adapter's `reading`.

    One that has no other parts is as it was, and fits no base of text.
    """
    kept, seeing = without_seeing(adapter)
    if not seeing or not (kept.deltas or kept.replacements):
        return adapter
    notes = (*adapter.reading.notes, left_out_note(seeing))
    return replace(kept, reading=replace(adapter.reading, notes=notes))


def left_out_note(seeing: Sequence[str]) -> str:
    """What is said of parts that were left out: how many, and of which kinds."""
    kinds = Counter(_NUMBER.sub(".N", name) for name in seeing)
    named = ", ".join(f"{name} ({n})" if n > 1 else name for name, n in kinds.items())
    return f"{len(seeing)} parts for what sees are left out, as they cannot act on text: {named}"


def _seeing(names: Sequence[str]) -> Iterator[Mismatch]:
    if names:
        yield Mismatch(
            item="what sees",
            expected="parts for text",
            found=left_out_note(names),
            advice="the parts for text act; lorakit merge keeps the others in a base that sees",
            severity="warning",
        )


def without_unchanged(adapter: Adapter, base: Base) -> Adapter:
    """The adapter without the replacements that hold just what the base holds.

    PEFT stores the whole embedding beside a delta of it, changed or not; an engine that cannot
    replace a parameter can then apply the rest. Compared in the base's own dtype.
    """
    kept = tuple(r for r in adapter.replacements if not _unchanged(r, base))
    same = len(kept) == len(adapter.replacements)
    return adapter if same else replace(adapter, replacements=kept)


def _unchanged(replacement: Replacement, base: Base) -> bool:
    try:
        own = base.tensor(replacement.name)
    except KeyError:  # no such parameter, or one that a GGUF file holds quantised
        return False
    rows = replacement.rows
    if rows is not None:
        if rows.size == 0 or rows[0] < 0 or rows[-1] >= len(own):
            return False
        own = own[rows]
    value = replacement.value
    return own.shape == value.shape and bool(np.array_equal(own, value.astype(own.dtype)))


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


def is_dead(adapter: Adapter) -> bool:
    """Whether it changes nothing at any scale: all of its deltas are zero, and it has no more."""
    if adapter.replacements or adapter.magnitudes:
        return False
    return not any(
        d.scale and ((np.any(d.a) and np.any(d.b)) or (d.bias is not None and np.any(d.bias)))
        for d in adapter.deltas
    )


def _dead(adapter: Adapter) -> Iterator[Mismatch]:
    if is_dead(adapter):
        yield Mismatch(
            item="effect",
            expected="a delta that is not zero",
            found="zeros in all of its deltas: it does nothing",
            advice="B is zero before training: was it trained, and saved after that?",
            severity="warning",
        )


def lost(array: Array, dtype: npt.DTypeLike) -> float:
    """The share of an array that rounding to a dtype loses, from 0 to 1, by the sum of squares."""
    values = np.asarray(array, np.float64)
    with np.errstate(over="ignore", under="ignore"):
        rounded = array.astype(dtype).astype(np.float64)
    size = np.abs(values).max(initial=0.0)
    if not size or not np.isfinite(size):
        return 0.0
    difference = np.linalg.norm((values - rounded) / size)
    return float(difference / np.linalg.norm(values / size))


LOST = 0.05  # ten times what rounding to bfloat16 loses of any values
_HALF = np.dtype(np.float16)
_TINIEST = 6.1e-5  # float16's least number of full precision


def _tiny(adapter: Adapter) -> Iterator[Mismatch]:
    """Values that float16 does not hold, in which others convert adapters and engines compute."""
    names = [
        name
        for name, array in adapter.arrays()
        if array.dtype != _HALF
        and array.size
        and float(np.abs(array).max()) < 64 * _TINIEST  # reads once; rounds only what may be lost
        and lost(array, _HALF) > LOST
    ]
    if names:
        yield Mismatch(
            item="half precision",
            expected="values that float16 holds",
            found=f"values in {len(names)} arrays, such as {names[0]}, that it rounds to 0",
            advice="keep it in float32 or bfloat16",
            severity="warning",
        )


_DIVERGED = "the training diverged, or the file is damaged"


def _deltas(adapter: Adapter, decoder: Decoder) -> Iterator[Mismatch]:
    modules = decoder.modules()
    missing = [delta for delta in adapter.deltas if delta.module not in modules]
    if missing and len(missing) == len(adapter.deltas):
        yield Mismatch(
            item="architecture",
            expected=f"modules of {decoder.architecture.model_type}, such as {_example(modules)}",
            found=f"none of them, but such as {missing[0].module}",
            advice=_prefix_advice(missing[0].module),
        )
        return
    for delta in missing:
        yield Mismatch(
            item=delta.module,
            expected=_expected_module(delta.module, decoder),
            found=f"a delta of rank {delta.rank}",
            advice=_module_advice(delta.module, modules),
        )
    for delta in adapter.deltas:
        if delta.module in modules:
            yield from _delta(delta, modules[delta.module], decoder)


def _example(modules: Mapping[str, ModuleShape]) -> str:
    return next(name for name, shape in modules.items() if not shape.embedding)


def _expected_module(module: str, decoder: Decoder) -> str:
    layer = _LAYER.search(module)
    if layer and int(layer[1]) >= len(decoder.layers):
        return f"one of the base's {len(decoder.layers)} layers"
    return f"a module of {decoder.architecture.model_type}"


def _module_advice(module: str, modules: Mapping[str, ModuleShape]) -> str:
    """Other models of the same family fuse projections, or have experts where this one has none."""
    parent = module.rpartition(".")[0]
    siblings = [name for name, shape in modules.items() if name.rpartition(".")[0] == parent]
    fused = [name for name in siblings if modules[name].parts]
    if fused:
        return f"the base keeps it in {' or '.join(fused)}"
    if is_seeing(module):
        return _SEES
    if any(name.startswith(f"{parent}.experts.") for name in modules):
        return f"the base has experts there, such as {parent}.experts.up_proj"
    return "the adapter was trained on another base"


_SEES = "it is for a part that sees, and cannot act on text; lorakit merge takes it where the base "
_SEES += "has that part"


def _prefix_advice(module: str) -> str:
    if is_seeing(module):
        return _SEES
    if ".language_model." in module:
        return "the adapter was trained on a multimodal model that contains this base's kind"
    return "the adapter was trained on another kind of model"


def _delta(delta: Delta, shape: ModuleShape, decoder: Decoder) -> Iterator[Mismatch]:
    experts = len(delta.a) if delta.a.ndim == 3 else None
    if experts != shape.experts:
        yield Mismatch(
            item=delta.module,
            expected=_matrices(shape.experts),
            found=_matrices(experts),
            advice=_experts_advice(experts, shape),
        )
    allowed = _sites(delta.module, shape, decoder)
    if delta.site not in allowed:
        yield Mismatch(
            item=delta.module,
            expected=f"a delta at site {' or '.join(sorted(allowed))}",
            found=f"site {delta.site}",
        )
    want = (shape.out_features, shape.in_features)
    if delta.site is Site.OUTPUT and shape.embedding:
        want = (shape.in_features, shape.out_features)
    have = (delta.out_features, delta.in_features)
    if have != want:
        yield Mismatch(
            item=delta.module,
            expected=f"a delta of {list(want)} (out, in)",
            found=str(list(have)),
            advice=_shape_advice(shape, have),
        )
    if delta.site is Site.BOTH and not decoder.tied:
        yield Mismatch(
            item=delta.module,
            expected="a base with tied embeddings",
            found="one with a head of its own",
            advice="the delta acts on both",
            severity="warning",
        )
    if delta.site is Site.INPUT and shape.embedding and decoder.tied:
        yield Mismatch(
            item=delta.module,
            expected="a head of its own, as the delta acts on the lookup only",
            found="a head tied to the embedding",
            advice="lorakit and PEFT leave the head alone; a merge must untie it, and llama.cpp "
            "cannot run it",
            severity="warning",
        )


def _matrices(experts: int | None) -> str:
    return "one weight matrix" if experts is None else f"deltas of {experts} experts"


def _sites(module: str, shape: ModuleShape, decoder: Decoder) -> set[Site]:
    if module == HEAD:
        return {Site.LINEAR, Site.OUTPUT}
    if not shape.embedding:
        return {Site.LINEAR}
    return {Site.INPUT, Site.OUTPUT, Site.BOTH} if module == decoder.embedding else {Site.INPUT}


def _experts_advice(experts: int | None, shape: ModuleShape) -> str:
    if shape.experts is None:
        return "the adapter was trained on a mixture-of-experts model"
    if experts is None:
        return "a delta of experts has an axis for them"
    return "the adapter was trained on a base with another number of experts"


def _shape_advice(shape: ModuleShape, have: tuple[int, int]) -> str:
    if shape.embedding:
        return "was the vocabulary extended when the adapter was trained?"
    if have == (shape.in_features, shape.out_features):
        return "the delta is the wrong way round: A must be [rank, in], B [out, rank]"
    if have[0] in shape.parts and have[1] == shape.in_features:
        return "the base keeps several projections in this module, the delta has one of them"
    return "the adapter was trained on a base of another size"


def _magnitude(
    magnitude: Magnitude, adapted: frozenset[str], modules: Mapping[str, ModuleShape]
) -> Iterator[Mismatch]:
    if magnitude.module not in adapted:
        yield Mismatch(
            item=f"{magnitude.module}.magnitude",
            expected="a delta of the same module",
            found="none",
            advice="the file lacks a part of its DoRA layer",
        )
    shape = modules.get(magnitude.module)
    if shape is None:
        return
    sizes = [shape.out_features]
    if shape.embedding:  # PEFT has one for each feature, MLX for each token
        sizes.append(shape.in_features)
    axes = () if shape.experts is None else (shape.experts,)
    if magnitude.value.shape not in [(*axes, size) for size in sizes]:
        yield Mismatch(
            item=f"{magnitude.module}.magnitude",
            expected=" or ".join(str([*axes, size]) for size in sizes),
            found=str(list(magnitude.value.shape)),
        )


def _replacement(
    replacement: Replacement, parameters: Mapping[str, tuple[int, ...]], decoder: Decoder
) -> Iterator[Mismatch]:
    tied = replacement.name == f"{HEAD}.weight" and decoder.tied
    name = f"{decoder.embedding}.weight" if tied else replacement.name
    found = f"{list(replacement.value.shape)}"
    if name not in parameters:
        yield Mismatch(
            item=replacement.name,
            expected=f"a parameter of {decoder.architecture.model_type}",
            found=f"a {replacement.kind} of {found}",
            advice="the adapter was trained on another base, or brings a head of its own",
        )
        return
    want, rows = parameters[name], replacement.rows
    if rows is None:
        if replacement.value.shape != want:
            advice = _resized(replacement, want, name == f"{decoder.embedding}.weight")
            yield Mismatch(
                item=replacement.name, expected=str(list(want)), found=found, advice=advice
            )
        return
    if len(want) != 2 or replacement.value.shape[1:] != want[1:]:
        yield Mismatch(item=replacement.name, expected=f"rows of {list(want)}", found=found)
    elif rows.size and (rows[0] < 0 or rows[-1] >= want[0]):
        yield Mismatch(
            item=replacement.name,
            expected=f"row numbers below {want[0]}",
            found=str(int(rows[-1] if rows[0] >= 0 else rows[0])),
            advice="was the vocabulary extended when the adapter was trained?",
        )


_RESIZED = "the vocabulary was resized"
_TO_RESIZE = (
    "open the base together with this adapter (lorakit.open, lorakit run -a), or merge it (lorakit "
    "merge): a Hugging Face folder then becomes as large, where the adapter holds all of embedding "
    "and head, and no other adapter has another size; else open the base as it was saved after the "
    "resize"
)


def _resized(replacement: Replacement, want: tuple[int, ...], is_table: bool) -> str:
    """What to do where a vocabulary has other rows than the base's."""
    shape = replacement.value.shape
    if not (is_table or replacement.name == f"{HEAD}.weight") or shape[1:] != want[1:]:
        return ""
    more = shape[0] - want[0]
    if more < 0:
        return f"{_RESIZED} to {-more} rows fewer in training"
    return f"{_RESIZED} by {more} in training"


def _tokens(adapter: Adapter, decoder: Decoder) -> Iterator[Mismatch]:
    beyond = [token for token in adapter.invocation_tokens if not 0 <= token < decoder.vocabulary]
    if beyond:
        yield Mismatch(
            item="invocation tokens",
            expected=f"token ids below {decoder.vocabulary}",
            found=str(beyond[:8]),
            advice="the adapter was trained with another tokenizer",
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
