"""lorakit train: an adapter from examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from lorakit.cli.output import print_json
from lorakit.cli.references import JsonOption, PrivateOption
from lorakit.cli.signature import argument, option
from lorakit.engines.table import EngineName
from lorakit.engines.torch.options import Device
from lorakit.formats import FormatName
from lorakit.training.settings import Checks, Compute, Decay, DType, Mixture, Schedule

SCHEDULE, MIXTURE, CHECKS, COMPUTE = Schedule(), Mixture(), Checks(), Compute()
WHAT, SHAPE, PACE = "what it learns", "the adapter", "how fast and how long"
SAVING, MACHINE, RESULT = "measuring and saving", "the machine", "what is written"


def command(
    base: Annotated[
        str,
        argument(metavar="BASE", help="A base: a folder, its path, https://... or hf:org/repo."),
    ],
    data: Annotated[
        Path, option(metavar="FILE", help="Examples to learn from: .jsonl, .json or .csv.")
    ],
    output: Annotated[Path, option("--output", "-o", metavar="OUT", help="A new folder.")],
    eval: Annotated[
        Path | None,
        option(
            metavar="FILE",
            help="Examples to measure it on, which it does not learn from "
            "[default: some of the data, where there is enough].",
        ),
    ] = None,
    tools: Annotated[
        Path | None,
        option(
            metavar="FILE",
            group=WHAT,
            help="A JSON file of the tools, for examples that declare none "
            "[default: tools.json beside the data].",
        ),
    ] = None,
    declare: Annotated[
        float,
        option(
            metavar="SHARE",
            least=0,
            most=1,
            bare=1.0,
            group=WHAT,
            help="Declare the tools in the prompt: always, or in this share of the prompts. "
            "Without it they are baked into the weights, so that the short prompt works.",
        ),
    ] = MIXTURE.declare,
    augment: Annotated[
        bool,
        option(
            "--augment/--no-augment",
            group=WHAT,
            help="Vary the values and the wording of examples that call tools [default].",
        ),
    ] = MIXTURE.augment,
    keep: Annotated[
        Path | None,
        option(
            metavar="FILE",
            group=WHAT,
            help="Requests, one a line, that it must go on answering as the base does.",
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        option(metavar="FILE", group=WHAT, help="Examples with answers that it must not unlearn."),
    ] = None,
    replay_share: Annotated[
        float | None,
        option(
            metavar="SHARE",
            group=WHAT,
            help="How much of a batch is there to unlearn nothing "
            "[default: a third where tools are called, else 0].",
        ),
    ] = MIXTURE.replay_share,
    start: Annotated[
        str | None,
        option("--from", metavar="REF", group=WHAT, help="An adapter to continue from."),
    ] = None,
    companion: Annotated[
        list[str] | None,
        option(
            metavar="REF",
            group=WHAT,
            help="An adapter that it will be used together with; may be repeated.",
        ),
    ] = None,
    rank: Annotated[
        int | None, option(group=SHAPE, help="Its rank [default: by the base's size].")
    ] = None,
    alpha: Annotated[
        float | None, option(group=SHAPE, help="Its scale times the rank [default: 2 * rank].")
    ] = None,
    target: Annotated[
        list[str] | None,
        option(
            metavar="NAME",
            group=SHAPE,
            help="Modules to adapt, such as q_proj; may be repeated [default: all linear layers].",
        ),
    ] = None,
    rslora: Annotated[
        bool, option("--rslora", group=SHAPE, help="Scale by alpha / sqrt(rank).")
    ] = False,
    dora: Annotated[
        bool, option("--dora", group=SHAPE, help="Train the magnitudes of the weights too.")
    ] = False,
    pissa: Annotated[
        bool, option("--pissa", group=SHAPE, help="Begin with the weights' principal part.")
    ] = False,
    embeddings: Annotated[
        bool, option("--embeddings", group=SHAPE, help="Adapt the token embeddings too.")
    ] = False,
    token: Annotated[
        list[int] | None,
        option(
            metavar="ID",
            group=SHAPE,
            help="A token whose embedding is trained whole; may be repeated.",
        ),
    ] = None,
    steps: Annotated[
        int | None, option(group=PACE, help="Updates [default: by the base's size and the data].")
    ] = None,
    epochs: Annotated[
        float | None, option(group=PACE, help="Passes over the data, in place of --steps.")
    ] = None,
    batch: Annotated[
        int | None, option(group=PACE, help="Examples a step [default: by the base's size].")
    ] = SCHEDULE.batch,
    accumulate: Annotated[
        int,
        option(
            metavar="PARTS",
            least=1,
            group=PACE,
            help="Compute each step in so many parts, which takes less memory.",
        ),
    ] = SCHEDULE.accumulate,
    rate: Annotated[
        float | None,
        option(group=PACE, help="The highest learning rate [default: by the base's size]."),
    ] = SCHEDULE.rate,
    warmup: Annotated[
        int | None,
        option(metavar="STEPS", group=PACE, help="Steps up to it [default: a tenth, at most 20]."),
    ] = SCHEDULE.warmup,
    decay: Annotated[Decay, option(group=PACE, help="The way down to zero.")] = SCHEDULE.decay,
    weight_decay: Annotated[
        float, option(group=PACE, help="Draws the weights to zero, by AdamW.")
    ] = SCHEDULE.weight_decay,
    seed: Annotated[
        int, option(least=0, group=PACE, help="The same seed gives the same adapter.")
    ] = 0,
    holdout: Annotated[
        int | None,
        option(
            metavar="COUNT",
            group=SAVING,
            help="Examples of the data that are held out to choose the best state by "
            "[default: a tenth, at most 64, of 100 and more].",
        ),
    ] = CHECKS.holdout,
    evaluate_every: Annotated[
        int | None,
        option(metavar="STEPS", group=SAVING, help="When to measure [default: 10 times a run]."),
    ] = CHECKS.evaluate_every,
    patience: Annotated[
        int | None,
        option(
            metavar="TIMES",
            group=SAVING,
            help="Stop after so many measurements without a gain [default: never].",
        ),
    ] = CHECKS.patience,
    sweep: Annotated[
        bool,
        option(
            "--sweep/--no-sweep", group=SAVING, help="Measure other scales at the end [default]."
        ),
    ] = CHECKS.sweep,
    checkpoint_every: Annotated[
        int | None,
        option(metavar="STEPS", group=SAVING, help="When to save [default: every half minute]."),
    ] = CHECKS.checkpoint_every,
    resume: Annotated[
        bool | None,
        option(
            "--resume/--no-resume",
            group=SAVING,
            help="Go on from the checkpoint, which has to be there [default: if it is].",
        ),
    ] = None,
    dtype: Annotated[
        DType,
        option(group=MACHINE, help="What to compute in; auto: bfloat16 where that is fast."),
    ] = COMPUTE.dtype,
    device: Annotated[
        Device | None, option(group=MACHINE, help="Where to train [default: cpu].")
    ] = COMPUTE.device,
    quantize: Annotated[
        Literal["nf4"] | None,
        option(group=MACHINE, help="Hold the base in 4 bits (QLoRA); on CUDA, by bitsandbytes."),
    ] = COMPUTE.quantize,
    checkpointing: Annotated[
        bool | None,
        option(
            "--checkpointing/--no-checkpointing",
            group=MACHINE,
            help="Take less memory and more time [default: where memory is short].",
        ),
    ] = COMPUTE.checkpointing,
    engine: Annotated[
        EngineName | None,
        option(
            group=MACHINE,
            help="What answers when it is measured: onnx or torch "
            "[default: onnx, where that can compute the adapter].",
        ),
    ] = COMPUTE.engine,
    overwrite: Annotated[
        bool, option("--overwrite", group=RESULT, help="Replace an adapter that is at OUT.")
    ] = False,
    format: Annotated[
        list[FormatName] | None,
        option(group=RESULT, help="Another format beside the PEFT folder; may be repeated."),
    ] = None,
    base_model: Annotated[
        str | None,
        option(
            metavar="ORG/REPO",
            group=RESULT,
            help="What the model card calls the base [default: its repository or folder].",
        ),
    ] = None,
    tensorboard: Annotated[
        Path | None, option(metavar="DIR", group=RESULT, help="Log for TensorBoard, live.")
    ] = None,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Train an adapter from examples, measure it on unseen ones, and say whether it worked."""
    given = dict(locals())
    from lorakit.cli import training_run as training  # slow to import

    others = training.places(output, format or (), overwrite=overwrite)
    settings = {name: given[name] for name in _PASSED}
    settings |= {name: given[name] for name in _OPEN if given[name] is not None}
    settings |= {"targets": tuple(target or ()), "tokens": tuple(token or ())}
    result = training.run(base, data, output, tensorboard=tensorboard, **settings)
    if not json:
        training.show_verdict(result)
    training.convert_to(result, base, others, allow_private=allow_private)
    if json:
        print_json(training.as_json(result, others))
    else:
        training.show_written(result, base, output, others)
    raise SystemExit(result.stopped == "diverged")


_PASSED = (
    *("eval", "tools", "keep", "replay", "start", "companion", "resume", "overwrite"),
    *("base_model", "allow_private", "declare", "augment", "rslora", "dora", "pissa"),
    *("embeddings", "accumulate", "decay", "weight_decay", "seed", "dtype", "sweep"),
)
# Given where the user says so; what is left open is filled in by the base's size and the data.
_OPEN = (
    *("replay_share", "rank", "alpha", "steps", "epochs", "batch", "rate", "warmup", "holdout"),
    *("evaluate_every", "patience", "checkpoint_every", "device", "quantize", "checkpointing"),
    "engine",
)
