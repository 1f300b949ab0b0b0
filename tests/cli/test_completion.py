"""Scripts for shells complete what the parsers take; run where the shells are."""

import shutil
import subprocess

import pytest

from commands import invoke
from lorakit.cli.completion import SCRIPTS, entries
from lorakit.cli.signature import parser_of
from lorakit.cli.table import COMMANDS, functions

# (what is typed, whose last word is completed; what may stand there)
CASES = [
    (["r"], {"run", "repair", "resize"}),
    (["run", "--eng"], {"--engine"}),
    (["run", "base", "hi", "--engine", ""], {"onnx", "llama", "torch", "api"}),
    (["cache", ""], {"list", "prune", "limit", "clear"}),
    (["cache", "list", "--js"], {"--json"}),
    (["completion", ""], {"bash", "zsh", "fish"}),
    (["convert", "a", "b", "--to", "o"], {"ort"}),
    (["help", "dat"], {"data"}),
    (["data", "split", "--over"], {"--overwrite"}),
    (["run", "base", "run", "--tempe"], {"--temperature"}),
    (["run", "base", "hi", "-a", "adap"], {"adapters", "adapters/"}),
    (["run", "base", "--max-tokens", ""], set()),
]


@pytest.fixture(scope="module")
def scripts():
    return {shell: invoke("completion", shell).stdout for shell in SCRIPTS}


def test_the_table_has_every_command_option_and_choice():
    table = {entry.words: entry for entry in entries()}
    for words, function in functions():
        found = table[words]
        for action in parser_of(function, words)._actions:
            if action.option_strings:
                (option,) = [o for o in found.options if o.names == tuple(action.option_strings)]
                assert option.values == tuple(action.choices or ())
                assert option.flag == (action.nargs == 0)
            elif action.choices:
                assert found.values == tuple(action.choices)
    assert set(table[""].inner) == {*COMMANDS, "help"}
    assert set(table["cache"].inner) == {"list", "prune", "limit", "clear"}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_script_names_every_command_and_option(shell, scripts):
    for entry in entries():
        assert entry.words in scripts[shell]
        for option in entry.options:
            for name in option.names:
                assert name.lstrip("-") in scripts[shell]


def in_bash(script, words, folder):
    typed = " ".join(f"'{word}'" for word in ["lorakit", *words])
    ask = (
        f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _lorakit; "
        'printf "%s\\n" "${COMPREPLY[@]}"; '
        f'[ ${{#COMPREPLY[@]}} -gt 0 ] || [ -n "$files_off" ] || compgen -f -- "{words[-1]}"'
    )
    return run(["bash", "-c", f"compopt() {{ files_off=1; }}\n{script}\n{ask}"], folder)


def in_fish(script, words, folder):
    (folder / "lorakit.fish").write_text(script)
    (folder / "lorakit").write_text("#!/bin/sh\n")
    (folder / "lorakit").chmod(0o755)
    ask = f"set PATH . $PATH; source lorakit.fish; complete -C 'lorakit {' '.join(words)}'"
    return run(["fish", "--no-config", "-c", ask], folder)


def run(command, folder):
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=folder
    )
    return {line.partition("\t")[0] for line in done.stdout.splitlines() if line.strip()}


ASK = {"bash": in_bash, "fish": in_fish}
HERE = [shell for shell in ASK if shutil.which(shell) and shutil.which("sh")]


@pytest.mark.parametrize(("words", "expected"), CASES, ids=[" ".join(w) for w, _ in CASES])
def test_shells_that_are_here_complete_it(words, expected, scripts, tmp_path):
    """Of bash and fish, those that are installed; zsh reads its own below."""
    (tmp_path / "adapters").mkdir()
    for shell in HERE:
        found = ASK[shell](scripts[shell], words, tmp_path)
        assert bool(found) == bool(expected), shell
        assert found <= expected, shell


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_script_is_well_formed(shell, scripts, tmp_path):
    """By the shell itself, where it is installed."""
    if shutil.which(shell) and shutil.which("sh"):
        (tmp_path / "script").write_text(scripts[shell])
        done = subprocess.run([shell, "-n", tmp_path / "script"], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        (tmp_path / "script").write_text(scripts[shell] + "\nif [ x = 'y'; then")
        done = subprocess.run([shell, "-n", tmp_path / "script"], capture_output=True, check=False)
        assert done.returncode != 0
