"""GGUF for llama.cpp and all that is built on it: one file for each form, or its parts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorakit.adapter import Adapter
from lorakit.architectures import Decoder
from lorakit.base.folder import Base
from lorakit.base.gguf import open_base
from lorakit.engines.llama.native import chosen
from lorakit.engines.llama.quantize_types import MIXES
from lorakit.errors import MissingExtraError, UnsupportedError
from lorakit.exporting.cases import Cases
from lorakit.exporting.engine import require_runnable
from lorakit.exporting.gguf import (
    GgufModel,
    expected_bytes,
    gguf_model,
    read_vocabulary,
    require_parts,
    write_gguf,
)
from lorakit.exporting.gguf.tokens import trial_vocabulary
from lorakit.exporting.onnx import summed
from lorakit.exporting.plan import TOKENIZER, ExportPlan, Kind, OnBytes, Target, TargetName
from lorakit.exporting.record import about
from lorakit.exporting.running import OpenedModel
from lorakit.files.gguf import Value
from lorakit.formats.express import require_expressible
from lorakit.formats.gguf import cannot_express
from lorakit.formats.gguf import write_gguf as write_adapter
from lorakit.merge.view import merged_view
from lorakit.model.adapter_config import AdapterConfig
from lorakit.model.open import open as open_model
from lorakit.training.card import fenced

SPELLED = {"none": "F32", "fp32": "F32", "fp16": "F16", "q8": "Q8_0", "q4": "Q4_K_M"}
NEAR = {"F32": 1e-3, "F16": 0.01, "BF16": 0.05, "Q8_0": 0.1}  # nats
VOCABULARY = "vocabulary"  # in `ExportPlan.kept`
UNCOMPARED = "without lorakit[llama] its token ids were not compared with llama.cpp's"
BROKEN = 3.0  # of types of fewer bits: beyond it a model is of no use
LIMITS = {form: NEAR.get(form, BROKEN) for form in MIXES}


class Gguf(Target):
    """As `Target` says."""

    name: TargetName = "gguf"
    title = "GGUF"
    library = "gguf"
    kinds: tuple[Kind, ...] = ("merged", "apart")
    limits = LIMITS
    spelled = SPELLED
    few_bits = MIXES.keys() - {"F32", "F16", "BF16"}
    default = "Q8_0"
    several = True

    def form(self, name: str) -> str | None:
        """In any case, as people write them."""
        return super().form(name.lower()) or super().form(name.upper())

    def read(self, base: Base) -> dict[str, Any]:
        return {VOCABULARY: read_vocabulary(base)}

    def check(self, plan: ExportPlan) -> None:
        if plan.kind == "apart":
            _beside(plan)
        for form in plan.forms:
            require_parts(_model(plan, plan.kind), form, plan.split_size)
        try:
            model, ours = _model(plan, plan.kind), plan.kept.get(TOKENIZER)
            trial_vocabulary(plan.base, model.keys, ours, stored=model.stored)
        except MissingExtraError:
            if plan.proven:
                raise
            plan.kept[UNCOMPARED] = True
        if plan.proven:
            require_runnable(plan.base)

    def expected_bytes(self, plan: ExportPlan, form: str) -> int:
        return expected_bytes(_model(plan, plan.kind), form)

    def place(self, plan: ExportPlan, form: str) -> str:
        return f"{plan.output.name}-{form}.gguf"

    def begin(self, plan: ExportPlan, folder: Path, about: Mapping[str, Any]) -> None:
        """The adapter, where it is kept apart: one for all forms."""
        if plan.kind == "apart":
            write_adapter(_beside(plan), folder / _adapter_name(plan), plan.base.decoder)

    def write(
        self, plan: ExportPlan, kind: Kind, form: str, folder: Path, on_bytes: OnBytes | None
    ) -> tuple[Path, ...]:
        return write_gguf(
            _model(plan, kind),
            folder / self.place(plan, form),
            form,
            split_size=plan.split_size,
            on_bytes=on_bytes,
        )

    def beside(self, plan: ExportPlan) -> str | None:
        return _adapter_name(plan) if plan.kind == "apart" else None

    def can_be_apart(self, plan: ExportPlan) -> bool:
        try:
            _beside(plan)
        except UnsupportedError:
            return False
        return True

    @contextmanager
    def opened(
        self, plan: ExportPlan, kind: Kind, form: str, folder: Path
    ) -> Iterator[OpenedModel]:
        adapter = AdapterConfig(folder / _adapter_name(plan)) if kind == "apart" else None
        path, context = _first(folder, self.place(plan, form)), _short(plan.base.decoder)
        with open_model(path, engine="llama", adapter=adapter, context=context) as model:
            yield OpenedModel(model)

    def runtime(self, plan: ExportPlan, form: str) -> str:
        return f"llama.cpp {chosen().library.version}".rstrip()

    def faults(
        self, plan: ExportPlan, folder: Path, form: str, cases: Cases, *, declare: bool
    ) -> tuple[str, ...]:
        """Token ids were compared before, with the same keys."""
        found = open_base(_first(folder, self.place(plan, form))).templates or {}
        if found.get("default") != plan.companions.templates.get("default"):
            return ("its chat template is not the one that was to be exported",)
        return ()

    def warnings(self, plan: ExportPlan, form: str) -> Sequence[str]:
        notes = _model(plan, plan.kind).notes
        return (*notes, UNCOMPARED) if UNCOMPARED in plan.kept else notes

    def use(self, name: str, record: Mapping[str, Any], first: str) -> Iterator[str]:
        adapter = f"{name}-lora.gguf" if record["adapters"] == "apart" else None
        yield "In llama.cpp:"
        yield ""
        line = ["llama-cli", "-m", first, *(["--lora", adapter] if adapter else []), "-p", "..."]
        yield from fenced("", [shlex.join(line)])
        yield ""
        yield "In llama-cpp-python:"
        yield ""
        more = f", lora_path={json.dumps(adapter)}" if adapter else ""
        yield from fenced(
            "python",
            [
                "from llama_cpp import Llama",
                "",
                f"model = Llama({json.dumps(first)}{more})",
                'print(model.create_chat_completion([{"role": "user", "content": "..."}]))',
            ],
        )
        yield ""
        if record["tool_format"]:
            yield "It leaves special tokens out of its text, with which tool calls begin."
            yield ""
        yield "In lorakit, which parses tool calls:" if record["tool_format"] else "In lorakit:"
        yield ""
        yield from fenced("", [shlex.join(["lorakit", "chat", first, *_named(adapter)])])


def _named(adapter: str | None) -> list[str]:
    return ["-a", adapter] if adapter else []


def _model(plan: ExportPlan, kind: Kind) -> GgufModel:
    """Made but once: a large vocabulary takes seconds."""
    if kind not in plan.kept:
        merged = plan.adapters and kind == "merged"
        base = merged_view(plan.base, plan.scaled) if merged else plan.base
        said = {**about(plan), "from": [{"name": c.name, "scale": c.scale} for c in plan.adapters]}
        plan.kept[kind] = gguf_model(
            base,
            vocabulary=plan.kept[VOCABULARY],
            name=_title(plan, merged=bool(merged)),
            templates=plan.companions.templates,
            extra={"lorakit.export": Value("str", json.dumps(said, ensure_ascii=False))},
        )
    found: GgufModel = plan.kept[kind]
    return found


def _title(plan: ExportPlan, *, merged: bool) -> str:
    """What the model is called in the file: the base by its own name, where it says one."""
    own = "" if merged else plan.base.given_name.rpartition("/")[2]
    return own or plan.output.name


def _beside(plan: ExportPlan) -> Adapter:
    """All adapters as one that GGUF can say. Raises UnsupportedError."""
    hint = "merge them: --adapters merged"
    if any(adapter.invocation_tokens for adapter, _ in plan.scaled):
        raise UnsupportedError(
            "an aLoRA adapter beside a GGUF model acts from its invocation on in llama-server and "
            "lorakit alone: other programs of llama.cpp apply it to every token",
            hint="for llama-server: lorakit convert ADAPTER OUT.gguf --to gguf -b BASE",
        )
    for adapter, _ in plan.scaled:
        faults = cannot_express(adapter, plan.base.decoder)
        require_expressible(faults, "GGUF beside the model", hint)
    return summed(plan)


def _adapter_name(plan: ExportPlan) -> str:
    return f"{plan.output.name}-lora.gguf"


def _short(decoder: Decoder) -> int | None:
    """The context up to which longrope turns as for short texts: llama.cpp goes by the context that
    it is opened with, and our engines by the text."""
    ropes = [layer.rope for layer in decoder.layers if layer.rope is not None]
    return min((each.original_context for each in ropes if each.kind == "longrope"), default=None)


def _first(folder: Path, name: str) -> Path:
    """The file, or the first of its parts."""
    whole = folder / name
    return whole if whole.exists() else next(folder.glob(f"{whole.stem}-00001-of-*.gguf"))
