"""What a server says of itself: its kind, its models and adapters, and how much they hold.

It is asked once, when the model is opened. What it does not say stays unknown: 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from lorakit.errors import CapabilityError, ParameterError, ServerError
from lorakit.remote.kinds import KINDS, LLAMA, Kind, OnServer
from lorakit.remote.refusals import Broken, RefusalError
from lorakit.remote.server import Server
from lorakit.values import shown, whole

MAX_NAMED = 20  # models that an error lists
DEFAULT_TAG = ":latest"  # of Ollama's models, whose names may leave it out
Ask = Callable[[str], Any]  # the JSON behind a URL; raises RefusalError


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """model: the name of the base. context, vocabulary: in tokens, 0 where nobody says."""

    kind: Kind
    model: str
    context: int = 0
    vocabulary: int = 0
    adapters: tuple[OnServer, ...] = ()


def look(server: Server, model: str | None, ask: Ask, broken: Broken) -> Facts:
    """Ask a server what it is.

    model: the name of the base, where the server has several. Raises ParameterError for a name that
    it does not have, RefusalError, and what `ask` raises.
    """
    models = _models(server, model, ask, broken)
    bases = [one for one in models if not one.get("parent")]
    chosen = _choose(server, model, bases)
    kind = KINDS.get(str(chosen.get("owned_by")), KINDS[""])
    name = str(chosen["id"])
    if kind.name == LLAMA:
        return _llama_facts(server, kind, name, chosen, ask, broken)
    own = [one for one in models if not kind.loads or one.get("parent")]
    return Facts(
        kind=kind,
        model=name,
        context=_count(chosen.get("max_model_len")),
        adapters=tuple(
            OnServer(name=one["id"], path=str(one.get("root") or "")) for one in own
            if one["id"] != name
        ),
    )  # fmt: skip


def llama_adapters(server: Server, ask: Ask, broken: Broken) -> tuple[OnServer, ...]:
    """What a llama-server was started with. The name of one is that of its file, without suffix."""
    try:
        listed = ask(f"{server.root}/lora-adapters")
    except RefusalError as refusal:
        if refusal.status in (404, 405, 501):
            return ()
        raise
    found: dict[str, OnServer] = {}
    for one in _list(listed, "adapters", broken):
        path, number = one.get("path"), one.get("id")
        if not isinstance(path, str) or not whole(number):
            raise broken(f"it lists an adapter without path or id: {shown(one)}")
        name = PurePosixPath(path.replace("\\", "/")).stem or "adapter"
        while name in found:
            name = f"{name}-{number}"
        found[name] = OnServer(name=name, id=int(number), path=path)  # type: ignore[arg-type]  # looked at
    return tuple(found.values())


def _models(server: Server, model: str | None, ask: Ask, broken: Broken) -> list[Mapping[str, Any]]:
    try:
        said = ask(f"{server.base}/models")
    except RefusalError as refusal:
        if refusal.status not in (404, 405, 501):
            raise
        if model is not None:
            return [{"id": model}]  # it lists none; the caller knows
        raise ServerError(
            f"{server} lists no models ({refusal.status}): is it the URL of an API",
            code="server_invalid",
            hint='give model= where it has no list; a folder of files opens with engine="onnx"',
        ) from None
    listed = said.get("data") if isinstance(said, Mapping) else said
    models = _list(listed, "models", broken)
    for one in models:
        if not isinstance(one.get("id"), str) or not one["id"]:
            raise broken(f"it lists a model without an id: {shown(one)}")
    return models


def _list(listed: object, what: str, broken: Broken) -> list[Mapping[str, Any]]:
    if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
        raise broken(f"it does not list its {what}, but says {shown(listed)}")
    return listed


def _choose(
    server: Server, model: str | None, bases: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    names = [one["id"] for one in bases]
    if model is None and len(bases) == 1:
        return bases[0]
    for one in bases:
        if model is not None and model in (one["id"], *_aliases(one)):
            return one
    for one in bases:
        if model is not None and one["id"] == model + DEFAULT_TAG:
            return one
    more = len(names) - MAX_NAMED
    listed = names[:MAX_NAMED] + ([f"and {more} more"] if more > 0 else [])
    if model is None:
        raise ParameterError(
            f"{server} has {len(names) or 'no'} models",
            items=listed,
            hint="choose one: model=" + (repr(names[0]) if names else "..."),
        )
    raise ParameterError(f"{server} has no model {shown(model)}; it has these", items=listed)


def _aliases(model: Mapping[str, Any]) -> list[Any]:
    aliases = model.get("aliases")
    return aliases if isinstance(aliases, list) else []


def _llama_facts(
    server: Server, kind: Kind, name: str, model: Mapping[str, Any], ask: Ask, broken: Broken
) -> Facts:
    meta = model.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    try:
        props = ask(f"{server.root}/props")
    except RefusalError:
        props = {}
    settings = props.get("default_generation_settings") if isinstance(props, Mapping) else None
    settings = settings if isinstance(settings, Mapping) else {}
    adapters = llama_adapters(server, ask, broken)
    own = settings.get("params")
    if adapters and isinstance(own, Mapping) and "lora" not in own:
        raise CapabilityError(
            f"{server} is a llama-server that cannot choose adapters for a request",
            hint="take a newer one (2025), or start it without --lora",
        )
    return Facts(
        kind=kind,
        model=name,
        context=_count(settings.get("n_ctx")) or _count(meta.get("n_ctx")),
        vocabulary=_count(meta.get("n_vocab")),
        adapters=adapters,
    )


def _count(value: object) -> int:
    return int(value) if whole(value) and int(value) > 0 else 0  # type: ignore[call-overload]
