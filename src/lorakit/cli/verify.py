"""lorakit verify: do two things give the same logits?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

from lorakit.cli.logits import read_ids
from lorakit.cli.output import console, print_json, print_table
from lorakit.cli.references import (
    AdapterOption,
    BaseArgument,
    EngineOption,
    JsonOption,
    PrivateOption,
    QuantizeOption,
    ThreadsOption,
    ToleranceOption,
    fetched,
    open_with,
    split_reference,
)
from lorakit.cli.signature import option
from lorakit.engines.onnx.options import Quantization
from lorakit.errors import FormatError, ParameterError
from lorakit.files.bounded import parse_json, read_text
from lorakit.files.gguf import is_gguf
from lorakit.model.model import Model
from lorakit.model.open import unused_name
from lorakit.verify import (
    TOLERANCE,
    LogitsOf,
    ParityReport,
    PromptParity,
    adapted,
    built_in,
    peft_logits,
    recorded,
    verify,
)

OPENED = ("engine", "quantize", "model", "on")  # words before a colon: what another model is

AgainstOption = Annotated[
    list[str],
    option(
        "--against",
        metavar="OTHER",
        help="An adapter REF[:SCALE] (may be repeated), a merged model's folder, FILE.npz[#KIND], "
        "or base, peft, engine:NAME, quantize:HOW; model:BASE is another model without adapters, "
        "on:BASE the same adapters on another file of the base, its GGUF say.",
    ),
]


def command(
    base: BaseArgument,
    against: AgainstOption,
    adapter: AdapterOption = None,
    prompt: Annotated[
        list[str] | None, option("--prompt", "-p", help="A text; may be repeated.")
    ] = None,
    prompts: Annotated[
        Path | None,
        option(help='A file of texts, one per line, or .jsonl with "prompt" or "ids".'),
    ] = None,
    ids: Annotated[
        str | None, option(help="Token ids: 1,2,3 or a .npz file with ids0, ids1, ...")
    ] = None,
    tolerance: ToleranceOption = TOLERANCE,
    engine: EngineOption = None,
    quantize: QuantizeOption = "none",
    threads: ThreadsOption = None,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Compare the logits of a base with adapters with those of something else; exits 1 if they
    differ by more than the tolerance."""
    other = parse_other(against)
    with ExitStack() as stack:
        opening = Opening(base, engine, quantize, threads, allow_private)
        model = stack.enter_context(opening.open(adapter or []))
        scales = {info.name: info.scale for info in model.adapters if info.scale is not None}
        chosen = choose_prompts(model, prompt, prompts, ids)
        side = other_side(other, model, adapter or [], opening, ids, stack)
        report = verify(
            adapted(model, scales),
            side.logits,
            chosen or side.prompts or built_in(model),
            tolerance=tolerance,
            plain=adapted(model, {}) if scales else None,
            names=(_describe(opening, adapter or []), other.text),
            notes=[*rounding(opening.quantize), *side.notes],
        )
    finish(report, json=json)


@dataclass(frozen=True, slots=True)
class Opening:
    """How the first side is opened; the other differs in what `--against` says."""

    base: str
    engine: str | None
    quantize: Quantization
    threads: int | None
    allow_private: bool

    def open(self, adapters: Sequence[str]) -> Model:
        return open_with(
            self.base,
            adapters,
            engine=self.engine,
            quantize=self.quantize,
            threads=self.threads,
            allow_private=self.allow_private,
        )

    def changed(self, other: Other) -> Opening:
        """What a kind of "engine", "quantize", "model" or "on" opens instead."""
        if other.kind in ("model", "on"):
            same = is_gguf(Path(other.value)) == is_gguf(Path(self.base))
            return replace(self, base=other.value, engine=self.engine if same else None)
        if other.kind == "engine":
            return replace(self, engine=other.value)
        held: Quantization = next(q for q in get_args(Quantization) if q == other.value)
        return replace(self, quantize=held)


@dataclass(frozen=True, slots=True)
class Other:
    """What `--against` says: its kind, and what stands after the colon or the path itself."""

    kind: str  # "base", "peft", "engine", "quantize", "model", "on", "record", "adapters"
    value: str
    references: tuple[str, ...]

    @property
    def text(self) -> str:
        return " + ".join(self.references)


def parse_other(against: Sequence[str]) -> Other:
    """Words first, then what is there: `./peft` is a folder, `peft` is PEFT. ParameterError."""
    kinds = {_kind(reference) for reference in against}
    if kinds != {"adapters"} and len(against) > 1:
        raise ParameterError(
            "only adapters can be named together by several --against",
            items=[f"{reference}: {_kind(reference)}" for reference in against],
        )
    kind = kinds.pop()
    value = against[0].partition(":")[2] if kind == against[0].partition(":")[0] else against[0]
    if kind == "quantize" and value not in get_args(Quantization):
        raise ParameterError(
            f"there are no weights {value!r}",
            hint=", ".join(f"quantize:{name}" for name in get_args(Quantization)),
        )
    return Other(kind, value, tuple(against))


def _kind(reference: str) -> str:
    word, colon, _ = reference.partition(":")
    if reference in ("base", "peft") or (colon and word in OPENED):
        return word
    if reference.partition("#")[0].endswith(".npz"):
        return "record"
    folder = Path(reference).expanduser()
    model = (folder / "config.json").is_file() and not (folder / "adapter_config.json").exists()
    return "model" if model else "adapters"


@dataclass(frozen=True, slots=True)
class Side:
    """The other side: its logits, the prompts that it brings along, and what to say of it."""

    logits: LogitsOf
    prompts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def other_side(
    other: Other,
    model: Model,
    adapters: Sequence[str],
    opening: Opening,
    ids: str | None,
    stack: ExitStack,
) -> Side:
    """Make the other side; what it opens is closed by `stack`."""
    if other.kind == "base":
        return Side(adapted(model, {}))
    if other.kind == "adapters":
        scales = load_others(model, other.references, adapters)
        return Side(adapted(model, scales), notes=_itself(other.references == tuple(adapters)))
    if other.kind == "record":
        path, _, family = other.value.partition("#")
        known = None if ids is None else {k: v.tolist() for k, v in read_ids(ids).items()}
        return Side(*recorded(Path(path), family or None, likely=_likely(adapters), ids=known))
    if other.kind == "peft":
        get = partial(fetched, allow_private=opening.allow_private)
        pairs = [(get(ref).expanduser(), s) for ref, s in map(split_reference, adapters)]
        return Side(stack.enter_context(peft_logits(model.base.path, pairs)))
    changed = opening.changed(other)
    opened = stack.enter_context(changed.open([] if other.kind == "model" else adapters))
    notes = [] if changed.quantize == opening.quantize else rounding(changed.quantize)
    return Side(
        opened.logits,
        notes=[
            *notes,
            *_stored(opened, model),
            *_native(opened, model),
            *_itself(changed == opening),
        ],
    )


def load_others(model: Model, references: Sequence[str], first: Sequence[str]) -> dict[str, float]:
    """Load the other adapters beside the first ones; one without a scale takes that of the adapter
    in its place."""
    same_count = len(references) == len(first)
    scales: dict[str, float] = {}
    for number, reference in enumerate(references):
        path, scale = split_reference(reference)
        if path == reference and same_count:
            scale = split_reference(first[number])[1]
        name = unused_name("against", {info.name: 0.0 for info in model.adapters})
        model.load_adapter(path, name)
        scales[name] = scale
    return scales


def _likely(adapters: Sequence[str]) -> str:
    """The name that recorded logits of these adapters would have."""
    scales = {split_reference(reference)[1] for reference in adapters}
    return "base" if not scales else f"scale{scales.pop():g}" if len(scales) == 1 else "logits"


def choose_prompts(
    model: Model, texts: Sequence[str] | None, file: Path | None, ids: str | None
) -> dict[str, list[int]]:
    """All prompts that the options name; empty where they name none."""
    pairs = [(_short(text), model.encode(text)) for text in texts or ()]
    if file is not None:
        pairs += read_prompts(model, file).items()
    if ids is not None:
        pairs += ((name, sequence.tolist()) for name, sequence in read_ids(ids).items())
    found: dict[str, list[int]] = {}
    for name, sequence in pairs:  # two texts may begin alike
        found[unused_name(name, found)] = sequence
    return found


def read_prompts(model: Model, path: Path) -> dict[str, list[int]]:
    """Prompts from a file: a text per line, or JSON lines with "prompt", "text" or "ids"."""
    lines = read_text(path).splitlines()
    named = {f"line {n}": line for n, line in enumerate(lines, 1) if line.strip()}
    if not named:
        raise FormatError(f"{path} holds no prompts")
    if path.suffix.lower() not in (".jsonl", ".json"):
        return {name: model.encode(line) for name, line in named.items()}
    return {name: model.encode(_json_prompt(path, name, line)) for name, line in named.items()}


def _json_prompt(path: Path, name: str, line: str) -> str | list[int]:
    try:
        row = parse_json(line.encode())
    except ValueError as error:
        raise FormatError(f"{path}, {name} is not valid JSON: {error}") from error
    if isinstance(row, Mapping):
        row = next((row[key] for key in ("prompt", "text", "ids") if key in row), None)
    if isinstance(row, str) or (
        isinstance(row, list) and row and all(type(token) is int for token in row)
    ):
        return row
    raise FormatError(f'{path}, {name} holds neither "prompt" (a text) nor "ids" (numbers)')


def rounding(held: Quantization) -> list[str]:
    """Why the default tolerance, which is for float32, may be too strict here."""
    if held == "none":
        return []
    return [f"weights are held as {held}: a tolerance of {TOLERANCE:g} is for float32"]


def _stored(other: Model, first: Model) -> list[str]:
    """The same of another model whose weights are stored in fewer bits: merging rounded them."""
    if other.base.path == first.base.path:
        return []
    names = {tensor.dtype.name for tensor in other.base.tensors.values()} - {"float32", "float64"}
    return [
        f"the other model's weights are stored as {name}: rounding them once may change logits by "
        f"more than {TOLERANCE:g}"
        for name in sorted(names)
    ]


def _native(other: Model, first: Model) -> list[str]:
    """llama.cpp beside another engine: what float32 alone does not explain."""
    if other.base.is_gguf == first.base.is_gguf:
        return []
    return [
        "one side is a GGUF file: its type may have rounded weights, and llama.cpp takes GELU from "
        "a float16 table, which moves the logits of Gemma and GPT-2 by 1e-3"
    ]


def _itself(same: bool) -> list[str]:
    return ["both sides are the same thing: this shows that it repeats, nothing else"] * same


def _describe(opening: Opening, adapters: Sequence[str]) -> str:
    held = "" if opening.quantize == "none" else f", {opening.quantize}"
    engine = opening.engine or ("llama" if is_gguf(Path(opening.base)) else "onnx")
    return " + ".join([opening.base, *adapters]) + f" ({engine}{held})"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 20 else f"{line[:17]}..."


def finish(report: ParityReport, *, json: bool) -> None:
    """Show the report; the process ends with 1 where the sides do not agree."""
    if json:
        print_json(report.to_dict())
    else:
        show(report)
    raise SystemExit(0 if report.agrees else 1)


def show(report: ParityReport) -> None:
    """The table, the warnings, the verdict."""
    console.print(f"one    {report.one}\nother  {report.other}", markup=False)
    titles = ("prompt", "tokens", "max diff", "mean diff", "KL", "top-1", "differs at", "effect")
    rows = [_row(row) for row in report.prompts]
    print_table(titles, rows, left=("prompt",), total=_row(report.total))
    for warning in report.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    console.print(_verdict(report), style="green" if report.agrees else "red", markup=False)


def _row(parity: PromptParity) -> list[str]:
    at, effect = parity.first_difference, parity.effect
    return [
        parity.name,
        str(parity.tokens),
        f"{parity.max_difference:.3g}",
        f"{parity.mean_difference:.3g}",
        f"{parity.kl:.3g}",
        f"{parity.top1:.1%}",
        "" if at is None else str(at),
        "" if effect is None else f"{effect:.3g}",
    ]


def _verdict(report: ParityReport) -> str:
    total = report.total
    if total.non_finite:
        return f"differs: {total.non_finite} logits are NaN or infinite"
    share = f", {total.max_difference / total.effect:.2g} of the effect" if total.effect else ""
    sign = "within" if report.agrees else "above"
    verdict = "agrees" if report.agrees else "differs"
    return (
        f"{verdict}: the largest difference is {total.max_difference:.3g}{share}, "
        f"{sign} the tolerance of {report.tolerance:g}"
    )
