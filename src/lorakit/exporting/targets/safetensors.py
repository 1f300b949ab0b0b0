"""A Hugging Face folder, for transformers and whatever else reads one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorakit.exporting.engine import require_runnable, running_engine
from lorakit.exporting.plan import ExportPlan, Kind, OnBytes, Target, TargetName
from lorakit.exporting.running import OpenedModel
from lorakit.exporting.safetensors import expected_bytes, write_folder
from lorakit.model.open import open as open_model
from lorakit.training.card import fenced

SPELLED = {"fp16": "f16", "fp32": "f32"}
LIMITS = {"none": 0.01, "f32": 1e-4, "f16": 0.01, "bf16": 0.05}


class Safetensors(Target):
    """As `Target` says."""

    name: TargetName = "safetensors"
    title = "safetensors"
    library = "transformers"
    limits = LIMITS
    spelled = SPELLED
    default = "none"

    def check(self, plan: ExportPlan) -> None:
        if plan.proven:
            require_runnable(plan.base)

    def expected_bytes(self, plan: ExportPlan, form: str) -> int:
        return expected_bytes(plan.base, plan.scaled, form)

    def place(self, plan: ExportPlan, form: str) -> str:
        return plan.base.files[0].name

    def write(
        self, plan: ExportPlan, kind: Kind, form: str, folder: Path, on_bytes: OnBytes | None
    ) -> tuple[Path, ...]:
        paths = write_folder(plan.base, plan.scaled, folder, form, on_bytes=on_bytes)
        plan.companions.replace_template(folder)
        return paths

    @contextmanager
    def opened(
        self, plan: ExportPlan, kind: Kind, form: str, folder: Path
    ) -> Iterator[OpenedModel]:
        with open_model(folder, engine=running_engine(plan.base)) as model:
            yield OpenedModel(model)

    def runtime(self, plan: ExportPlan, form: str) -> str:
        return f"lorakit's {running_engine(plan.base)} engine, computing in float32"

    def use(self, name: str, record: Mapping[str, Any], first: str) -> Iterator[str]:
        yield "In transformers:"
        yield ""
        yield from fenced(
            "python",
            [
                "from transformers import AutoModelForCausalLM, AutoTokenizer",
                "",
                f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(name)})",
                f"model = AutoModelForCausalLM.from_pretrained({json.dumps(name)})",
            ],
        )
        yield ""
        calls = "parses tool calls and " if record["tool_format"] else ""
        yield f"In lorakit, which {calls}needs no torch:"
        yield ""
        yield from fenced("", [f"lorakit chat {name}"])
