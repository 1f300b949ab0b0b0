"""What `pytest --quick` leaves out: every extra, installed or not, and what takes long."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

HERE = Path(__file__).parent
LLAMA = ("llama_cpp", "xllamacpp", "llama_cpp_py_sync")  # and no library that is named
EXTRAS = ("torch", "transformers", "peft", *LLAMA, "mlx", "mlx_lm", "gguf", "PIL")
EXAMPLES = 10  # of a property that names no number of its own
SLOW = {  # processes, long searches, whole tables: folders, files and tests below this folder
    "algebra",
    "chat/test_functiongemma.py::test_parsing_takes_linear_time",
    "chat/test_hermes.py::test_parsing_takes_linear_time",
    "chat/test_hermes.py::test_quadratic_work_would_be_found",
    "chat/test_reading.py::test_events_joined_are_the_whole_parse",
    "chat/test_sandbox.py",
    "chat/test_sandbox_costs.py",
    "chat/test_sandbox_values.py",
    "chat/test_scanning.py::test_every_beginning_of_a_tag_may_become_one",
    "cli",
    "engines/onnx/test_exported_engine.py",
    "engines/onnx/test_onnx_cache.py",
    "engines/onnx/test_onnx_calibration.py",
    "engines/onnx/test_onnx_kinds.py",
    "engines/onnx/test_onnx_repeats.py",
    "exporting/test_export.py",
    "exporting/test_gguf_write_memory.py",
    "exporting/test_grown_export.py",
    "exporting/test_onnx_adapter_runs.py",
    "exporting/test_proof.py",
    "exporting/test_published.py",
    "exporting/test_push.py",
    "exporting/test_settling.py",
    "exporting/test_targets.py",
    "formats/test_ort_inputs.py",
    "formats/test_patterns.py::test_it_matches_what_re_matches",
    "formats/test_peft.py::test_reading_what_was_written_gives_it_back",
    "hostile",
    "interleaving",
    "remote/test_fallback.py",
    "remote/test_remote_terminal.py",
    "runtime/test_conformance.py",
    "runtime/test_faults.py",
    "sources/test_folder.py::test_processes_share_a_cache",
    "sources/test_hub.py::test_a_request_that_nobody_asked_for_would_be_seen",
    "sources/test_hub.py::test_nothing_is_asked_for_but_the_listing_and_the_files",
    "sources/test_upload.py",
    "test_children.py",
    "test_collecting.py",
    "test_demo_site.py",
    "test_demo_story.py",
    "test_distribution.py",
    "test_docs.py",
    "test_fork.py",
    "test_services.py",
    "test_skips.py",
    "test_truth_matrix.py",
    "training/data/test_data_augment.py",
    "training/data/test_data_hostile.py",
    "training/evaluate/test_comparing.py",
    "training/evaluate/test_evaluate.py",
    "training/loop",
    "typing",  # `make check` runs mypy anyway
    "verify/test_other.py",
    "verify/test_verdict.py",
    "web",
}


class Quick:
    """A plugin of one run."""

    def __init__(self) -> None:
        settings.register_profile("quick", max_examples=EXAMPLES)
        settings.load_profile("quick")
        sys.modules.update(dict.fromkeys(EXTRAS))  # importing one of them fails
        os.environ.pop("LORAKIT_LLAMA_LIB", None)
        self._slow = {HERE / path for path in SLOW if "::" not in path}

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        return True if collection_path in self._slow else None

    def pytest_pycollect_makeitem(self, collector: pytest.Collector, name: str) -> list | None:
        """Nothing is made of a test that is left out."""
        if not collector.path.is_relative_to(HERE):
            return None
        test = f"{collector.path.relative_to(HERE).as_posix()}::{name}"
        return [] if test in SLOW else None
