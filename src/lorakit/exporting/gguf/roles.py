"""The tokens with a role: what begins and ends a text or a reply, what fills up, what is unknown.

llama.cpp has keys for three tokens that end a reply, and knows some more by their text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lorakit.exporting.gguf.tokenizer_json import TokenizerJson
from lorakit.files.gguf import Value
from lorakit.merge.gguf.tokenizer import ENDS, ROLES
from lorakit.text.tokenizer import config_ids, read_special_tokens, steps

# What llama.cpp also takes for the end of a reply by its text, whatever the model says
# (ggml-org/llama.cpp, src/llama-vocab.cpp).
OTHER_ENDS = ENDS | {
    *("</s>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<EOT>", "_<EOT>", "[EOT]"),
    *("[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>"),
}


def end_notes(folder: Path, roles: Mapping[str, Value], listed: list[str]) -> tuple[str, ...]:
    """What llama.cpp ends a reply at, and the model does not."""
    own = {*config_ids(folder, "eos_token_id"), *(value.data for value in roles.values())}
    others = [listed[at] for at in range(len(listed)) if listed[at] in OTHER_ENDS and at not in own]
    if not others:
        return ()
    said = ", ".join(map(repr, others))
    return (f"llama.cpp takes {said} for the end of a reply, wherever it stands in a text",)


def roles(folder: Path, tokenizer: TokenizerJson, listed: list[str]) -> dict[str, Value]:
    """Ids of the tokens with a role; among them up to three that end a reply."""
    ids = {text: index for index, text in enumerate(listed)}
    named = read_special_tokens(folder)
    found = {role: ids.get(named.get(f"{role}_token", "")) for role in ROLES}
    if found["bos"] is None:
        found["bos"] = next(iter(config_ids(folder, "bos_token_id")), None)
    if found["unk"] is None:
        found["unk"] = ids.get(tokenizer.model.get("unk_token") or "")
    ends = [end for end in config_ids(folder, "eos_token_id") if end < len(listed)]
    if found["eos"] is None:
        found["eos"] = next(iter(ends), None)
    if found["eos"] is None and tokenizer.is_sentencepiece:
        tokenizer.refuse("no token that ends a text: 2 would be taken for it", listed[2])
    roles = {ROLES[role]: index for role, index in found.items()}
    more = _more_ends(tokenizer, [end for end in ends if end != found["eos"]], listed)
    roles = {"bos": roles.pop("bos"), "eos": roles.pop("eos"), **more, **roles}
    return {
        f"{role}_token_id": Value("u32", index)
        for role, index in roles.items()
        if index is not None and index < len(listed)
    }


def _more_ends(tokenizer: TokenizerJson, ends: list[int], listed: list[str]) -> dict[str, int]:
    """What else ends a reply: two tokens, and those that llama.cpp knows by their text."""
    known = [end for end in ends if listed[end] in ENDS]
    others = [end for end in ends if listed[end] not in ENDS]
    if len(others) > 2:
        tokenizer.refuse("more tokens that end a reply than there is room for", others)
    order = [*known[:1], *others] if len(others) < 2 else others
    return dict(zip(("eot", "eom"), order, strict=False))


def around(
    tokenizer: TokenizerJson, roles: Mapping[str, Value], listed: list[str]
) -> dict[str, Value]:
    """Whether <bos> and <eos> are put around a text, as the post-processor does."""
    before, after = _template(tokenizer)
    put = {}
    for role, found in (("bos", before), ("eos", after)):
        value = roles.get(f"{role}_token_id")
        if found and (value is None or found != [listed[value.data]]):
            tokenizer.refuse("a post_processor", tokenizer.post_processor)
        put[f"add_{role}_token"] = Value("bool", bool(found))
    return put


def _template(tokenizer: TokenizerJson) -> tuple[list[str], list[str]]:
    """The tokens that are put before and after a text."""
    before: list[str] = []
    after: list[str] = []
    for step in steps(tokenizer.post_processor, "processors"):
        if step.get("type") == "ByteLevel":
            continue
        if step.get("type") != "TemplateProcessing" or before or after:
            tokenizer.refuse("a post_processor", tokenizer.post_processor)
        place = before
        for piece in step.get("single") or ():
            if "Sequence" in piece:
                place = after
            elif "SpecialToken" in piece:
                place.append(piece["SpecialToken"].get("id"))
    return before, after
