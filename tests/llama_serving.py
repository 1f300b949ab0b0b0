"""llama.cpp's own server, of the package xllamacpp, with the demo's base and two adapters."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from lorakit import demo
from lorakit.base.gguf import open_base
from lorakit.exporting.gguf import gguf_model, write_gguf
from lorakit.formats.convert import convert

SERVER = Path(__file__).with_name("serve_llama.py")
NAMES = ("home", "style")


def demo_files(folder):
    """The demo as GGUF files: its base, and adapters."""
    base = open_base(demo.base_path())
    adapters = [folder / f"{name}.gguf" for name in NAMES]
    for name, path in zip(NAMES, adapters, strict=True):
        convert(demo.adapter_path(name), path, to="gguf", base=base)
    template = (demo.base_path() / "chat_template.jinja").read_text("utf-8")
    model = gguf_model(base, name="demo", templates={"default": template})
    (path,) = write_gguf(model, folder / "demo.gguf", "F16", threads=1)
    return path, *adapters


@contextmanager
def serving_llama(text, *files):
    """The URL of its API. text: "special" or "plain", see serve_llama.py."""
    command = [sys.executable, SERVER, text, *files]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.stdin.close()
            server.wait(30)
