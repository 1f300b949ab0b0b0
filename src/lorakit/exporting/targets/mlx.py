"""MLX folders, for mlx-lm and MLX for Swift: Apple's devices."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorakit.base.folder import Base
from lorakit.errors import UnsupportedError
from lorakit.exporting.engine import require_runnable, running_engine
from lorakit.exporting.mlx import (
    ADAPTERS,
    COARSE,
    FORMS,
    dequantised_folder,
    expected_bytes,
    mlx_model_check,
    mlx_notes,
    one_adapter,
    write_apart,
    write_mlx,
)
from lorakit.exporting.plan import ExportPlan, Kind, OnBytes, Target, TargetName
from lorakit.exporting.running import OpenedModel
from lorakit.files.atomic import spare_folder
from lorakit.merge.view import merged_view
from lorakit.model.adapter_config import AdapterConfig
from lorakit.model.open import open as open_model
from lorakit.training.card import fenced

SPELLED = {"fp16": "f16", "fp32": "f32"}
BROKEN = 3.0  # nats, of forms of few bits: beyond it a model is of no use
NEAR = {"none": 0.01, "f32": 1e-4, "f16": 0.01, "bf16": 0.05, "q8": 0.1}
LIMITS = {form: NEAR.get(form, BROKEN) for form in FORMS}


class Mlx(Target):
    """As `Target` says."""

    name: TargetName = "mlx"
    title = "MLX"
    library = "mlx"
    kinds: tuple[Kind, ...] = ("merged", "apart")
    limits = LIMITS
    spelled = SPELLED
    few_bits = COARSE
    default = "none"

    def check(self, plan: ExportPlan) -> None:
        for form in plan.forms:
            mlx_model_check(_base(plan, plan.kind), form)
        if plan.kind == "apart":
            one_adapter(plan.base, plan.scaled)
        if plan.proven:
            require_runnable(plan.base)

    def expected_bytes(self, plan: ExportPlan, form: str) -> int:
        return expected_bytes(_base(plan, plan.kind), form)

    def place(self, plan: ExportPlan, form: str) -> str:
        return "model.safetensors"

    def write(
        self, plan: ExportPlan, kind: Kind, form: str, folder: Path, on_bytes: OnBytes | None
    ) -> tuple[Path, ...]:
        if kind == "apart":
            paths = write_apart(plan.base, plan.scaled, folder, form, on_bytes=on_bytes)
        else:
            paths = write_mlx(_base(plan, kind), folder, form, on_bytes=on_bytes)
        plan.companions.replace_template(folder)
        return paths

    def beside(self, plan: ExportPlan) -> str | None:
        return f"{ADAPTERS}/adapters.safetensors" if plan.kind == "apart" else None

    def can_be_apart(self, plan: ExportPlan) -> bool:
        try:
            one_adapter(plan.base, plan.scaled)
        except UnsupportedError:
            return False
        return True

    @contextmanager
    def opened(
        self, plan: ExportPlan, kind: Kind, form: str, folder: Path
    ) -> Iterator[OpenedModel]:
        adapter = AdapterConfig(folder / ADAPTERS) if kind == "apart" else None
        with spare_folder() as place:
            values = dequantised_folder(folder, place / "values")
            with open_model(values, engine=running_engine(plan.base), adapter=adapter) as model:
                yield OpenedModel(model)

    def runtime(self, plan: ExportPlan, form: str) -> str:
        return f"lorakit's {running_engine(plan.base)} engine, on the values that the files hold"

    def warnings(self, plan: ExportPlan, form: str) -> Sequence[str]:
        return mlx_notes(plan.base, form)

    def use(self, name: str, record: Mapping[str, Any], first: str) -> Iterator[str]:
        apart = record["adapters"] == "apart"
        adapter = f"{name}/{ADAPTERS}"
        more = ["--adapter-path", adapter] if apart else []
        yield "In mlx-lm:"
        yield ""
        line = ["mlx_lm.generate", "--model", name, *more, "--prompt", "..."]
        yield from fenced("", [shlex.join(line)])
        yield ""
        yield from fenced(
            "python",
            [
                "from mlx_lm import generate, load",
                "",
                f"model, tokenizer = load({json.dumps(name)}"
                f"{f', adapter_path={json.dumps(adapter)}' if apart else ''})",
            ],
        )


def _base(plan: ExportPlan, kind: Kind) -> Base:
    """What is written as the model."""
    merged = plan.adapters and kind == "merged"
    return merged_view(plan.base, plan.scaled) if merged else plan.base
