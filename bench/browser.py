"""Adapters in a page: lorakit.js in Chromium, on wasm, with a base of FunctionGemma's shape.

    python bench/browser.py [--form q8] [--threads 2] [--rounds 7] [--json FILE]
    python bench/browser.py --peer FOLDER  # npm's @wllama/wllama, unpacked

The base has random weights and the demo's tokenizer (prompts are token ids), the adapters rank 16
on all linear layers. It is exported with adapter inputs, served on loopback, and opened once. Then,
in turns, medians and ranges over rounds:

swap: load another adapter, apply it, and wait for the first token, less the same request with an
adapter that acts already. From its address, with nothing cached; then from the page's cache, by its
digest. Of that, what loading takes.
step: a token with an adapter, over a token of the base.
rows: four requests with four sets of adapters as one batch, over one after the other.

peer: the four requests beside llama.cpp in the same page, at once, its base in Q8_0 and without any
adapter, which can only make it slower. The base is then SmolLM2-135M (real_model.py).

It needs Chromium, playwright, and transformers.js (`make demo-browser`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from make_base import make_adapter, make_base
from playwright.sync_api import sync_playwright
from real_model import real_model

import lorakit
from lorakit import demo
from lorakit.base.folder import Base
from lorakit.demo.serving import Content, SiteServer
from lorakit.exporting.export import export
from lorakit.files.cache import cache_root, digest_of
from lorakit.formats.peft import write_peft

ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-quic", "--no-first-run"]
ADAPTERS = 4
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
PAGE = b"<!doctype html><title>bench</title>"
PLACE = "adapters/{}/adapter_model.safetensors"
SCRIPT = Path(__file__).with_suffix(".mjs")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--form", default="q8", choices=("none", "fp16", "q8", "q4"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--worker", action="store_true", help="compute in a worker, as pages do")
    parser.add_argument("--base", type=Path, help="another base than the one of the 270M shape")
    parser.add_argument("--peer", type=Path, help="a folder with the package @wllama/wllama")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        model = real_model() if chosen.peer else None
        table = site(Path(temporary), model.folder if model else chosen.base, chosen.form)
        if model:
            table |= below(chosen.peer, "peer") | {"peer.gguf": model.quantised("Q8_0")}
        with SiteServer(table, 0) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            found = run(server, chosen)
            server.shutdown()
    report(found)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1), "utf-8")


def site(folder: Path, base: Path | None, form: str) -> dict[str, Content]:
    """lorakit.js, the export, and adapters as PEFT folders."""
    base = with_tokenizer(base or make_base(cache_root() / "bench" / "functiongemma-shape"), folder)
    export(base, folder / "models/base", mode="dynamic", quantize=form, prove_it=False)
    for n in range(ADAPTERS):
        adapter = make_adapter(Base.open(base).decoder, seed=n)
        write_peft(adapter, folder / "adapters" / str(n))
    table: dict[str, Content] = {"index.html": PAGE}
    table |= below(Path(lorakit.__file__).parent / "web", "lib")
    table |= below(folder / "models", "models") | below(folder / "adapters", "adapters")
    return table


def with_tokenizer(base: Path, folder: Path) -> Path:
    """The base beside the demo's tokenizer, without a copy of its weights."""
    if (base / "tokenizer.json").is_file():
        return base
    (made := folder / "base").mkdir()
    for path in base.iterdir():
        (made / path.name).symlink_to(path.resolve())
    for name in TOKENIZER:
        if (demo.base_path() / name).is_file():
            shutil.copyfile(demo.base_path() / name, made / name)
    return made


def below(folder: Path, at: str) -> dict[str, Content]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {f"{at}/{path.relative_to(folder).as_posix()}": path for path in files}


def run(server: SiteServer, chosen: argparse.Namespace) -> dict[str, Any]:
    """What the page measured."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        sys.exit("chromium is not installed")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=ARGUMENTS)
        page = browser.new_page()
        page.set_default_timeout(3_600_000)

        page.goto(server.address)
        dtype = "fp32" if chosen.form == "none" else chosen.form
        found = page.evaluate(
            SCRIPT.read_text("utf-8"),
            {
                "rounds": chosen.rounds, "dtype": dtype, "threads": chosen.threads,
                "prompt": chosen.prompt, "tokens": chosen.tokens, "adapters": ADAPTERS,
                "peer": bool(chosen.peer), "worker": chosen.worker,
                "digests": [digest_of(server.files[PLACE.format(n)]) for n in range(ADAPTERS)],
            },
        )  # fmt: skip
        browser.close()
    return dict(found)


def report(found: dict[str, Any]) -> None:
    def of(name: str, digits: int = 0) -> str:
        values = found[name]
        middle = statistics.median(values)
        return f"{middle:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"

    print("| what | median (range) |")
    print("|---|---|")
    print(f"| opened, ms | {found['opened']:.0f} |")
    for name, where in (("first", "from its address"), ("swap", "cached")):
        print(f"| another adapter, {where}, to the first token, ms above warm | {of(name)} |")
        print(f"| of that, loading it, ms | {of(name + 'Load')} |")
    print(f"| step of the base, ms | {of('base', 1)} |")
    print(f"| step with an adapter, ms | {of('adapted', 1)} |")
    print(f"| with an adapter / base | {of('step', 2)} |")
    print(f"| 4 sets one after the other, tokens/s | {of('single', 1)} |")
    print(f"| 4 sets in one batch, tokens/s | {of('batch', 1)} |")
    print(f"| batch / one after the other | {of('rows', 2)} |")
    if found["peer"]:
        print(f"| wllama, four requests, tokens/s | {of('peer', 1)} |")
        print(f"| batch / wllama | {of('beside', 2)} |")
    print(f"| requests for the base's weights after it was opened | {found['again']} |")


if __name__ == "__main__":
    main()
