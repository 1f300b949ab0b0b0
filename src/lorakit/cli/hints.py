"""What the library says in Python's words, in those of the command line: `rank=8` is `--rank 8`.

The library knows no flags. Here is the only place that knows both: the flags of the command that
runs, then those of other commands, then phrases. A test reads every hint of the source through it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from lorakit.values import did_you_mean as did_you_mean

# A keyword with its value in a hint, as Python writes it.
_KEYWORD = re.compile(
    r"""\b(?P<name>[a-z_]+)=(?:(?P<quote>["'])(?P<text>.*?)(?P=quote)|(?P<word>[\w.-]*\w))?"""
    r"""(?![\w"'(\[{])"""
)

# Flags of other commands that a hint may name; each is spelled as the keyword is.
ELSEWHERE = (
    *("accumulate", "allow_pickle", "allow_private", "alpha", "answer", "base_model"),
    *("calibration", "chat_template_kwargs", "checkpointing", "context", "control_tokens"),
    *("energy", "engine", "force", "ids", "init", "method", "mlx_version"),
    *("mmproj", "model", "name", "overwrite", "partial", "quantize", "rank", "resume"),
    *("split_size", "spectrum", "tool_choice", "when_full"),
)

# Phrases with objects and methods, which no flag is called by; the first that is found goes first.
PHRASES = (
    (r'AdapterConfig\(path, mode="merge"\),(?: or)? (?=lorakit run --merge)', ""),
    (r"AdapterConfig\(path, scale=0\.5\)", "-a REF:0.5"),
    (r"absolute_scale=2\.0 replaces", "-a REF:=2.0 replaces"),
    (r'adapters=\{"name": 1\.0\}', "-a REF"),
    (r"name one with adapter=", "name one with -a REF"),
    (r"; read_adapter\(\.\.\., name=.* reads it", ""),
    (r"with load_adapter\b", "with -a"),
    (r'load_adapter\("its name there"\)', "-a NAME, its name there"),
    (r"use complete\(\) with a prompt", "use --raw with a prompt"),
    (r"only scale= can be chosen", "only a scale, -a NAME:0.5, can be chosen"),
    (r"open it with tokenizer=, the folder .*", "it can be done with the model's own files"),
    (r"give api_key=, or (?=set LORAKIT_API_KEY)", ""),
    (r"(?:as )?api_key= or (?=(?:in )?LORAKIT_API_KEY)", ""),
    (r"enable_thinking=", "--thinking"),
    (
        r"Limits\(max_bytes=\.\.\.\) allows more",
        "fetch it with a tool of your own, and give its path",
    ),
    (r"offline=False, no (?=LORAKIT_OFFLINE)", "without "),
    (r"open the model with micro_batch=\w+ or more", "use a smaller picture"),
    (r"a smaller context or a smaller kv_type, or fewer contexts", "a smaller --context"),
    (r"lower context, max_batch or cached_sequences", "use a smaller --context"),
    (r"a smaller context, fewer (?:sequences|rows) \(max_batch\)", "a smaller --context"),
)
_PHRASES = tuple((re.compile(pattern), said) for pattern, said in PHRASES)


def in_flags(text: str, parser: argparse.ArgumentParser) -> str:
    """A sentence of the library as the user of a command would write it."""
    for pattern, said in _PHRASES:
        text = pattern.sub(said, text)
    flags = _flags(parser)

    def flag(found: re.Match[str]) -> str:
        name, value = found["name"], found["text"] or found["word"] or ""
        if name in flags:
            return _said(flags[name], value)
        if name not in ELSEWHERE:
            return found[0]
        word = f"--{name.replace('_', '-')}"
        return word if value == "True" else f"{word} {value}".rstrip()

    return _KEYWORD.sub(flag, text)


def _flags(parser: argparse.ArgumentParser) -> dict[str, list[argparse.Action]]:
    """Options by the name of the flag, and by that of the parameter, which two may share."""
    found: dict[str, list[argparse.Action]] = {}
    options = [action for action in parser._actions if action.option_strings]
    for action in options:
        found.setdefault(action.dest, []).append(action)
    return {_long(action)[2:].replace("-", "_"): [action] for action in options} | found


def _said(actions: Sequence[argparse.Action], value: str) -> str:
    first = actions[0]
    if first.nargs != 0:
        return f"{_long(first)} {value}".rstrip()
    wanted = value != "False"  # a flag, which is given or not, or its opposite
    given = next((action for action in actions if bool(action.const) == wanted), None)
    return f"no {_long(first)}" if given is None else _long(given)


def _long(action: argparse.Action) -> str:
    words = action.option_strings
    return next((name for name in words if name.startswith("--")), words[0])
