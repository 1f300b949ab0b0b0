"""lorakit export: a base and adapters as a folder for another runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from lorakit.cli.downloads import downloads
from lorakit.cli.output import print_json, say, size
from lorakit.cli.progress import LiveLine
from lorakit.cli.reading import Reading
from lorakit.cli.references import (
    AdapterOption,
    BaseArgument,
    CalibrationOption,
    JsonOption,
    PrivateOption,
)
from lorakit.cli.signature import option
from lorakit.errors import ParameterError
from lorakit.exporting.export import export
from lorakit.exporting.parity import ProofOptions
from lorakit.exporting.plan import Kind, TargetName
from lorakit.exporting.result import ExportedFile, ExportProgress, ExportResult
from lorakit.model.adapter_config import AdapterConfig, config_of
from lorakit.model.load import unused_name
from lorakit.values import byte_count

ALIKE = 0.9  # share of equal answers that needs no word


def command(
    base: BaseArgument,
    to: Annotated[
        TargetName,
        option(
            help="onnx: transformers.js, onnxruntime; gguf: llama.cpp; safetensors: transformers; "
            "mlx: mlx-lm."
        ),
    ],
    output: Annotated[Path, option("--output", "-o", metavar="OUT", help="A new folder.")],
    adapter: AdapterOption = None,
    adapters: Annotated[
        Kind | None,
        option(
            help="merged into the weights, kept apart, as inputs, or several in one file "
            "[default: merged; of onnx apart where that is closer]."
        ),
    ] = None,
    compose: Annotated[
        str | None,
        option(
            metavar="NAME=REF,...",
            help="Adapters in one file, chosen among: --adapters composed. A name may be left out.",
        ),
    ] = None,
    quantize: Annotated[
        list[str] | None,
        option(
            metavar="FORM[,FORM]",
            help="onnx: none, fp16, q8, q4, q4f16 [default: q8]; gguf: F16, Q8_0, Q4_K_M, ... "
            "[default: Q8_0]; safetensors, mlx: none, f32, f16, bf16, and of mlx q8, q4 "
            "[default: none].",
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        option(metavar="ORG/REPO", help="What the base is called where others find it."),
    ] = None,
    context: Annotated[
        int | None,
        option(least=16, help="Tokens of ONNX [default: the model's, at most 8192]."),
    ] = None,
    split_size: Annotated[
        str | None, option(metavar="SIZE", help="Write GGUF in parts of at most this, such as 2GB.")
    ] = None,
    calibration: CalibrationOption = None,
    evaluation: Annotated[
        Path | None,
        option(
            "--eval",
            metavar="FILE",
            help="Examples to prove it on, at most 24, evenly [default: built-in ones].",
        ),
    ] = None,
    declare: Annotated[
        bool, option("--declare", help="Prove it with the tools declared in the prompt.")
    ] = False,
    max_kl: Annotated[
        float | None, option(help="Fail where the KL from float32 is larger, in nats.")
    ] = None,
    min_match: Annotated[
        float | None, option(help="Fail where a smaller share of answers is the same.")
    ] = None,
    no_proof: Annotated[bool, option("--no-proof", help="Leave the comparison out.")] = False,
    *,
    reading: Reading,
    overwrite: Annotated[bool, option("--overwrite", help="Replace an export.")] = False,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Write a base with adapters as a folder that another runtime loads, and prove it.

    What it computes is compared with base + adapter in float32, on your examples or built-in ones.
    """
    if compose is not None and adapters not in (None, "composed"):
        raise ParameterError(f"--compose makes one file of adapters, and --adapters is {adapters}")
    proof = ProofOptions(evaluation=evaluation, declare=declare, max_kl=max_kl, min_match=min_match)
    chosen = _composed(compose) if compose is not None else {}
    for config in map(config_of, adapter or []):
        chosen[unused_name(config.name, chosen)] = config
    chosen = {name: replace(config, **reading.given) for name, config in chosen.items()}
    forms = [form for each in quantize for form in each.split(",")] if quantize else None
    with downloads, LiveLine() as line:
        result = export(
            base,
            output,
            to=to,
            adapter=chosen,
            mode=adapters or (None if compose is None else "composed"),
            quantize=forms,
            base_model=base_model,
            context=context,
            split_size=None if split_size is None else byte_count(split_size),
            calibration=calibration,
            proof=proof,
            prove_it=not no_proof,
            overwrite=overwrite,
            allow_private=allow_private,
            downloads=downloads,
            progress=lambda at: line.show(_said(at), f"{at.phase} {at.file}".rstrip()),
        )
    show(result, json=json)


def _composed(compose: str) -> dict[str, AdapterConfig]:
    found: dict[str, AdapterConfig] = {}
    for config in (config_of(part.strip()) for part in compose.split(",")):
        if config.name in found:
            raise ParameterError(
                f"two adapters of --compose are called {config.name!r}",
                hint="name them: NAME=REF,NAME=REF",
            )
        found[config.name] = config
    return found


def _said(at: ExportProgress) -> str:
    percent = f" {min(99, at.done * 100 // at.total)}%" if at.total else ""
    return f"{at.phase} {at.file}".rstrip() + percent


def show(result: ExportResult, *, json: bool) -> None:
    """What was written and how close it is, a line for each file, or as JSON."""
    if json:
        print_json(result.to_dict())
        return
    for file in result.files:
        say(f"{file.path.name}: {size(file.nbytes)}{_proven(file)}")
        apart = None if file.parity is None else file.parity.apart
        if apart is not None and apart.better not in ("", result.kind):
            say(f"note: {apart.sentence(file.form)}")
        if (differing := _differing(file)) is not None:
            say(f"note: {differing}")
        for warning in file.parity.warnings if file.parity else ():
            say(f"note: {warning}")
    for each in result.notes:
        say(f"note: {each}")
    say(f"{result.output}: {size(result.nbytes)}, {result.context} tokens of context")


def _differing(file: ExportedFile) -> str | None:
    """What a share of equal answers that looks low means, and what to do about it."""
    if file.parity is None or file.parity.match >= ALIKE:
        return None
    return (
        "an answer counts as the same only if every token or call is; KL says how near the "
        "probabilities are. --eval FILE compares on requests of your own"
    )


def _proven(file: ExportedFile) -> str:
    parity = file.parity
    if parity is None:
        return ", not compared"
    return f", KL {parity.kl:.2g} from float32, {parity.match:.0%} of answers the same"
