"""Which adapters are meant where a user names some or none."""

from __future__ import annotations

from lorakit.errors import ParameterError
from lorakit.model.adapters import Scales, as_scales
from lorakit.model.model import Model


def acting(model: Model, adapters: Scales | None) -> dict[str, float]:
    """Adapters with their scales; None means the active ones. Raises ParameterError."""
    if adapters is not None:
        chosen = as_scales(adapters)
    else:
        chosen = {each.name: each.scale for each in model.adapters if each.scale is not None}
    if not chosen:
        raise ParameterError(
            "no adapter is named or active, so there is nothing to compare the base with",
            hint='adapters={"name": 1.0}',
        )
    return chosen
