"""What an MLX config promises and the file lacks: an incomplete save."""

from __future__ import annotations

from lorakit.adapter import Adapter
from lorakit.architectures import HEAD, Decoder
from lorakit.formats.lacking import by_kind
from lorakit.formats.mlx.config import MlxConfig
from lorakit.formats.mlx.names import LAYER, native


def missing(
    config: MlxConfig, names: frozenset[str], adapter: Adapter, decoder: Decoder | None
) -> tuple[str, ...]:
    """In sentences. names: modules as the file calls them.

    Modules that `keys` names in full must be there. Of others the base says which there are in the
    last layers: all that `keys` names, or, where there are no keys, each kind that the file has.
    """
    full = {key for key in config.keys or () if LAYER.fullmatch(key)}
    lines = by_kind(full - names, "keys names")
    if decoder is None or config.rank is None:
        return tuple(lines)
    held = frozenset(adapter.modules)
    kinds = {found[2] for name in held if (found := LAYER.fullmatch(native(name)))}
    wanted = kinds if config.keys is None else set(config.keys) - full
    count = len(decoder.layers)
    last = set(range(count))
    if config.indices is not None:
        last &= config.indices
    elif config.layers > 0:
        last = set(range(max(0, count - config.layers), count))
    lacking = [
        module
        for module in decoder.modules()
        if module not in held
        and module != HEAD
        and (found := LAYER.fullmatch(native(module))) is not None
        and int(found[1]) in last
        and found[2] in wanted
    ]
    return (*lines, *by_kind(lacking, "the config asks for"))
