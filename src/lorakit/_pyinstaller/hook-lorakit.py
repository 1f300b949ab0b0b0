"""For PyInstaller: what `import lorakit` reaches, which it cannot see, since it is loaded on use.

The demo's base and adapters come along, and a library of llama.cpp where one is installed. torch
comes along only if the program itself imports it.
"""

from importlib.util import find_spec

from PyInstaller.utils.hooks import (
    collect_data_files,
    collect_dynamic_libs,
    collect_submodules,
    copy_metadata,
    is_module_satisfies,
)

LLAMA = ("xllamacpp", "llama_cpp_py_sync", "llama_cpp")  # their libraries are used, not their code
HUB = ("hf_api", "file_download", "utils.tqdm", "errors", "constants")  # it loads them on use too

datas = collect_data_files("lorakit", excludes=["_pyinstaller"])
hiddenimports = collect_submodules("lorakit", lambda name: "_pyinstaller" not in name)
hiddenimports += [f"huggingface_hub.{name}" for name in HUB]
binaries = []
for module in LLAMA:
    if find_spec(module):
        hiddenimports.append(module)
        binaries += collect_dynamic_libs(module)
for package in ("lorakit", "onnxruntime", "huggingface_hub", "xllamacpp"):  # doctor shows versions
    if is_module_satisfies(package):
        datas += copy_metadata(package)
excludedimports = ["torch", "transformers", "peft"]
