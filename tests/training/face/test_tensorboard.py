"""Event files, against the bytes that TensorBoard's own writer makes of the same events."""

import struct

import pytest

from lorakit.errors import WriteError
from lorakit.training import tensorboard
from lorakit.training.events import Started, Stepped
from lorakit.training.tensorboard import TensorBoardLog, crc32c, record, scalar_event

# RecordWriter of tensorboard 2.21 with two Events at wall time 1234.5: the version, then step 300
# with train/loss 0.25 and eval/exact_match 0.96.
THEIRS = bytes.fromhex(
    "1800000000000000a37f4b220900000000004a93401a0d627261696e2e4576656e743a3265b8d3fb"
    "3a000000000000001295eae20900000000004a934010ac022a2c0a110a0a747261696e2f6c6f73731"
    "50000803e0a170a106576616c2f65786163745f6d61746368158fc2753fc466be9b"
)


STARTED = Started(settings=None, examples=40, tokens=900, learnt_tokens=300, replayed=0)


def test_the_bytes_are_those_of_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard.time, "time", lambda: 1234.5)
    log = TensorBoardLog(tmp_path / "runs")
    assert not list(tmp_path.iterdir())  # before the run starts
    log(STARTED)
    log._write(300, {"train/loss": 0.25, "eval/exact_match": 0.96})
    (file,) = (tmp_path / "runs").iterdir()
    assert file.read_bytes() == THEIRS
    assert file.name.startswith("events.out.tfevents.1234.")
    log._write(301, {"train/loss": 0.25})
    assert file.read_bytes() != THEIRS


def test_the_checksum_is_that_of_the_rfc():
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_a_step_has_its_loss_rate_and_speed(tmp_path):
    log = TensorBoardLog(tmp_path)
    log(Stepped(step=7, steps=9, loss=0.5, rate=0.25, learnt_tokens=3, tokens_per_second=8.0,
                seconds_left=None))  # fmt: skip
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    for tag, value in (("loss", 0.5), ("rate", 0.25), ("tokens_per_second", 8.0)):
        assert f"train/{tag}".encode() + b"\x15" + struct.pack("<f", value) in content


def test_a_damaged_record_would_be_seen():
    whole = scalar_event(1.0, 2, {"a": 3.0})
    assert record(whole[12:-4]) == whole
    assert record(whole[12:-5] + b"\0") != whole


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot write"):
        TensorBoardLog(tmp_path / "file" / "runs")(STARTED)
