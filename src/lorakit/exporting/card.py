"""The model card of an export: README.md, as hubs and people read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lorakit.exporting.onnx import DTYPES
from lorakit.exporting.result import ExportedFile
from lorakit.training.card import fenced, front, plain

WAYS = {
    "merged": "merged into its weights",
    "apart": "beside its weights, in the dtype of its hidden states",
    "composed": "in it, chosen among by number for each row",
}

TITLES = (
    *("dtype", "adapters", "KL", "top-1", "largest difference"),
    *("same answers", "right calls, in float32"),
)


def card(name: str, record: Mapping[str, Any], files: Sequence[ExportedFile]) -> str:
    """The card's text. name: of the export; record: what lorakit.json holds but the digests."""
    lines = [
        *_front(record, files),
        f"# {plain(name)}",
        "",
        _what(record),
        "",
        *_use(name, record, files),
    ]
    if any(file.parity for file in files):
        lines += ["", *_parity(files)]
    return "\n".join([*lines, "", *_files(files), ""])


def _front(record: Mapping[str, Any], files: Sequence[ExportedFile]) -> Iterator[str]:
    inside = record["adapters"] != "dynamic" and record["from"]
    tags = ["onnx", "lorakit", *(["lora"] if record["from"] or not inside else [])]
    tags += ["function-calling"] if record["tool_format"] else []
    relation = "finetune" if inside else "quantized"
    yield from front(record["base_name"], relation, "transformers.js", tags)


def _what(record: Mapping[str, Any]) -> str:
    base = f"`{plain(record['base_name'])}` as ONNX"
    kind, adapters = record["adapters"], record["from"]
    if kind == "dynamic":
        how = "whose graph takes LoRA adapters as inputs"
    elif not adapters:
        how = "without adapters"
    else:
        said = ", ".join(f"`{plain(each['name'])}` at scale {each['scale']:g}" for each in adapters)
        how = f"with {said} {WAYS[kind]}"
    made = "made with [lorakit](https://github.com/lorakit/lorakit)"
    return f"{base}, {how}; {made}. It holds {record['context']:,} tokens."


def _use(name: str, record: Mapping[str, Any], files: Sequence[ExportedFile]) -> Iterator[str]:
    dtype = DTYPES[files[0].form]
    kind = record["adapters"]
    yield "## Use it"
    yield ""
    if kind in ("merged", "apart"):
        yield "In transformers.js:"
        yield ""
        yield from fenced(
            "js",
            [
                "import { AutoModelForCausalLM, AutoTokenizer } from '@huggingface/transformers';",
                "",
                f"const name = {json.dumps(name)};",
                "const tokenizer = await AutoTokenizer.from_pretrained(name);",
                "const model = await AutoModelForCausalLM.from_pretrained(name, "
                f"{{ dtype: '{dtype}' }});",
            ],
        )
        yield ""
        yield "In lorakit.js, which parses tool calls:"
    else:
        yield "In lorakit.js; transformers.js alone does not fill the inputs of adapters:"
    yield ""
    yield from fenced("js", list(_lorakit(name, record, dtype)))
    yield ""
    yield (
        f"Files for `dtype`: {', '.join(f'`{DTYPES[file.form]}`' for file in files)}. "
        "q8 is the fastest on wasm, q4 and q4f16 are for WebGPU. `pipeline()` leaves out special "
        "tokens, with which tool calls begin: decode with `skip_special_tokens: false`."
    )


def _lorakit(name: str, record: Mapping[str, Any], dtype: str) -> Iterator[str]:
    yield "import { open } from 'lorakit';"
    yield ""
    yield f"const model = await open({json.dumps(name)}, {{ dtype: '{dtype}' }});"
    options = "tools"
    if record["adapters"] == "dynamic":
        yield "const home = await model.load('/adapters/home/'); // PEFT, MLX or a web adapter"
        yield "await home.apply();"
    elif record["adapters"] == "composed":
        options = f"tools, adapters: {{ {json.dumps(record['names'][0])}: 1 }}"
    yield f"const reply = await model.chat(messages, {{ {options} }});"


def _parity(files: Sequence[ExportedFile]) -> Iterator[str]:
    found = [(file, parity) for file in files if (parity := file.parity)]
    first = found[0][1]
    yield "## Against base and adapter in float32"
    yield ""
    yield (
        f"On {plain(first.prompts)}, in {plain(first.runtime)}, against {plain(first.reference)}. "
        "KL is a mean over positions, in nats. Answers are greedy; those that call the same tools "
        "alike are the same."
    )
    yield ""
    yield f"| {' | '.join(TITLES)} |"
    yield "|---" * len(TITLES) + "|"
    for file, parity in found:
        for side in parity.sides:
            answers = side.answers
            calls = (
                f"{answers.right} of {answers.wanted}, {answers.right_before}"
                if answers.wanted
                else ""
            )
            yield (
                f"| {DTYPES[file.form]} | {plain(side.name)} | {side.kl:.2g} | {side.top1:.1%} | "
                f"{side.max_difference:.2g} | {answers.same} of {answers.asked} | {calls} |"
            )
    for file, parity in found:
        if parity.apart is not None:
            yield ""
            yield f"{DTYPES[file.form]}: {parity.apart.sentence(file.form)}."
    yield ""
    yield "All figures are in `parity.json`."


def _files(files: Sequence[ExportedFile]) -> Iterator[str]:
    yield "## Files"
    yield ""
    yield "| file | MB, with its weights |"
    yield "|---|---|"
    for file in files:
        yield f"| `onnx/{file.path.name}` | {file.nbytes / 1e6:.1f} |"
    yield ""
    yield "`lorakit.json` says what it was made of, and the SHA-256 of every file."
