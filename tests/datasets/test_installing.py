"""Fetching and importing end with right files in their place, or with nothing changed."""

from __future__ import annotations

import gzip
import os

import pytest

from handgrad.datasets import installing
from handgrad.datasets.installing import ensure, import_folder
from handgrad.datasets.published import load_published
from handgrad.engine.checks import DataError

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@pytest.fixture
def mirror(server, digits):
    """The table of the digits with a mirror that has them."""
    server.routes |= {"/" + name: content for name, content in digits.compressed.items()}
    return digits.from_mirrors(server.url + "/")


def everything(folder):
    """Return what a folder holds, below it too: contents by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_ensure_downloads_once(cache, known, digits, mirror, server):
    done = ensure(mirror, known)
    assert done.folder == cache / "mnist" and done.written == tuple(digits.compressed)
    assert everything(cache / "mnist") == digits.compressed
    assert ensure(mirror, known).written == () and len(server.asked) == 4


def test_ensure_mends_the_cache(cache, known, digits, mirror):
    digits.put(cache / "mnist")
    (cache / "mnist" / IMAGES).write_bytes(b"\x1f\x8bdamaged")
    (cache / "mnist" / LABELS).unlink()
    assert ensure(mirror, known).written == (IMAGES, LABELS)
    assert everything(cache / "mnist") == digits.compressed


def test_ensure_is_content_with_the_environment(tmp_path, cache, monkeypatch, known, digits, mirror, server):
    monkeypatch.setenv("HANDGRAD_DATA", str(tmp_path / "environment"))
    digits.put(tmp_path / "environment", plain=True)
    assert ensure(mirror, known).folder == tmp_path / "environment" and server.asked == []
    (tmp_path / "environment" / IMAGES.removesuffix(".gz")).unlink()
    assert ensure(mirror, known).folder == cache / "mnist"
    assert len(everything(tmp_path / "environment")) == 3


def test_ensure_replaces_nothing_of_the_users(tmp_path, monkeypatch, known, digits, clothes, mirror, server):
    clothes.put(tmp_path / "data")
    before = everything(tmp_path / "data")
    with pytest.raises(DataError, match=r"--data-dir is in the way: got .* of Fashion-MNIST, expected MNIST's"):
        ensure(mirror, known, tmp_path / "data")
    monkeypatch.setenv("HANDGRAD_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match="HANDGRAD_DATA is in the way"):
        ensure(mirror, known)
    assert everything(tmp_path / "data") == before and server.asked == []


def test_ensure_fills_a_folder_of_choice(tmp_path, known, digits, mirror):
    assert ensure(mirror, known, tmp_path / "new").folder == tmp_path / "new" / "mnist"
    digits.put(tmp_path / "part", [IMAGES])
    done = ensure(mirror, known, tmp_path / "part")
    assert done.folder == tmp_path / "part" and IMAGES not in done.written and len(done.written) == 3


@pytest.mark.parametrize("plain", [False, True], ids=["gzip", "plain"])
@pytest.mark.parametrize("where", [".", "mnist", "MNIST/raw"])
def test_import_copies_the_four_files(tmp_path, cache, known, digits, where, plain):
    digits.put(tmp_path / "mine" / where, plain=plain)
    before = everything(tmp_path / "mine")
    (done,) = import_folder(tmp_path / "mine", known)
    assert done.folder == cache / "mnist" and len(done.written) == 4
    assert everything(cache) == {
        f"mnist/{name}": c for name, c in (digits.plain if plain else digits.compressed).items()
    }
    assert everything(tmp_path / "mine") == before
    load_published(digits.published, known)


def test_import_goes_by_content_and_not_by_name(tmp_path, cache, known, digits, clothes):
    (tmp_path / "mine").mkdir()
    for number, content in enumerate([*digits.compressed.values(), *clothes.plain.values()]):
        (tmp_path / "mine" / f"download {number}").write_bytes(content)
    (tmp_path / "mine" / "holiday.jpg").write_bytes(b"of no published length")
    first, second = import_folder(tmp_path / "mine", known)
    assert (first.published.name, second.published.name) == ("mnist", "fashion")
    assert everything(cache / "mnist") == digits.compressed
    assert everything(cache / "fashion-mnist") == clothes.plain


def test_import_of_one_data_set(tmp_path, cache, known, digits, clothes):
    digits.put(tmp_path / "mine" / "mnist")
    clothes.put(tmp_path / "mine" / "fashion-mnist")
    (done,) = import_folder(tmp_path / "mine", known, "fashion", tmp_path / "elsewhere")
    assert done.folder == tmp_path / "elsewhere" / "fashion-mnist" and not cache.exists()


def test_import_takes_other_compression(tmp_path, known, digits):
    digits.put(tmp_path / "mine")
    (tmp_path / "mine" / IMAGES).write_bytes(gzip.compress(digits.plain[IMAGES.removesuffix(".gz")], 0))
    assert len(import_folder(tmp_path / "mine", known)) == 1
    load_published(digits.published, known)


def test_import_takes_away_the_other_form(tmp_path, cache, known, digits):
    digits.put(cache / "mnist")
    (cache / "mnist" / IMAGES).write_bytes(b"damaged, and read before the plain form")
    import_folder(digits.put(tmp_path / "mine", plain=True), known)
    assert everything(cache / "mnist") == digits.plain


def test_import_of_the_cache_itself_changes_nothing(cache, known, digits):
    digits.put(cache / "mnist")
    (done,) = import_folder(cache, known)
    assert done.written == () and everything(cache / "mnist") == digits.compressed


def test_folders_that_lack_something(tmp_path, cache, known, digits, clothes):
    def complaint(folder, name=None):
        with pytest.raises(DataError) as caught:
            import_folder(folder, known, name)
        assert not cache.exists() and "\n" not in str(caught.value)
        return str(caught.value)

    assert "cannot be read: got No such file" in complaint(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "got no file with a published name or length" in complaint(tmp_path / "empty")
    text = complaint(digits.put(tmp_path / "part", [IMAGES, LABELS]))
    assert "got 2 of the 4 files of MNIST, expected all files of MNIST or Fashion-MNIST: train-images" in text
    text = complaint(clothes.put(tmp_path / "clothes"), "mnist")
    assert "got 4 of the 4 files of Fashion-MNIST, expected all files of MNIST:" in text
    digits.put(tmp_path / "damaged")
    (tmp_path / "damaged" / IMAGES).write_bytes(digits.compressed[IMAGES][:-3])
    text = complaint(tmp_path / "damaged")
    assert f"3 of the 4 files of MNIST and other content in {IMAGES}" in text


def test_an_import_that_breaks_off_leaves_the_cache_as_it_was(tmp_path, cache, monkeypatch, known, digits):
    digits.put(tmp_path / "mine")
    digits.put(cache / "mnist", [LABELS], plain=True)
    before = everything(cache)
    copy, calls = installing._copy_checked, []

    def third_fails(error):
        def work(*arguments):
            calls.append(1)
            if len(calls) % 3 == 0:
                raise error
            copy(*arguments)

        return work

    for error, seen in (
        (OSError(28, "No space left on device"), DataError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):
        calls.clear()
        monkeypatch.setattr(installing, "_copy_checked", third_fails(error))
        with pytest.raises(seen):
            import_folder(tmp_path / "mine", known)
        assert everything(cache) == before and os.listdir(cache / "mnist") == [LABELS.removesuffix(".gz")]


def test_a_file_that_changes_while_it_is_copied(tmp_path, cache, monkeypatch, known, digits):
    digits.put(tmp_path / "mine")
    recognise = installing.recognise

    def and_change(path, known):
        answer = recognise(path, known)
        path.write_bytes(path.read_bytes() + b"x")
        return answer

    monkeypatch.setattr(installing, "recognise", and_change)
    with pytest.raises(DataError, match="changed while it was copied"):
        import_folder(tmp_path / "mine", known)
    assert everything(cache) == {}
