"""The table of adapter formats: which one a path holds is found out from content, not from names.

A row says how to recognise a format, read it, and write it. Adding a format is one row here and
one module beside it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lorakit.adapter import Adapter
from lorakit.architectures import Decoder
from lorakit.base.folder import Base
from lorakit.base.grown import rows_of
from lorakit.check import for_text, misfits
from lorakit.errors import FormatError, ParameterError, SourceError, UnsupportedError
from lorakit.files.bounded import as_path, open_regular
from lorakit.files.gguf import is_gguf
from lorakit.files.nearby import or_nearby
from lorakit.files.pointers import refuse_pointer
from lorakit.formats import gguf, mlx, ort, peft, web
from lorakit.formats.express import Express
from lorakit.formats.folder import member, read_object
from lorakit.formats.gguf import read_gguf, write_gguf
from lorakit.formats.mlx import base_config, is_mlx, read_mlx, write_mlx
from lorakit.formats.ort import is_ort, read_ort, write_ort
from lorakit.formats.peft import read_peft, write_peft
from lorakit.formats.replaced_rows import rows_as_deltas
from lorakit.formats.web import is_web, read_web, write_web
from lorakit.values import finite, shown

FormatName = Literal["peft", "mlx", "gguf", "ort", "web"]
CONFIG = "adapter_config.json"
PLACES = "a PEFT or MLX folder, or a GGUF, .onnx_adapter or web file"
FILES = frozenset(
    {CONFIG, "adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One adapter format. `sniff` looks at a folder or file and says whether it is of this kind.

    prepare: says in other words, given the base, what the format has no words for; with a note on
    each. folds: whether the file has scales only in B.
    """

    name: str
    sniff: Callable[[Path], bool]
    read: Callable[..., Adapter]  # (path, decoder), and what `takes` names
    write: Callable[..., None]  # (adapter, path, decoder=..., dtype=...)
    cannot_express: Express  # everything that its writer refuses
    folder: bool = True  # whether it is a folder; otherwise one file
    needs_base: bool = False  # to write it
    folds: bool = False
    of_export: Express | None = None  # of a base that is an export: what its graph has no input for
    takes: frozenset[str] = frozenset()  # options of `read_adapter` that its reader takes
    prepare: Callable[[Adapter, Base], tuple[Adapter, tuple[str, ...]]] | None = None


def _read_ort(path: Path, decoder: Decoder | None = None) -> Adapter:
    return read_ort(path)


def _read_web(path: Path, decoder: Decoder | None = None) -> Adapter:
    return read_web(path)


def _write_ort(
    adapter: Adapter, path: Path, *, decoder: Decoder | None = None, dtype: Any = None
) -> None:
    write_ort(adapter, path, decoder=decoder, dtype=dtype)


def _is_peft(path: Path) -> bool:
    file = member(path, CONFIG) if path.is_dir() else None
    if file is None:
        return False
    config = read_object(file)
    return "peft_type" in config or ("r" in config and "lora_alpha" in config)


FORMATS = {
    row.name: row
    for row in (
        Format(
            name="peft",
            sniff=_is_peft,
            read=read_peft,
            takes=frozenset({"allow_pickle", "init", "alpha", "name", "mend"}),
            write=write_peft,
            cannot_express=peft.cannot_express,
        ),
        Format(
            name="gguf",
            sniff=is_gguf,
            read=read_gguf,
            write=write_gguf,
            cannot_express=gguf.cannot_express,
            folder=False,
            needs_base=True,
            prepare=rows_as_deltas,
        ),
        Format(
            name="mlx",
            sniff=is_mlx,
            read=read_mlx,
            takes=frozenset({"alpha", "mlx_version"}),
            prepare=base_config.for_base,
            write=write_mlx,
            cannot_express=mlx.cannot_express,
        ),
        Format(
            name="ort",
            sniff=is_ort,
            read=_read_ort,
            write=_write_ort,
            folder=False,
            folds=True,
            cannot_express=ort.cannot_express,
            of_export=web.cannot_express,
        ),
        Format(
            name="web",
            sniff=is_web,
            read=_read_web,
            write=write_web,
            folder=False,
            folds=True,
            prepare=web.for_base,
            cannot_express=web.cannot_express,
        ),
    )
}


def expressible(adapter: Adapter, decoder: Decoder | None = None) -> dict[str, tuple[str, ...]]:
    """What each format cannot say of an adapter, by the format's name; empty: it says everything.

    decoder: the base, which decides about embeddings. Without it, what holds for every base.
    """
    foreign = decoder is not None and decoder.is_foreign
    return {
        name: ("names that only GGUF has",)
        if foreign and name != "gguf"
        else tuple(str(fault) for fault in row.cannot_express(adapter, decoder))
        for name, row in FORMATS.items()
    }


def read_adapter(
    path: str | os.PathLike[str],
    decoder: Decoder | None = None,
    *,
    allow_pickle: bool = False,
    init: Path | None = None,
    alpha: float | None = None,
    mlx_version: str | None = None,
    name: str | None = None,
    partial: bool = False,
) -> Adapter:
    """The adapter at a path, whatever its format.

    decoder: the base that it is for, which some GGUF files of llama.cpp's converter need, and MLX
    adapters of an embedding. Names that differ from its own by a wrapper alone become its own.
    allow_pickle: read PEFT's adapter_model.bin, which is refused otherwise. init: the initial
    adapter of a PEFT adapter of PiSSA and its kin. alpha: for weights without adapter_config.json:
    their scale is alpha / rank. mlx_version: of the mlx-lm that trained it, where its scale depends
    on that. name: which adapter, where a PEFT file holds several. partial: take an adapter that
    lacks what its config promises.
    Raises SourceError where there is none, UnsupportedError (`format_unsupported`) where there is
    something else, which it names, FormatError where the files are broken, and FormatError
    (`adapter_incomplete`) where they lack a part.
    """
    path = (Path(path) if isinstance(path, str | os.PathLike) else as_path(path)).expanduser()
    options = {
        "allow_pickle": allow_pickle or None,
        "init": init,
        "alpha": alpha,
        "mlx_version": mlx_version,
        "name": name,
    }
    adapter = read_any(path, decoder, **{k: v for k, v in options.items() if v is not None})
    if not partial:
        require_whole(adapter, path, decoder)
    return adapter


def require_whole(adapter: Adapter, path: Path, decoder: Decoder | None) -> None:
    """Raise FormatError (`adapter_incomplete`) for an adapter that lacks what its config promises.

    Not for one that is of another base: its caller says so.
    """
    if adapter.reading.missing and _belongs(adapter, decoder):
        raise FormatError(
            f"{path} is an incomplete save: its config promises more than the file holds",
            code="adapter_incomplete",
            items=adapter.reading.missing,
            hint="save or download it again, or open the base that it was trained on; partial=True "
            "takes it as it is",
        )


def _belongs(adapter: Adapter, decoder: Decoder | None) -> bool:
    """Whether all that is there fits the base; else that it does not is what is to be said."""
    if decoder is None:
        return True
    resized = replace(decoder, vocabulary=rows_of([(adapter, 1.0)], decoder))
    found = misfits(for_text(adapter), resized)
    return not any(mismatch.severity == "error" for mismatch in found)


def read_any(path: Path, decoder: Decoder | None, **options: Any) -> Adapter:
    """`read_adapter` for an adapter that may be incomplete, and with `mend` (see read_peft)."""
    try:
        return _read(path, decoder, options)
    except OSError as error:  # a folder that may not be entered, a name that is too long
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error


def require_known(decoder: Decoder | None, what: str) -> None:
    """Raise UnsupportedError for a base that is known by its GGUF file alone.

    Its modules are called as llama.cpp calls tensors; no other format's names are known.
    """
    if decoder is not None and decoder.is_foreign:
        raise UnsupportedError(
            f"the base is a GGUF file of the architecture {decoder.architecture.gguf}, of which "
            f"lorakit knows no names but GGUF's: {what}",
            hint="convert the adapter with llama.cpp's convert_lora_to_gguf.py, or give the base "
            "as a Hugging Face folder of a supported family",
        )


def _read(path: Path, decoder: Decoder | None, options: Mapping[str, Any]) -> Adapter:
    if not path.exists():
        raise SourceError(
            f"there is no adapter at {path}",
            hint=f"give {PLACES}{or_nearby(path)}",
        )
    if "alpha" in options:
        row, place = _bare(path, options["alpha"])
    else:
        row = FORMATS[sniff(path)]
        place = path.parent if row.folder and path.name in FILES and not path.is_dir() else path
    if row.name != "gguf":
        require_known(decoder, f"{path} ({row.name}) cannot be read for it")
    for option in options.keys() - row.takes - {"allow_pickle", "mend"}:
        raise UnsupportedError(f"{path}: {_NOT_FOR[option]}")
    return row.read(place, decoder, **{k: v for k, v in options.items() if k in row.takes})


_NOT_FOR = {
    "init": "only a PEFT adapter is read with an initial adapter",
    "alpha": "only weights of PEFT and MLX without a config are read with an alpha",
    "mlx_version": "mlx_version is for MLX adapters",
    "name": "only a PEFT file holds several adapters, of which one is named",
}


def _bare(path: Path, alpha: object) -> tuple[Format, Path]:
    """The format of weights that have no config, by their names, and where they are."""
    if not finite(alpha):
        raise ParameterError(f"alpha must be a finite number, found {shown(alpha)}")
    folder = path if path.is_dir() else path.parent
    if member(folder, CONFIG) is not None:
        raise ParameterError(
            f"{folder} has an {CONFIG}, which says the scale",
            hint="read it without alpha; absolute_scale=2.0 replaces the scale",
        )
    if path.is_file() and path.name not in FILES:
        raise UnsupportedError(
            f"{path} is not named as the weights of an adapter are",
            hint=f"call it {peft.WEIGHTS} (PEFT) or {mlx.WEIGHTS} (MLX)",
        )
    names = {mlx.WEIGHTS: "mlx", peft.WEIGHTS: "peft", peft.PICKLE: "peft"}
    for weights, name in names.items():
        if member(folder, weights) is not None and (path.is_dir() or path.name == weights):
            return FORMATS[name], folder
    raise SourceError(f"there are no weights at {path}", hint=f"give {PLACES}")


def sniff(path: Path) -> str:
    """The name of the format at a path; errors as in `read_adapter`."""
    folder = path if path.is_dir() else path.parent
    for row in FORMATS.values():
        possible = path.is_dir() or path.name in FILES if row.folder else path.is_file()
        if possible and row.sniff(folder if row.folder else path):
            return row.name
    if not path.is_dir() and is_mlx(path):
        return "mlx"  # a checkpoint, by its number
    raise _not_an_adapter(path)


def _not_an_adapter(path: Path) -> SourceError | UnsupportedError:
    if path.is_dir():
        named = sorted(file.parent.name for file in path.glob(f"*/{CONFIG}"))[:20]
        if named:
            return UnsupportedError(
                f"{path} holds {_named(len(named))} of its own",
                items=named,
                hint=f"choose {'one' if named[1:] else 'it'}: {path / named[0]}",
            )
    if bare := _weights_alone(path):
        return UnsupportedError(
            f"{path} has the weights of {bare}, but no {CONFIG} beside them, which says their "
            "scale",
            hint="put the config beside them, or say the alpha, as in alpha=16: "
            "the scale is alpha / rank, and the rank is that of the tensors",
        )
    what, hint = _describe_folder(path) if path.is_dir() else _describe_file(path)
    if what:
        return UnsupportedError(
            f"{path} is {what}, not an adapter that lorakit can read",
            hint=hint or f"readable formats: {', '.join(FORMATS)}",
        )
    return SourceError(
        f"there is no adapter at {path}: no {CONFIG}",
        hint=f"give {PLACES}",
    )


def _weights_alone(path: Path) -> str:
    """What adapter's weights are there that have no config beside them; or ""."""
    folder = path if path.is_dir() else path.parent
    names = {mlx.WEIGHTS: "an MLX adapter", peft.WEIGHTS: "a PEFT adapter"}
    if (folder / CONFIG).exists():
        return ""
    found = [n for n in names if (path.is_dir() or path.name == n) and (folder / n).is_file()]
    return names[found[0]] if found else ""


def _named(count: int) -> str:
    return "one named adapter in a folder" if count == 1 else "named adapters in folders"


def _describe_folder(path: Path) -> tuple[str, str]:
    """What a folder is, and what to do with it."""
    if (path / "config.json").exists() and any(path.glob("*.safetensors")):
        return "a full model", ""
    if any(path.glob("*.gguf")):
        return "a folder of GGUF files", ""
    if any(path.glob("*.onnx_adapter")):
        return "a folder of ONNX Runtime adapters", ""
    steps = sorted(file for file in path.iterdir() if mlx.CHECKPOINT.fullmatch(file.name))
    if (path / CONFIG).exists() and steps:
        what = f"a folder of mlx-lm's training steps without {mlx.WEIGHTS}"
        return what, f"name one: {steps[-1]}"
    return ("an adapter folder of an unknown kind" if (path / CONFIG).exists() else ""), ""


def _describe_file(path: Path) -> tuple[str, str]:
    """What a file is, and what to do with it."""
    if not path.is_file():
        return "no regular file", ""
    try:
        with open_regular(path) as file:
            head = file.read(48)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    refuse_pointer(head, path)
    torch = head[:4] == b"PK\x03\x04" and path.suffix.lower() in (".bin", ".pt", ".pth", ".ckpt")
    if head[:1] == b"\x80" or torch:
        return "a pickle, which can run code when it is opened", ""
    if head[:4] == b"PK\x03\x04":
        return "a zip archive", "unpack it, and give the folder"
    if head[:2] in (b"\x1f\x8b", b"BZ"):
        return "a compressed archive", "unpack it, and give the folder"
    if len(head) >= 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 1 << 30:
        return (
            f"a safetensors file without its {CONFIG} beside it",
            f"call it {peft.WEIGHTS} (PEFT) or {mlx.WEIGHTS} (MLX), and put its config beside it",
        )
    return "a file of an unknown kind", ""
