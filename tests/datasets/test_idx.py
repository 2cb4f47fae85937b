"""IDX files: what is written is read, and whatever is wrong with a file is one line, before memory is spent on it."""

from __future__ import annotations

import doctest
import gzip
import hashlib
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handgrad.datasets import idx
from handgrad.datasets.idx import MAXIMUM_BYTES, content_sha256, idx_header, read_idx, write_idx
from handgrad.engine.checks import ConfigurationError, DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
CONTENT = idx_header((5, 4, 3)) + IMAGES.tobytes()
SAME_FOLDER = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def complaint(path, content=None, *, dimensions=3, **options):
    """Return the message of the DataError that reading must raise."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path, dimensions=dimensions, **options)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    assert caught.value.remedy
    return text


def peak_memory(work):
    """Return the result of `work` and the most bytes that it held at once."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["x", "x.gz"])
@pytest.mark.parametrize("dtype", idx.TYPE_CODES)
@pytest.mark.parametrize("shape", [(7,), (2, 3), (5, 4, 3)])
def test_what_is_written_is_read(tmp_path, name, dtype, shape):
    values = np.random.default_rng(0).normal(0, 50, shape).clip(0, 100).astype(dtype)
    write_idx(tmp_path / name, values)
    back = read_idx(tmp_path / name, dimensions=len(shape), dtype=dtype, shape=shape)
    assert back.dtype == dtype and back.dtype.isnative and back.flags.c_contiguous and back.flags.writeable
    np.testing.assert_array_equal(back, values)
    assert os.listdir(tmp_path) == [name]


def test_the_form_is_seen_from_the_content(tmp_path):
    (tmp_path / "a.gz").write_bytes(CONTENT)  # some browsers inflate and keep the name
    (tmp_path / "b").write_bytes(gzip.compress(CONTENT))
    for name in ("a.gz", "b"):
        np.testing.assert_array_equal(read_idx(tmp_path / name, dimensions=3), IMAGES)


def test_worked_examples():
    assert doctest.testmod(idx).failed == 0


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_every_truncation_is_noticed(tmp_path, pack):
    whole = pack(CONTENT)
    for length in range(len(whole)):
        complaint(tmp_path / "x", whole[:length])


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_bytes_after_the_data_are_noticed(tmp_path, pack):
    assert "bytes after the data" in complaint(tmp_path / "x", pack(CONTENT + b"\0"))


def test_a_second_stream_and_bytes_after_the_stream_are_noticed(tmp_path):
    packed = gzip.compress(CONTENT)
    assert "bytes after the data" in complaint(tmp_path / "x.gz", packed + gzip.compress(b"more"))
    assert "damaged" in complaint(tmp_path / "x.gz", packed + b"garbage")


def test_streams_in_a_row_are_one_content(tmp_path, monkeypatch):
    parts = [gzip.compress(part) for part in (CONTENT[:7], b"", CONTENT[7:])]
    path, right = tmp_path / "x.gz", hashlib.sha256(CONTENT).hexdigest()
    for size in (1, 7, 2**16):
        monkeypatch.setattr(idx, "PACKED", size)
        monkeypatch.setattr(idx, "PIECE", size)
        for zeros in (b"", bytes(9), bytes(70_000)):
            path.write_bytes(zeros.join([*parts, b""]))
            np.testing.assert_array_equal(read_idx(path, dimensions=3), IMAGES)
            assert content_sha256(path, len(CONTENT)) == right
            assert "damaged" in complaint(path, parts[0] + parts[2] + zeros + b"garbage")
            assert "bytes after the data" in complaint(path, gzip.compress(CONTENT) + zeros + parts[0])
            assert "damaged" in complaint(path, gzip.compress(CONTENT) + zeros + b"garbage")


def test_a_wrong_checksum_is_noticed(tmp_path):
    packed = bytearray(gzip.compress(CONTENT))
    packed[-8] ^= 1
    assert "CRC" in complaint(tmp_path / "x.gz", bytes(packed))


@SAME_FOLDER
@given(where=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_gzip_file_never_gives_other_numbers(tmp_path, where, bit):
    packed = bytearray(gzip.compress(CONTENT, mtime=0))
    packed[where % len(packed)] ^= 1 << bit
    (tmp_path / "x.gz").write_bytes(packed)
    try:
        values = read_idx(tmp_path / "x.gz", dimensions=3)
    except DataError:
        return
    np.testing.assert_array_equal(values, IMAGES)  # the bit was in the time stamp or the like


@SAME_FOLDER
@given(content=st.binary(max_size=64), start=st.sampled_from([b"", b"\0\0\x08\x03", b"\x1f\x8b\x08\0"]))
def test_arbitrary_bytes_are_an_array_or_one_line(tmp_path, content, start):
    (tmp_path / "x").write_bytes(start + content)
    try:
        values = read_idx(tmp_path / "x", dimensions=3)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert 16 + values.size == len(start + content)


def test_wrong_headers(tmp_path):
    path = tmp_path / "x"
    html = b"<!DOCTYPE html>\n<title>Sign in</title>"
    assert "neither an IDX file nor a gzip" in complaint(path, html)
    assert "first bytes 3c 21 44 4f, expected 00 00 08 03" in complaint(path, html)
    assert "neither" in complaint(path, gzip.compress(html))
    assert "element type 0x0d, expected 0x08" in complaint(path, idx_header((5, 4, 3), 0x0D) + bytes(240))
    labels = idx_header((60,)) + bytes(60)
    assert "got 1, as in a file of labels, expected 3, as in a file of images" in complaint(path, labels)
    assert "got 3, as in a file of images, expected 1" in complaint(path, CONTENT, dimensions=1)
    assert "got 2, expected 3" in complaint(path, idx_header((5, 12)) + bytes(60))
    assert "got shape (5, 4, 3), expected (6, 4, 3)" in complaint(path, CONTENT, shape=(6, 4, 3))
    assert "sizes of at least 1" in complaint(path, idx_header((5, 0, 3)))


def test_things_that_are_no_files(tmp_path):
    assert "No such file" in complaint(tmp_path / "absent")
    assert "a folder, expected a file" in complaint(tmp_path)
    assert "an empty file" in complaint(tmp_path / "x", b"")
    assert "an empty file" in complaint(tmp_path / "x", gzip.compress(b""))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "a device or a pipe" in complaint(tmp_path / "pipe")


def test_a_file_without_permission(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(idx, "open", refuse, raising=False)  # root may read everything, so ask no real file
    text = complaint(tmp_path / "x", CONTENT)
    assert "Permission denied" in text and "permissions" in text


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_absurd_sizes_cost_nothing(tmp_path, pack):
    largest = 2**32 - 1
    text, peak = peak_memory(lambda: complaint(tmp_path / "x", pack(idx_header((largest,) * 3))))
    assert f"expected at most {MAXIMUM_BYTES}" in text
    assert peak < 2**20
    allowed = (MAXIMUM_BYTES // 2**20, 2**10, 2**10)
    text, peak = peak_memory(lambda: complaint(tmp_path / "x", pack(idx_header(allowed) + bytes(100))))
    assert "too short for its shape" in text
    assert peak < 2**20


def test_a_bomb_is_not_inflated(tmp_path):
    # 3 GB in 3 MB: a thousand streams of 3 MB zeros behind a header that declares 10 000 bytes
    bomb = gzip.compress(idx_header((100, 10, 10))) + 1000 * gzip.compress(bytes(3_000_000))
    (tmp_path / "x.gz").write_bytes(bomb)
    text, peak = peak_memory(lambda: complaint(tmp_path / "x.gz"))
    assert "bytes after the data" in text
    assert peak < 2**20
    found, peak = peak_memory(lambda: content_sha256(tmp_path / "x.gz", 10_016))
    assert found is None
    assert peak < 2**20


def test_a_real_size_costs_itself_and_no_more(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(idx_header((30_000, 28, 28)) + bytes(30_000 * 784), 1))
    values, peak = peak_memory(lambda: read_idx(tmp_path / "x.gz", dimensions=3))
    # zlib collects a piece in blocks and joins them: three pieces at once, a fourth for what is compressed
    assert values.nbytes < peak < values.nbytes + 4 * idx.PIECE < 2 * values.nbytes


def test_writing(tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match="element type complex128"):
        write_idx(tmp_path / "x", np.zeros(3, complex))
    with pytest.raises(ConfigurationError, match="1 to 255 dimensions"):
        write_idx(tmp_path / "x", np.uint8(3))
    write_idx(tmp_path / "x", IMAGES)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        write_idx(tmp_path / "x", IMAGES + 1)
    assert os.listdir(tmp_path) == ["x"]
    np.testing.assert_array_equal(read_idx(tmp_path / "x", dimensions=3), IMAGES)
