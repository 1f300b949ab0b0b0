"""One PEFT folder, as it is, on every engine and in a page: the same greedy tokens."""

import numpy as np
import pytest
from chromium import need_chromium, running, serving

import lorakit
from folders import DATA
from llama_library import need_llama
from lorakit.demo import site
from lorakit.exporting.export import export

PROGRAM = need_chromium()
need_llama()
pytest.importorskip("torch", reason="the reference engine needs the extra torch")

BASE = DATA / "truth/bases/llama"
GGUF = DATA / "truth/gguf/llama.base.f32.gguf"
ADAPTER = DATA / "truth/peft/llama/plain"
SCALES = (0.0, 0.5, 1.0)
TOKENS = 16
PAGE = b"<!doctype html><meta charset='utf-8'><title>test</title>"
COMPLETE = """async ([prompts, scales, count]) => {
    const { open } = await import('/lib/lorakit.js');
    const model = await open('/model/');
    await model.load({ path: '/adapter/', name: 'a' });
    const rows = scales.flatMap((a) => prompts.map((prompt) =>
        ({ prompt, adapters: { a }, maxTokens: count })));
    const found = (await model.batch(rows)).map(({ ids }) => ids);
    await model.close();
    return found;
}"""


@pytest.fixture(scope="module")
def prompts():
    with np.load(BASE / "base_logits.npz") as file:
        return [file[f"ids{number}"].tolist() for number in range(3)]


def answers(base, engine, adapter, prompts):
    """Greedy tokens, scale by scale, prompt by prompt."""
    with lorakit.open(base, engine=engine) as model:
        model.load_adapter(adapter, name="a")
        requests = [
            lorakit.Request(
                prompt=prompt,
                adapters={"a": scale},
                sampling=lorakit.SamplingParams(max_tokens=TOKENS, ignore_eos=True),
            )
            for scale in SCALES
            for prompt in prompts
        ]
        batch = model.batch(requests)
        return [[choice.token for choice in completion.tokens] for completion in batch]


@pytest.fixture(scope="module")
def in_the_page(prompts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "model"
    export(BASE, folder, mode="dynamic", quantize="none", prove_it=False)
    table = {"index.html": PAGE}
    for name, place in (("model", folder), ("adapter", ADAPTER), ("lib", site.library())):
        table |= {f"{name}/{path}": file for path, file in site.folder(place).items()}
    with running(PROGRAM) as browser, serving(table) as server:
        page = browser.new_page()
        page.goto(server.address)
        return page.evaluate(COMPLETE, [prompts, list(SCALES), TOKENS])


@pytest.mark.parametrize(
    ("base", "engine"),
    [(BASE, "onnx"), (BASE, "torch"), (GGUF, "llama")],
    ids=["onnx", "torch", "llama"],
)
def test_the_page_says_what_the_engine_says(in_the_page, base, engine, prompts):
    assert in_the_page == answers(base, engine, ADAPTER, prompts)


def test_the_adapter_is_what_makes_the_difference(in_the_page, prompts):
    """Else the test above would hold of a page that drops it."""
    base, half, whole = (in_the_page[i : i + len(prompts)] for i in range(0, 9, 3))
    assert base != half != whole != base
