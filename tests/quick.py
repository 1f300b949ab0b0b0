"""What `pytest --quick` leaves out: every extra, installed or not, and what takes long.

Of a test of many parameters, and of a property that names no number of examples, it runs a few.
"""

import os
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import settings

LLAMA = ("llama_cpp", "xllamacpp", "llama_cpp_py_sync")  # and no library that is named
EXTRAS = ("torch", "transformers", "peft", *LLAMA, "mlx", "mlx_lm", "gguf", "PIL")
EXAMPLES = 10
PARAMETERS = 3
SLOW = {  # processes, long searches, whole tables: folders, files and tests below this folder
    "algebra/test_resize.py",
    "algebra/test_rounding.py",
    "chat/constraints/test_walking.py::test_random_tokens_give_values_that_fit",
    "chat/formats/test_every_format.py::test_parsing_takes_linear_time",
    "chat/formats/test_functiongemma.py::test_parsing_takes_linear_time",
    "chat/formats/test_hermes.py::test_parsing_takes_linear_time",
    "chat/formats/test_hermes.py::test_quadratic_work_would_be_found",
    "chat/test_control_tokens.py::test_only_the_templates_own_are_control_tokens",
    "chat/test_reading.py::test_also_one_character_at_a_time",
    "chat/test_reading.py::test_events_joined_are_the_whole_parse",
    "chat/test_reading.py::test_time_is_linear",
    "chat/test_sandbox.py",
    "chat/test_sandbox_costs.py",
    "chat/test_sandbox_values.py",
    "chat/test_scanning.py::test_every_beginning_of_a_tag_may_become_one",
    "chat/test_schema.py::test_a_schema_that_multiplies_ends",
    "cli/test_chatting.py::test_a_full_context_is_said",
    "cli/test_cli.py",
    "cli/test_cli_adapter_files.py",
    "cli/test_cli_algebra.py",
    "cli/test_cli_convert.py",
    "cli/test_cli_demo_train.py",
    "cli/test_cli_effect.py",
    "cli/test_cli_eval.py",
    "cli/test_cli_gguf.py",
    "cli/test_cli_hints.py",
    "cli/test_cli_hostile.py",
    "cli/test_cli_newcomer.py",
    "cli/test_cli_push.py",
    "cli/test_cli_scales.py",
    "cli/test_cli_sources.py",
    "cli/test_cli_terminal.py",
    "cli/test_cli_train.py",
    "cli/test_cli_values.py",
    "cli/test_cli_verify.py",
    "effect/test_sweep.py",
    "engines/onnx/test_exported_engine.py",
    "engines/onnx/test_onnx_cache.py",
    "engines/onnx/test_onnx_calibration.py",
    "engines/onnx/test_onnx_kinds.py",
    "engines/onnx/test_onnx_repeats.py",
    "engines/onnx/test_packed.py::test_a_row_never_depends_on_its_mates",
    "engines/onnx/test_packed.py::test_random_batches_equal_rows_in_runs_of_their_own",
    "engines/test_llama_quantize_types.py::test_without_any_fallback_they_are_others",
    "exporting/test_export.py",
    "exporting/test_gguf_sampling.py",
    "exporting/test_gguf_write_memory.py",
    "exporting/test_grown_export.py",
    "exporting/test_onnx_adapter_runs.py",
    "exporting/test_proof.py",
    "exporting/test_published.py",
    "exporting/test_push.py",
    "exporting/test_settling.py",
    "exporting/test_targets.py",
    "formats/test_mlx.py::test_written_is_read_as_the_same",
    "formats/test_ort_inputs.py",
    "formats/test_patterns.py::test_it_matches_what_re_matches",
    "formats/test_peft.py::test_reading_what_was_written_gives_it_back",
    "graph/test_web.py::test_every_family_in_every_form",
    "hostile",
    "inspect/test_plot.py::test_nothing_is_clipped_or_upon_another",
    "interleaving",
    "merge/test_merge_failures.py",
    "merge/test_merge_gguf.py::test_quantised_tensors_become_their_values",
    "model/test_conversation.py::test_every_changed_character_is_seen",
    "model/test_fitting.py",
    "model/test_model.py::test_interleaved_prompts_and_adapters_equal_cold_runs",
    "model/test_open_exported.py",
    "remote/test_fallback.py",
    "remote/test_hostile_server.py",
    "remote/test_remote_places.py::test_in_a_forked_child_it_is_closed_and_the_parent_goes_on",
    "remote/test_remote_terminal.py",
    "runtime/test_conformance.py",
    "runtime/test_fast_path.py::test_sampled_text_with_lookup_follows_the_distribution",
    "runtime/test_faults.py",
    "runtime/test_memory_back.py",
    "runtime/test_sampling.py::test_draws_follow_the_distribution",
    "sources/test_folder.py::test_processes_share_a_cache",
    "sources/test_hub.py::test_a_request_that_nobody_asked_for_would_be_seen",
    "sources/test_hub.py::test_an_export_comes_with_its_graphs",
    "sources/test_hub.py::test_nothing_is_asked_for_but_the_listing_and_the_files",
    "sources/test_upload.py",
    "test_architectures.py::test_no_config_does_worse_than_be_refused",
    "test_children.py",
    "test_collecting.py",
    "test_demo_site.py",
    "test_demo_story.py",
    "test_distribution.py",
    "test_docs.py",
    "test_files_opened.py::test_an_archive_that_unpacks_to_much_more_is_refused_before_it_is",
    "test_files_opened.py::test_no_reader_waits_for_a_pipe_or_reads_a_huge_file",
    "test_fork.py",
    "test_import.py::test_generating_opens_no_socket",
    "test_services.py",
    "test_skips.py",
    "test_truth_matrix.py",
    "test_values.py::test_a_batch_waits_for_room_no_longer_than_its_deadline",
    "training/data/test_data_augment.py",
    "training/data/test_data_hostile.py",
    "training/evaluate/test_comparing.py",
    "training/evaluate/test_evaluate.py",
    "training/evaluate/test_evaluation.py::test_it_needs_no_torch",
    "training/evaluate/test_page.py::test_it_needs_nothing_else",
    "training/loop/test_batches.py",
    "training/loop/test_interrupted.py",
    "training/loop/test_place.py::test_another_process_has_it_until_it_ends_however_it_does",
    "training/loop/test_render.py",
    "typing",  # `make check` runs mypy anyway
    "verify/test_answers.py",
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
        self._slow = {Path(__file__).parent / path for path in SLOW}

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        return True if collection_path in self._slow else None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        tests = defaultdict(list)
        for item in items:
            tests[item.nodeid.partition("[")[0].removeprefix("tests/")].append(item)
        kept = {
            item
            for name, runs in tests.items()
            if name not in SLOW
            for item in runs[:: -(-len(runs) // PARAMETERS)]
        }
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]
