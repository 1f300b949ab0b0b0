"""ONNX for transformers.js and onnxruntime: in pages, and wherever onnxruntime runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, cast, get_args

from lorakit.architectures import HEAD, Decoder
from lorakit.base.folder import Base
from lorakit.engines.onnx.ort import signed_kernel_exact
from lorakit.errors import UnsupportedError
from lorakit.exporting.bundle import declares
from lorakit.exporting.companions import write_config
from lorakit.exporting.onnx import (
    CALIBRATED,
    DTYPES,
    FOLDER,
    file_name,
    part_of,
    summed,
    write_onnx,
)
from lorakit.exporting.plan import ExportPlan, Kind, OnBytes, Target, TargetName
from lorakit.exporting.running import ExportedModel
from lorakit.formats.express import require_expressible
from lorakit.formats.web import cannot_express
from lorakit.graph.composed import require_composable
from lorakit.graph.decoder import require_supported, wide_modules
from lorakit.graph.web import WebForm
from lorakit.training.card import fenced
from lorakit.verify.forms import EXPORTS

LINEAR = {"none": 4.0, "fp16": 2.0, "q8": 1.01, "q4": 0.65, "q4f16": 0.65}  # bytes of a weight
WIDE = {"q4": 1.04, "q4f16": 1.04}  # of those that get 8 bits
TABLE = {"none": 4.0, "fp16": 2.0, "q8": 1.01, "q4": 1.01, "q4f16": 1.01}  # of the vocabulary's
LIMITS = {"none": 1e-4, **EXPORTS}


class Onnx(Target):
    """As `Target` says."""

    name: TargetName = "onnx"
    title = "ONNX"
    library = "transformers.js"
    kinds: tuple[Kind, ...] = get_args(Kind)
    limits = LIMITS
    few_bits = CALIBRATED
    default = "q8"
    several = True
    seamless = True

    def require(self, base: Base) -> None:
        hint = "the torch engine runs it in Python"
        require_supported(base.decoder, "an ONNX export", hint, fused=False)

    def check(self, plan: ExportPlan) -> None:
        if plan.kind == "dynamic":
            for adapter, _ in plan.scaled:
                faults = cannot_express(adapter, plan.base.decoder)
                hint = "" if adapter.invocation_tokens else "merge it instead: --adapters merged"
                require_expressible(faults, "an export with adapter inputs", hint)
        elif plan.kind != "merged":
            require_composable(plan.scaled)

    def expected_bytes(self, plan: ExportPlan, form: str) -> int:
        return expected_bytes(plan.base.decoder, cast(WebForm, form))

    def place(self, plan: ExportPlan, form: str) -> str:
        return f"{FOLDER}/{file_name(cast(WebForm, form))}"

    def begin(self, plan: ExportPlan, folder: Path, about: Mapping[str, Any]) -> None:
        plan.companions.write(folder)
        forms = [cast(WebForm, form) for form in plan.forms]
        write_config(
            folder,
            part_of(plan, plan.kind).base.config,
            context=plan.context,
            files=[file_name(form) for form in forms],
            dtype=DTYPES[forms[0]],
            about=about,
        )

    def write(
        self, plan: ExportPlan, kind: Kind, form: str, folder: Path, on_bytes: OnBytes | None
    ) -> tuple[Path, ...]:
        path = write_onnx(
            part_of(plan, kind),
            cast(WebForm, form),
            folder,
            context=plan.context,
            calibration=plan.calibration,
            metadata={"lorakit.base": plan.base.fingerprint, "lorakit.adapters": plan.kind},
            on_bytes=on_bytes,
        )
        return path, path.with_name(f"{path.name}_data")

    def can_be_apart(self, plan: ExportPlan) -> bool:
        try:
            require_composable([(summed(plan), 1.0)])
        except UnsupportedError:  # weights can say what factors cannot
            return False
        return True

    @contextmanager
    def opened(
        self, plan: ExportPlan, kind: Kind, form: str, folder: Path
    ) -> Iterator[ExportedModel]:
        with closing(ExportedModel(folder / self.place(plan, form))) as model:
            yield model

    def runtime(self, plan: ExportPlan, form: str) -> str:
        return f"onnxruntime {metadata.version('onnxruntime')}, CPU"

    def warnings(self, plan: ExportPlan, form: str) -> Sequence[str]:
        if form not in CALIBRATED or signed_kernel_exact():
            return ()
        return ("this CPU's 8-bit products saturate, and wasm's do not: it costs less there",)

    def use(self, name: str, record: Mapping[str, Any], first: str) -> Iterator[str]:
        dtypes = [DTYPES[cast(WebForm, form)] for form in record["forms"]]
        if record["adapters"] in ("merged", "apart"):
            yield "In transformers.js:"
            yield ""
            yield from fenced(
                "js",
                [
                    "import { AutoModelForCausalLM, AutoTokenizer } "
                    "from '@huggingface/transformers';",
                    "",
                    f"const name = {json.dumps(f'./{name}')};  // a folder; of the Hub org/repo",
                    "const tokenizer = await AutoTokenizer.from_pretrained(name);",
                    "const model = await AutoModelForCausalLM.from_pretrained(name, "
                    f"{{ dtype: '{dtypes[0]}' }});",
                ],
            )
            yield ""
            yield "In lorakit.js, which parses tool calls:"
        else:
            yield "In lorakit.js; transformers.js alone does not fill the inputs of adapters:"
        yield ""
        yield from fenced("js", list(_lorakit_js(name, record, dtypes[0])))
        yield ""
        yield (
            f"Files for `dtype`: {', '.join(f'`{dtype}`' for dtype in dtypes)}. "
            "q8 is the fastest on wasm, q4 and q4f16 are for WebGPU. `pipeline()` leaves out "
            "special tokens, with which tool calls begin: decode with "
            "`skip_special_tokens: false`."
        )


def _lorakit_js(name: str, record: Mapping[str, Any], dtype: str) -> Iterator[str]:
    yield "import { open } from 'lorakit';"
    yield ""
    yield f"const model = await open({json.dumps(name)}, {{ dtype: '{dtype}' }});"
    options = ["tools"] if declares([each["facts"] for each in record["from"]]) else []
    if record["adapters"] == "dynamic":
        yield "const home = await model.load('/adapters/home/'); // PEFT, MLX or a web adapter"
        yield "await home.apply();"
    elif record["adapters"] == "composed":
        options.append(f"adapters: {{ {json.dumps(record['names'][0])}: 1 }}")
    said = f", {{ {', '.join(options)} }}" if options else ""
    yield f"const reply = await model.chat(messages{said});"


def expected_bytes(decoder: Decoder, form: WebForm) -> int:
    """About what a file of this form takes, without its RoPE tables."""
    wide, total = wide_modules(decoder), 0.0
    for name, shape in decoder.modules().items():
        count = shape.in_features * shape.out_features
        if shape.embedding or name == HEAD:
            total += 0 if name == HEAD and decoder.tied else count * TABLE[form]
        else:
            total += count * (WIDE.get(form, LINEAR[form]) if name in wide else LINEAR[form])
    return int(total)
