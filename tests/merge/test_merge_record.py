"""What a merged folder says of itself, and what unmerge and verify make of it."""

import json
import shutil

import numpy as np
import pytest

from folders import DATA
from lorakit import demo
from lorakit.adapter import at_scale
from lorakit.base.folder import Base
from lorakit.errors import MismatchError
from lorakit.formats import read_adapter
from lorakit.formats.mlx import write_mlx
from lorakit.merge import merge, unmerge
from lorakit.merge.record import differences, read_record

HOME, STYLE = (read_adapter(demo.adapter_path(name)) for name in ("home", "style"))
QWEN = DATA / "families/qwen3"


@pytest.fixture(scope="module")
def base():
    return Base.open(demo.base_path())


@pytest.fixture
def merged(base, tmp_path):
    merge(base, [(HOME, 0.7), (STYLE, 0.3)], tmp_path / "merged")
    return Base.open(tmp_path / "merged")


def said(folder):
    return json.loads((folder / "lorakit.json").read_text())


def test_a_merge_names_its_adapters_and_its_base(base, merged):
    record = said(merged.path)
    assert record["format"] == "lorakit-merge"
    assert record["base"] == base.fingerprint
    assert record["adapters"] == [
        {"digest": HOME.digest, "scale": 0.7},
        {"digest": STYLE.digest, "scale": 0.3},
    ]
    assert str(base.path.parent) not in (merged.path / "lorakit.json").read_text()


@pytest.mark.parametrize(
    "wrong",
    [
        [(HOME, 0.6), (STYLE, 0.3)],
        [(STYLE, 0.7)],
        [(at_scale(HOME, 1.0), 0.7)],
    ],
)
def test_others_are_refused_and_taken_by_force(merged, tmp_path, wrong):
    with pytest.raises(MismatchError, match="merged with other adapters") as caught:
        unmerge(merged, wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert HOME.digest[:12] in (caught.value.hint or "")
    unmerge(merged, wrong, tmp_path / "out", force=True)


def test_without_a_record_nothing_says_that_they_are_in(merged, tmp_path):
    for content, why in ((None, "it has no lorakit.json"), ("{", "its lorakit.json is damaged")):
        (merged.path / "lorakit.json").unlink(missing_ok=True)
        if content is not None:
            (merged.path / "lorakit.json").write_text(content)
        assert read_record(merged.path) is None
        with pytest.raises(MismatchError, match=f"nothing says .*{why}"):
            unmerge(Base.open(merged.path), [(HOME, 0.7)], tmp_path / "out")
        assert not (tmp_path / "out").exists()
    unmerge(Base.open(merged.path), [(HOME, 0.7)], tmp_path / "out", force=True)


def test_all_taken_out_leaves_no_record_and_some_taken_out_that_of_the_rest(merged, tmp_path):
    report = unmerge(merged, [(STYLE, 0.3), (HOME, 0.7)], tmp_path / "all")
    assert report.notes == ()
    assert not (tmp_path / "all/lorakit.json").exists()
    unmerge(merged, [(STYLE, 0.3)], tmp_path / "some")
    assert said(tmp_path / "some")["adapters"] == [{"digest": HOME.digest, "scale": 0.7}]
    unmerge(Base.open(tmp_path / "some"), [(HOME, 0.7)], tmp_path / "rest")
    assert not (tmp_path / "rest/lorakit.json").exists()


def test_a_merge_into_a_merge_keeps_the_first_record(base, tmp_path):
    merge(base, [(HOME, 1.0)], tmp_path / "one")
    report = merge(Base.open(tmp_path / "one"), [(STYLE, 0.5)], tmp_path / "two")
    assert "lorakit.json" not in report.left
    first = said(tmp_path / "one")
    assert said(tmp_path / "two")["before"] == first
    unmerge(Base.open(tmp_path / "two"), [(STYLE, 0.5)], tmp_path / "back")
    assert said(tmp_path / "back") == first


def test_the_same_adapter_in_another_format_is_the_same(base, merged, tmp_path):
    write_mlx(HOME, tmp_path / "mlx")
    other = read_adapter(tmp_path / "mlx", base.decoder)
    unmerge(merged, [(other, 0.7), (STYLE, 0.3)], tmp_path / "out")


def test_verify_is_told_where_the_record_disagrees(base, merged):
    record = read_record(merged.path)
    assert differences(record, base, [(HOME, 0.7), (STYLE, 0.3)]) == []
    (one,) = differences(record, base, [(HOME, 0.7), (STYLE, 0.4)])
    assert "in at 0.3" in one
    assert "another base" in differences(record, merged, [(HOME, 0.7), (STYLE, 0.3)])[0]
    assert differences(None, base, [(HOME, 1.0)]) == []


def test_rope_theta_is_written_beside_rope_parameters(tmp_path):
    shutil.copytree(QWEN, tmp_path / "base")
    path = tmp_path / "base/config.json"
    config = json.loads(path.read_text())
    theta = config.pop("rope_theta", None) or config["rope_parameters"]["rope_theta"]
    config["rope_parameters"] = {"rope_theta": theta, "rope_type": "default"}
    config.pop("rope_scaling", None)
    path.write_text(json.dumps(config))
    base = Base.open(tmp_path / "base")
    merge(base, [], tmp_path / "out", dtype="f32")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written["rope_theta"] == theta
    assert written["rope_parameters"] == config["rope_parameters"]
    assert Base.open(tmp_path / "out").decoder == base.decoder


def test_what_has_rope_theta_keeps_the_bytes_of_its_config(tmp_path):
    base = Base.open(demo.base_path())
    merge(base, [(HOME, 1.0)], tmp_path / "out")
    before = (demo.base_path() / "config.json").read_bytes()
    kept = "rope_theta" in base.config or "rope_parameters" not in base.config
    assert ((tmp_path / "out/config.json").read_bytes() == before) == kept
    np.testing.assert_equal(Base.open(tmp_path / "out").decoder, base.decoder)
