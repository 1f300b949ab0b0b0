"""Safetensors files: mapped when read, the library's equal when written, refused when broken."""

import io
import json
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save_file

from lorakit.errors import FormatError, SourceError
from lorakit.files.safetensors import DTYPES, open_safetensors, write_safetensors

SAMPLE = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, -2], ml_dtypes.bfloat16),
    "c": np.array(7, np.int64),
    "d": np.zeros((0, 4), np.float16),
    "é": np.array([True, False, True]),
}


def written(tensors, metadata=None):
    file = io.BytesIO()
    write_safetensors(file, tensors, metadata or {})
    return file.getvalue()


def same(left, right):
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.dtype == right[name].dtype
        assert array.shape == right[name].shape
        assert array.tobytes() == right[name].tobytes()


def test_the_library_reads_what_we_write_and_we_read_what_it_writes(tmp_path):
    plain = {name: array for name, array in SAMPLE.items() if name != "b"}  # no bfloat16 there
    same(load(written(plain, {"format": "pt"})), plain)
    save_file(SAMPLE, tmp_path / "theirs.safetensors", metadata={"x": "y"})
    theirs = open_safetensors(tmp_path / "theirs.safetensors")
    same(dict(theirs.tensors), SAMPLE)
    assert theirs.metadata == {"x": "y"}


def test_equal_arguments_give_equal_bytes():
    backwards = dict(reversed(SAMPLE.items()))
    metadata = {"b": "1", "a": "2"}
    assert written(SAMPLE, metadata) == written(backwards, dict(reversed(metadata.items())))


def test_views_and_other_orders_are_written_as_they_look():
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    views = {"transposed": array.T, "step": array[::2, 1:], "fortran": np.asfortranarray(array)}
    same(load(written(views)), {name: np.ascontiguousarray(v) for name, v in views.items()})


def test_tensors_are_mapped_and_read_only(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(written(SAMPLE))
    array = open_safetensors(tmp_path / "a.safetensors").tensors["a"]
    assert not array.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=6).filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.sampled_from(sorted(DTYPES)),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        max_size=5,
    )
)
def test_any_dtype_and_shape_comes_back(tmp_path_factory, layout):
    tensors = {
        name: np.zeros(int(np.prod(shape)) * DTYPES[kind].itemsize, np.uint8)
        .view(DTYPES[kind])
        .reshape(shape)
        for name, (kind, shape) in layout.items()
    }
    path = tmp_path_factory.mktemp("t") / "a.safetensors"
    path.write_bytes(written(tensors))
    same(dict(open_safetensors(path).tensors), tensors)


def test_unaligned_data_is_read(tmp_path):
    text = json.dumps(
        {
            "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
        }
    ).encode()
    data = b"\x05" + np.array([1, 2], "<f4").tobytes()
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(text)) + text + data)
    assert open_safetensors(tmp_path / "a").tensors["b"].tolist() == [1, 2]


def test_a_dtype_that_the_format_lacks_is_refused():
    with pytest.raises(FormatError, match="complex64"):
        written({"a": np.ones(2, np.complex64)})


@pytest.mark.parametrize("cut", [0, 4, 8, 20, -1])
def test_a_file_cut_short_is_refused_by_name(tmp_path, cut):
    path = tmp_path / "a.safetensors"
    path.write_bytes(written(SAMPLE)[:cut])
    with pytest.raises(FormatError, match=r"a\.safetensors"):
        open_safetensors(path)


def test_a_file_above_the_callers_limit_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(written(SAMPLE))
    with pytest.raises(FormatError, match="limit"):
        open_safetensors(path, max_size=16)


def test_no_file_and_a_folder_are_no_source(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(SourceError):
            open_safetensors(path)


_ONE = b'"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}'


@pytest.mark.parametrize(
    "header",
    [
        b"\xef\xbb\xbf{" + _ONE + b"}",
        b'{"__metadata__": [], ' + _ONE + b"}",
        b'{"__metadata__": false, ' + _ONE + b"}",
        b'{"__metadata__": "", ' + _ONE + b"}",
        b'{"__metadata__": {"x": "\\ud800"}, ' + _ONE + b"}",
        b"{" + _ONE.replace(b'"a"', b'"\\ud800"') + b"}",
    ],
)
def test_a_header_that_the_library_refuses_is_refused(tmp_path, header):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(SafetensorError), safe_open(path, "numpy"):
        pass
    with pytest.raises(FormatError):
        open_safetensors(path)
