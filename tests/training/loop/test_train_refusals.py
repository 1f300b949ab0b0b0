"""What goes wrong in training: said clearly, before anything is trained where that can be, and with
nothing lost."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from train_cases import (
    BASE,
    FORTY,
    SHORT,
    few_requests_and_plain_numbers,  # noqa: F401
    of,
    run,
    train,
    weights,
)

import lorakit
from lorakit import demo
from lorakit.adapter import Adapter, Delta
from lorakit.engines.torch import loading
from lorakit.errors import (
    BaseModelError,
    CapabilityError,
    EngineError,
    FormatError,
    MismatchError,
    MissingExtraError,
    ParameterError,
    SourceError,
    WriteError,
)
from lorakit.training import loop
from lorakit.training import run as runs
from lorakit.training.core import model
from lorakit.training.core.numerics import Numerics
from lorakit.training.data import Example
from lorakit.training.evaluate import Evaluation
from lorakit.training.events import Evaluated, Started, Stepped, Warned
from lorakit.training.measure import Measurer

PAIRS = [Example(task="completion", place=f"p:{i}", prompt="It is ", text=f"{i}") for i in range(4)]


def left(folder):
    return sorted(file.name for file in folder.iterdir())


def test_data_that_is_none(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    for data, error in (
        (empty, FormatError),
        ([], FormatError),
        (tmp_path / "nowhere.jsonl", SourceError),
    ):
        with pytest.raises(error):
            run(tmp_path / "a", data=data)
    assert left(tmp_path) == ["empty.jsonl"]


def test_one_example_trains_and_is_warned_of(tmp_path):
    events = []
    result = run(tmp_path / "a", data=FORTY[:1], events=events)
    assert result.measured["after"] is None
    warned = " ".join(event.text for event in of(Warned, events))
    assert "one example is very few" in warned
    assert "nothing is held out" in warned


def test_every_example_that_cannot_be_rendered_is_named(tmp_path):
    long = [
        Example(task="completion", place=f"long:{i}", prompt="so ", text="word " * 2000)
        for i in range(2)
    ]
    with pytest.raises(FormatError, match="2 examples cannot be learnt") as caught:
        run(tmp_path / "a", data=[*PAIRS, *long])
    assert [item.split(":")[0] for item in caught.value.items] == ["long", "long"]
    assert "1024" in caught.value.items[0]


def test_words_beside_a_call_that_the_template_leaves_out_are_told(tmp_path):
    silent = Path(shutil.copytree(BASE, tmp_path / "silent"))
    template = silent / "chat_template.jinja"
    said, unsaid = "text(message.content) -}}", "'' if message.tool_calls else "
    source = template.read_text("utf-8")
    template.write_text(source.replace(f"{{{{- {said}", f"{{{{- {unsaid}{said}"), "utf-8")
    *asked, answer = FORTY[0].messages
    worded = replace(FORTY[0], messages=(*asked, {**answer, "content": "At once."}))
    for base, lost in ((silent, True), (BASE, False)):
        events = []
        run(tmp_path / f"{lost}", base=base, data=[worded, *FORTY[1:]], events=events, steps=1)
        warned = " ".join(event.text for event in of(Warned, events))
        assert ("1 example has words beside a call" in warned) == lost


def test_tools_are_for_examples_too(tmp_path):
    """Those that declare none get them, and their calls are checked as a file's are."""
    bare = [replace(each, tools=(), task="chat") for each in FORTY]
    tools = demo.folder() / "training" / "tools.json"
    plain, told = run(tmp_path / "a", steps=1), []
    result = run(tmp_path / "b", data=bare, tools=tools, steps=1, events=told)
    assert weights(result) == weights(plain)
    assert of(Started, told)[0].varied == len(FORTY)
    assert weights(run(tmp_path / "c", data=bare, steps=1)) != weights(plain)
    other = tmp_path / "tools.json"
    other.write_text('[{"name": "sing"}]')
    with pytest.raises(FormatError, match="40 lines of the data cannot be used") as caught:
        run(tmp_path / "d", data=bare, tools=other)
    assert "forty.jsonl:1" in caught.value.items[0]


def test_bases_that_cannot_be_trained(tmp_path):
    with pytest.raises(SourceError):
        run(tmp_path / "a", base=tmp_path / "nowhere")
    bare = tmp_path / "bare"
    shutil.copytree(BASE, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(BaseModelError, match="no chat template") as caught:
        run(tmp_path / "a", base=bare)
    assert caught.value.code == "template_missing"
    assert "completion" in caught.value.hint
    assert run(tmp_path / "a", base=bare, data=PAIRS).steps == 3


def test_an_adapter_of_another_base(tmp_path):
    delta = Delta(
        module="model.layers.0.self_attn.q_proj",
        a=np.zeros((2, 64), np.float32),
        b=np.zeros((64, 2), np.float32),
        scale=1.0,
    )
    for role in ("start", "companion"):
        with pytest.raises(MismatchError, match="does not fit"):
            run(tmp_path / "a", **{role: Adapter(deltas=(delta,))})
    assert left(tmp_path) == []


def test_without_the_extra_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError) as caught:
        run(tmp_path / "a")
    assert caught.value.hint == "pip install 'lorakit[train]'"


def test_a_place_that_is_taken(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("")
    for overwrite in (False, True):
        with pytest.raises(ParameterError):
            run(tmp_path / "a", overwrite=overwrite)
    first = weights(run(tmp_path / "b"))
    with pytest.raises(ParameterError, match="not empty"):
        run(tmp_path / "b")
    assert weights(run(tmp_path / "b", overwrite=True, seed=1)) != first


@pytest.mark.parametrize(
    "given",
    [
        {"data": None},
        {"data": 5},
        {"data": [None]},
        {"data": [{"messages": []}]},
        {"eval": 5},
        {"replay": b"x"},
        {"companion": 5},
        {"progress": 5},
        {"base_model": 5},
        {"overwrite": "x"},
        {"overwrite": 1},
        {"overwrite": None},
        {"resume": "no"},
        {"offline": 1},
        {"allow_private": "yes"},
        {"declare": "yes"},
        {"rank": True},
        {"seed": 1.5},
        {"augment": 1},
        {"device": "gpu"},
    ],
    ids=str,
)
def test_what_is_of_another_type_is_refused_by_name(tmp_path, given):
    with pytest.raises(ParameterError):
        train(BASE, **{"data": FORTY, "output": tmp_path / "a", **SHORT, **given})
    assert left(tmp_path) == []


def test_a_place_that_the_disk_refuses(tmp_path):
    with pytest.raises(WriteError, match="too long"):
        run(tmp_path / ("a" * 300))


def nothing_long(monkeypatch):
    """What is long must not begin."""

    def begin(*arguments, **options):
        raise AssertionError("something long has begun")

    for name in ("fetch", "read_inputs", "Measurer"):
        monkeypatch.setattr(runs, name, begin)


def test_what_cannot_end_well_does_not_begin(tmp_path, monkeypatch):
    nothing_long(monkeypatch)
    with pytest.raises(AssertionError, match="has begun"):  # the seam works
        run(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot write"):
        run(tmp_path / "file" / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(ParameterError, match="not empty"):
        run(tmp_path / "full")
    monkeypatch.setitem(loading.DEVICES, "cuda", lambda: False)
    with pytest.raises(CapabilityError, match="finds no cuda device"):
        run(tmp_path / "a", device="cuda")
    assert left(tmp_path) == ["file", "full"]


def test_a_run_that_does_not_begin_leaves_no_folders(tmp_path):
    with pytest.raises(SourceError):
        run(tmp_path / "deep" / "deeper" / "a", data=tmp_path / "nowhere.jsonl")
    assert left(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="few may make links on Windows")
@pytest.mark.parametrize("there", [True, False])
def test_a_link_leads_to_where_the_adapter_is_written(tmp_path, there):
    if there:
        (tmp_path / "far").mkdir()
    (tmp_path / "a").symlink_to("far")
    result = run(tmp_path / "a")
    assert result.path == tmp_path / "far"
    assert (tmp_path / "a").is_symlink()
    assert left(tmp_path) == ["a", "far"]


def test_keep_and_replay_without_replay(tmp_path):
    keep = tmp_path / "keep.txt"
    keep.write_text("hello")
    with pytest.raises(ParameterError, match="replay_share"):
        run(tmp_path / "a", keep=keep)
    keep.write_text('{"messages": []}\n{"role": "user"}\n')
    with pytest.raises(FormatError, match="no requests") as caught:
        run(tmp_path / "a", keep=keep, replay_share=0.3)
    assert len(caught.value.items) == 2


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_state(tmp_path):
    with pytest.raises(EngineError, match="no number any more") as caught:
        run(tmp_path / "a", rate=1e30, warmup=0)
    assert "a rate below 1e+30" in caught.value.hint
    with pytest.raises(ParameterError, match="of another run") as other:
        run(tmp_path / "a")
    assert [item.split(":")[0] for item in other.value.items] == ["schedule.rate"]
    for hint in (caught.value.hint, other.value.hint):
        assert "resume=False" in hint
    assert run(tmp_path / "a", resume=False).stopped == "done"


def test_the_best_state_outlives_a_loss_that_is_no_number(tmp_path, monkeypatch):
    """The rate leaps in step 3, after the second measurement; the third cannot be made."""
    monkeypatch.setattr(loop, "rate_at", lambda step, schedule: 1e30 if step == 2 else 1e-3)
    for every in (1, 2):
        events = []
        result = run(tmp_path / f"{every}", steps=9, holdout=1, evaluate_every=every, events=events)
        assert result.stopped == "diverged"
        assert [event.step for event in of(Evaluated, events)] == ([1, 2] if every == 1 else [2])
        assert "by step 2 is kept" in of(Warned, events)[-1].text
        assert lorakit.read_adapter(result.path).digest == result.adapter.digest
        assert max(abs(a).max() for _, a in result.adapter.arrays()) < 1


def test_without_measurements_the_state_before_the_last_step_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "rate_at", lambda step, schedule: 1e30 if step == 2 else 1e-3)
    result = run(tmp_path / "a", steps=9)
    assert (result.stopped, result.steps, len(result.losses)) == ("diverged", 2, 2)
    monkeypatch.undo()
    monkeypatch.setattr(loop, "rate_at", lambda step, schedule: 1e-3)
    monkeypatch.setattr(model, "choose", lambda *arguments: Numerics(dtype="float32"))
    assert weights(run(tmp_path / "b", steps=2)) == weights(result)
    more = run(tmp_path / "c", steps=9, start=result.path, rate=1e-4, augment=False)
    assert more.stopped == "done"
    assert more.losses[0] < result.losses[0]


def test_a_program_that_stops_listening_goes_on_later(tmp_path):
    reference = run(tmp_path / "a", steps=5)

    class BoredError(Exception):
        pass

    class Events(list):
        def append(self, event):
            if isinstance(event, Stepped) and event.step == 3:
                raise BoredError

    with pytest.raises(BoredError):
        run(tmp_path / "b", steps=5, events=Events())
    with pytest.raises(ParameterError, match="of another run"):
        run(tmp_path / "b", steps=6)
    events = []
    assert weights(run(tmp_path / "b", steps=5, events=events, resume=True)) == weights(reference)
    assert of(Started, events)[0].step == 3
    with pytest.raises(ParameterError, match="no checkpoint to go on from"):
        run(tmp_path / "c", resume=True)


def test_a_run_may_begin_anew(tmp_path):
    (tmp_path / "b.checkpoint").write_bytes(b"damaged")
    with pytest.raises(FormatError):
        run(tmp_path / "b")
    assert run(tmp_path / "b", resume=False).steps == 3


def test_the_best_state_is_kept_and_patience_ends(tmp_path, monkeypatch):
    """Whatever the figures are: the adapter is that of the best of them."""
    goals = iter([0.1, 0.9, 0.3, 0.2, 0.1])
    digests = []

    def evaluate(self, examples, adapter, **options):
        if adapter is not None:
            digests.append(adapter.digest)
        return Made(outcomes=(), made=next(goals, 0.0))

    monkeypatch.setattr(Measurer, "evaluate", evaluate)
    events = []
    result = run(tmp_path / "a", steps=9, holdout=3, evaluate_every=1, patience=2, events=events)
    assert (result.stopped, result.steps) == ("early", 4)
    assert [event.best for event in of(Evaluated, events)] == [True, True, False, False]
    assert result.adapter.digest == digests[1] != digests[3]


class Made(Evaluation):
    """An evaluation with a goal that was made up."""

    def __init__(self, outcomes, made):
        super().__init__(outcomes=outcomes)
        object.__setattr__(self, "made", made)

    @property
    def goal(self):
        return self.made


def test_the_base_itself_is_never_touched(tmp_path):
    before = lorakit.Base.open(BASE).fingerprint
    run(tmp_path / "a", pissa=True)
    assert lorakit.Base.open(BASE).fingerprint == before
