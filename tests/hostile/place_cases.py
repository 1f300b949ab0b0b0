"""What stands where a file should: pipes, sockets, devices, folders, loops, locked doors."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import gguf_cases
import ort_cases
from cases import case, folder, sparse


def _socket(path: Path) -> None:
    """Bound from inside the folder: a socket's path may have about 100 bytes only."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


@case("format_unsupported", "no regular file")
def pipe(path: Path) -> None:
    os.mkfifo(path)


@case("format_unsupported", "no regular file")
def unix_socket(path: Path) -> None:
    _socket(path)


@case("format_unsupported", "no regular file")
def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@case("source_not_found", "no adapter at")
def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@case("source_not_found", "no adapter at")
def link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


@case("source_not_found", "too long", at="x" * 300)
def name_too_long(path: Path) -> None:
    path.mkdir()


@case("source_not_found", "cannot read", at="a/" * 3000)
def path_too_long(path: Path) -> None:
    path.mkdir()


@case("source_not_found", "no adapter at", at="a\0b")
def zero_in_the_path(path: Path) -> None:
    path.mkdir()


@case("source_not_found", "no adapter at", at="\x1b[31m\nerror")
def terminal_codes_in_the_path(path: Path) -> None:
    path.mkdir()


@case("source_not_found", "adapter.gguf", at="adapter.gguf/adapter.gguf")
def file_as_a_folder(path: Path) -> None:
    gguf_cases.write(path / "adapter.gguf", gguf_cases.packed())


@case("source_not_found", "cannot read", opens="locked", at="adapter.gguf")
def gguf_locked(path: Path) -> None:
    gguf_cases.write(path / "adapter.gguf", gguf_cases.packed())
    (path / "adapter.gguf").chmod(0)


@case("source_not_found", "cannot read", opens="locked", at="a.onnx_adapter")
def ort_locked(path: Path) -> None:
    ort_cases.write(path / "a.onnx_adapter", ort_cases.good())
    (path / "a.onnx_adapter").chmod(0)


@case("source_not_found", "adapter_config.json", opens="locked")
def config_locked(path: Path) -> None:
    folder(path)
    (path / "adapter_config.json").chmod(0)


@case("source_not_found", "adapter_model.safetensors", opens="locked")
def weights_locked(path: Path) -> None:
    folder(path)
    (path / "adapter_model.safetensors").chmod(0)


@case("source_not_found", "Permission denied", opens="locked")
def folder_locked(path: Path) -> None:
    folder(path)
    path.chmod(0)


@case("source_not_found", "Permission denied", opens="locked", at="inner")
def outer_folder_locked(path: Path) -> None:
    folder(path / "inner")
    path.chmod(0)


@case("format_invalid", "not a regular file")
def config_a_pipe(path: Path) -> None:
    folder(path)
    (path / "adapter_config.json").unlink()
    os.mkfifo(path / "adapter_config.json")


@case("format_invalid", "not a regular file")
def weights_a_pipe(path: Path) -> None:
    folder(path)
    (path / "adapter_model.safetensors").unlink()
    os.mkfifo(path / "adapter_model.safetensors")


@case("format_invalid", "not a regular file")
def weights_a_socket(path: Path) -> None:
    folder(path)
    (path / "adapter_model.safetensors").unlink()
    _socket(path / "adapter_model.safetensors")


@case("format_invalid", "link")
def weights_a_device(path: Path) -> None:
    folder(path)
    (path / "adapter_model.safetensors").unlink()
    (path / "adapter_model.safetensors").symlink_to("/dev/zero")


@case("format_invalid", "link")
def loop_of_two(path: Path) -> None:
    folder(path)
    (path / "adapter_config.json").unlink()
    (path / "adapter_config.json").symlink_to("b")
    (path / "b").symlink_to("adapter_config.json")


@case("format_invalid", "adapter_model.safetensors")
def terabyte_of_holes(path: Path) -> None:
    folder(path)
    sparse(path / "adapter_model.safetensors", 1 << 40)


@case("format_unsupported", "named adapters")
def many_folders(path: Path) -> None:
    for index in range(200):
        (path / f"\x1b[31m{index}").mkdir(parents=True)
        (path / f"\x1b[31m{index}" / "adapter_config.json").touch()
