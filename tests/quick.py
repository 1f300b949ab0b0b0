"""What `pytest --quick` leaves out: every extra, installed or not, and what takes long."""

import os
import sys
from pathlib import Path

LLAMA = ("llama_cpp", "xllamacpp", "llama_cpp_py_sync")  # and no library that is named
EXTRAS = ("torch", "transformers", "peft", *LLAMA, "mlx", "mlx_lm", "gguf", "PIL")
SLOW = {  # processes, long searches, whole tables; folders and files below this one
    "algebra",
    "chat/test_sandbox.py",
    "chat/test_sandbox_costs.py",
    "cli",
    "hostile",
    "interleaving",
    "runtime/test_faults.py",
    "test_collecting.py",
    "test_docs.py",
    "test_services.py",
    "test_fork.py",
    "test_skips.py",
    "test_truth_matrix.py",
    "training/data/test_data_hostile.py",
    "training/evaluate/test_comparing.py",  # test_page.py runs a model too
    "training/evaluate/test_evaluate.py",
    "verify/test_verdict.py",
    "web",
}


class Quick:
    """A plugin of one run."""

    def __init__(self) -> None:
        sys.modules.update(dict.fromkeys(EXTRAS))  # importing one of them fails
        os.environ.pop("LORAKIT_LLAMA_LIB", None)
        self._slow = {Path(__file__).parent / path for path in SLOW}

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        return True if collection_path in self._slow else None
