"""Repositories that folders are pushed to, what is said before, and what is sent."""

import hashlib
import json

import pytest
from publishing import push, refused, there

from fake_hub import TOKEN
from lorakit.errors import ParameterError, SourceError
from lorakit.exporting import push as push_module

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's


def test_an_export_is_published_whole_and_says_what_it_is(hub, out):
    plans = []
    result = push(out, planned=plans.append)
    files = there(hub)
    on_disk = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert set(files) == on_disk == set(result.added)
    assert hub.repositories["org/repo"].titles[1:] == ["Publish out with lorakit"]
    assert hub.repositories["org/repo"].private
    assert result.private
    assert result.url == f"{hub.url}/org/repo"
    assert result.commit == hub.repositories["org/repo"].branches["main"]
    assert plans[0].commit is None
    assert plans[0].nbytes == result.nbytes == sum(map(len, files.values()))
    record = json.loads(files["lorakit.json"])
    digests = {n: hashlib.sha256(body).hexdigest() for n, body in files.items()}
    assert record["files"] == {n: d for n, d in digests.items() if n != "lorakit.json"}
    for name in ("onnx/model_quantized.onnx", "onnx/model_quantized.onnx_data", "tokenizer.json"):
        assert files[name] == (out / name).read_bytes()


def test_what_is_published_can_be_pushed_again_from_where_it_was_fetched(hub, out, tmp_path):
    push(out)
    again = tmp_path / "again"
    for name, body in there(hub).items():
        (again / name).parent.mkdir(parents=True, exist_ok=True)
        (again / name).write_bytes(body)
    assert push(again, base_model=None).empty


# Repositories.


def test_nothing_is_sent_twice(hub, out):
    push(out)
    commits = len(hub.repositories["org/repo"].commits)
    again = push(out)
    assert again.empty
    assert again.nbytes == 0
    assert len(again.unchanged) == len(there(hub))
    assert len(hub.repositories["org/repo"].commits) == commits


def test_a_dry_run_writes_nothing(hub, out):
    result = push(out, dry_run=True)
    assert result.commit is None
    assert result.added
    assert set(hub.asked) <= {"info", "yaml"}
    assert "org/repo" not in hub.repositories


@pytest.mark.parametrize("delete", [False, True])
def test_what_is_there_and_not_in_the_folder(hub, out, delete):
    old = {"onnx/model.onnx": b"old", "LICENSE": b"mine", "README.md": b"old"}
    hub.put(files=old)
    result = push(out, delete=delete)
    others = ("LICENSE", "onnx/model.onnx")
    assert result.changed == ("README.md",)
    assert (result.removed, result.kept) == ((others, ()) if delete else ((), others))
    assert set(others) & set(there(hub)) == (set() if delete else set(others))
    assert any("onnx/model.onnx; delete=True" in each for each in result.notes) is not delete
    assert ".gitattributes" in hub.repositories["org/repo"].files()


def test_a_folder_of_a_repository_leaves_the_others_alone(hub, out):
    hub.put(files={"q4/model.gguf": b"q4", "q8/old.gguf": b"q8"})
    result = push(out, "hf:org/repo@v2/q8", delete=True)
    assert result.url == f"{hub.url}/org/repo/tree/v2/q8"
    assert result.removed == ("q8/old.gguf",)
    files = there(hub, branch="v2")
    assert "q4/model.gguf" in files
    assert "q8/lorakit.json" in files
    assert set(there(hub)) == {"q4/model.gguf", "q8/old.gguf"}  # main is as it was


@pytest.mark.parametrize(
    ("is_private", "wanted", "said"),
    [(False, True, "is public already"), (True, False, "is private already"), (True, True, "")],
)
def test_a_repository_stays_as_public_as_it_is(hub, out, is_private, wanted, said):
    hub.put(private=is_private)
    result = push(out, private=wanted)
    assert result.private is is_private
    assert hub.repositories["org/repo"].private is is_private
    assert [each for each in result.notes if "already" in each] == [
        each for each in result.notes if said and said in each
    ]
    assert any(said in each for each in result.notes) is bool(said)


def test_a_public_one(hub, out):
    assert not push(out, private=False).private
    assert not hub.repositories["org/repo"].private


def test_broken_off_and_pushed_again(hub, out, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.faults["blob"] = [None, 403]
    assert refused(SourceError, out).code == "source_unreachable"
    assert there(hub) == {}
    sent = list(hub.sent)
    result = push(out)
    assert len(sent) == 1
    assert hub.sent[0] == sent[0]
    assert len(hub.sent) == len(set(hub.sent)) == 2
    assert result.nbytes < sum(map(len, there(hub).values()))


def test_planned_can_end_it(hub, out):
    def no(plan):
        raise KeyError(plan.to)

    with pytest.raises(KeyError, match="hf:org/repo"):
        push(out, planned=no)
    assert hub.count("create") == 0


# Before anything long.


def test_no_token_is_said_before_a_file_is_read(hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    assert refused(SourceError, tmp_path).code == "source_denied"
    assert refused(ParameterError, tmp_path / "away").code == "parameter_invalid"


def test_no_right_is_said_before_a_file_is_read(hub, tmp_path):
    hub.faults["info"] = [(403, "no")]
    assert refused(SourceError, tmp_path).code == "source_denied"


def test_no_right_to_write_is_said_before_a_blob_is_sent(hub, out):
    hub.owners.remove("org")
    assert refused(SourceError, out).code == "source_denied"
    assert hub.sent == []


def test_offline(hub, out, monkeypatch):
    monkeypatch.setenv("LORAKIT_OFFLINE", "1")
    assert refused(SourceError, out).code == "offline"
    assert hub.asked == []


@pytest.mark.parametrize("name", push_module.WORDS)
def test_words_that_are_no_truth_values(hub, out, name):
    assert name in refused(ParameterError, out, **{name: 1}).message


@pytest.mark.parametrize("bad", [3, " "])
def test_a_message_is_a_text(hub, out, bad):
    assert "message" in refused(ParameterError, out, message=bad).message


def test_the_token_is_in_no_result(hub, out):
    result = push(out, message="mine")
    assert TOKEN not in repr(result) + json.dumps(result.to_dict())
    assert TOKEN.encode() not in b"".join(there(hub).values())
    assert hub.repositories["org/repo"].titles[-1] == "mine"
