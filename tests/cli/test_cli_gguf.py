"""Commands on GGUF files: the same words as for folders, and what only these files have."""

import json
from pathlib import Path

import pytest

from commands import invoke
from llama_library import need_llama
from projector import png, write_projector

need_llama()

TRUTH = Path(__file__).parents[1] / "data" / "truth"
GEMMA = TRUTH / "gguf" / "gemma3.base.f32.gguf"
LLAMA = TRUTH / "gguf" / "llama.base.f32.gguf"
PLAIN = TRUTH / "peft" / "gemma3" / "plain"


def answer(*arguments):
    done = invoke("run", *arguments, "--json", "--max-tokens", 4)
    assert done.error is None
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / "one.png").write_bytes(png(1))
    return write_projector(folder / "mmproj.gguf"), folder / "one.png"


def test_run_with_an_adapter_at_a_scale():
    plain = answer(GEMMA, "hello")
    found = answer(GEMMA, "-a", f"{PLAIN}:0.5", "hello", "--context", 300, "--gpu-layers", 0)
    assert found["adapters"] == {"plain": 0.5}
    assert found["text"] != plain["text"]


def test_run_with_a_grammar_and_the_sampler_options(tmp_path):
    grammar = tmp_path / "answer.gbnf"
    grammar.write_text('root ::= "yes" | "no"\n')
    found = answer(
        GEMMA, "is it?", "--grammar", grammar, "--temperature", 1, "--mirostat", 3, "--seed", 4,
        "--repetition-penalty", 1.1, "--presence-penalty", 0.1, "--frequency-penalty", 0.1,
    )  # fmt: skip
    assert found["text"] in ("yes", "no")
    assert answer(GEMMA, "--raw", "a", "--temperature", 1, "--typical-p", 0.9, "--min-p", 0.01)
    assert invoke("run", GEMMA, "a", "--grammar", tmp_path / "none").error.code == (
        "source_not_found"
    )


def test_run_shows_a_picture(picture):
    projector, image = picture
    blind = answer(GEMMA, "what?")
    found = answer(GEMMA, "what?", "--mmproj", projector, "--image", image)
    assert found["usage"]["prompt_tokens"] > blind["usage"]["prompt_tokens"] + 4
    assert invoke("run", GEMMA, "what?", "--image", image).error.code == "capability_missing"
    assert invoke("run", GEMMA, "what?", "--raw", "--image", image).error.code == (
        "parameter_invalid"
    )


def test_chat_shows_a_picture_with_the_next_turn(picture):
    projector, image = picture
    typed = f"/image {image}\nwhat?\n/image {image.parent}/no.png\n/image off\n/adapters\n"
    done = invoke("chat", GEMMA, "--mmproj", projector, "--max-tokens", 2, typed=typed)
    assert done.code == 0


@pytest.mark.parametrize("first", ["folder", "file"])
def test_verify_a_folder_and_its_gguf_file_with_the_same_adapter(first):
    sides = [TRUTH / "bases" / "llama", LLAMA]
    one, other = sides if first == "folder" else reversed(sides)
    adapter = TRUTH / "peft" / "llama" / "plain"
    done = invoke("verify", one, "-a", adapter, "--against", f"on:{other}", "--json")
    assert (done.code, done.error) == (0, None)
    found = json.loads(done.stdout)
    assert found["total"]["max_difference"] < 2e-4
    assert found["warnings"] == []  # Llama has no GELU, and these weights are float32


def test_verify_tells_of_gelu_from_a_table():
    sides = (TRUTH / "bases" / "gemma3", GEMMA)
    done = invoke("verify", sides[0], "--against", f"on:{sides[1]}", "--json")
    found = json.loads(done.stdout)
    assert (done.code, found["stored"]) == (0, "float16")
    assert "GELU" in found["warnings"][0]


def test_verify_against_a_model_in_a_gguf_file():
    done = invoke("verify", TRUTH / "bases" / "llama", "--against", f"model:{LLAMA}", "--json")
    assert (done.code, done.error) == (0, None)


def test_verify_a_conversion_and_check_and_convert_on_a_gguf_base(tmp_path):
    done = invoke(
        "convert", PLAIN, tmp_path / "out.gguf", "--to", "gguf", "--base", GEMMA, "--verify"
    )
    assert (done.code, done.error) == (0, None)
    assert invoke("check", PLAIN, "--base", GEMMA).code == 0
    done = invoke("inspect", tmp_path / "out.gguf", "--base", GEMMA, "--json")
    assert json.loads(done.stdout)["format"] == "gguf"


def test_native_options_are_for_gguf_files():
    folder = TRUTH / "bases" / "gemma3"
    for option in (("--gpu-layers", 1), ("--mmproj", "x")):
        assert invoke("run", folder, "a", *option).error.code == "capability_missing"


def test_merge_makes_a_folder_of_a_file_with_an_adapter_or_without(tmp_path):
    done = invoke("merge", GEMMA, "-o", tmp_path / "plain")
    assert done.error is None
    assert "token ids: compared with llama.cpp's" in done.stdout
    done = invoke("merge", GEMMA, "-a", f"{PLAIN}:0.5", "-o", tmp_path / "merged", "--json")
    assert json.loads(done.stdout)["changed"]
    found = answer(GEMMA, "-a", f"{PLAIN}:0.5", "hello")
    assert answer(tmp_path / "merged", "hello")["text"] == found["text"]


def test_merge_of_a_folder_with_nothing_is_no_copy(tmp_path):
    folder = TRUTH / "bases/gemma3"
    assert invoke("merge", folder, "-o", tmp_path / "out").error.code == "parameter_invalid"
    assert not (tmp_path / "out").exists()
    assert invoke("merge", folder, "-o", tmp_path / "out", "--dtype", "bf16").error is None
