"""Where a data set is looked for, in which order, and what reading its four files checks."""

from __future__ import annotations

import numpy as np
import pytest

from handgrad.datasets.published import DataNotFound, find, load_published, look_in
from handgrad.engine.checks import DataError

IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def complaint(error, published, known, folder=None, **options):
    """Return the message of the error that loading must raise."""
    with pytest.raises(error) as caught:
        load_published(published, known, folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("plain", [False, True], ids=["gzip", "plain"])
@pytest.mark.parametrize("where", ["mnist", "MNIST/raw", "."])
def test_every_layout_is_read(tmp_path, digits, known, where, plain):
    folder = digits.put(tmp_path / "data" / where, plain=plain)
    train, test = load_published(digits.published, known, tmp_path / "data")
    for part, images, labels in ((train, *digits.arrays[:2]), (test, *digits.arrays[2:])):
        np.testing.assert_array_equal(part.images, images[:, None])
        np.testing.assert_array_equal(part.labels, labels)
        assert part.images.shape == (len(images), 1, 4, 3) and part.images.flags.c_contiguous
        assert (part.name, part.classes, part.source) == ("mnist", tuple("abcd"), str(folder))


@pytest.mark.parametrize("where", ["data/fashion-mnist", "data/FashionMNIST/raw", "fashion-mnist"])
def test_layouts_of_the_second_data_set(tmp_path, clothes, known, where):
    folder = clothes.put(tmp_path / where)
    base = tmp_path / "data" if where.startswith("data") else folder
    train, _ = load_published(clothes.published, known, base)
    np.testing.assert_array_equal(train.images[:, 0], clothes.arrays[0])
    if base == folder:  # and the other data set, whose files have the same names, is not seen in it
        assert look_in(known[0], known, base, "") is None


def test_the_second_data_set_is_not_seen_in_any_folder(tmp_path, clothes, known):
    clothes.put(tmp_path / "data")
    assert look_in(clothes.published, known, tmp_path / "data", "") is None


def test_compressed_and_plain_files_may_be_mixed_and_the_published_form_wins(tmp_path, digits, known):
    digits.put(tmp_path, [IMAGES, LABELS])
    digits.put(tmp_path, [IMAGES, TEST_IMAGES, TEST_LABELS], plain=True)
    found = look_in(digits.published, known, tmp_path, "")
    assert found.missing == [] and found.paths[IMAGES].name == IMAGES
    load_published(digits.published, known, tmp_path)


def test_a_complete_folder_wins_over_an_incomplete_one(tmp_path, digits, known):
    digits.put(tmp_path / "mnist", [IMAGES])
    digits.put(tmp_path)
    assert look_in(digits.published, known, tmp_path, "").folder == tmp_path


def test_search_order(tmp_path, cache, monkeypatch, digits, known):
    named, environment = tmp_path / "named", tmp_path / "environment"
    for base in (named, environment, cache):
        digits.put(base / "mnist")
    monkeypatch.setenv("HANDGRAD_DATA", str(environment))

    def place(folder=None):
        found, _ = find(digits.published, known, folder)
        return found.place, found.folder

    assert place(named) == ("--data-dir", named / "mnist")
    assert place() == ("$HANDGRAD_DATA", environment / "mnist")
    (environment / "mnist" / IMAGES).unlink()
    assert place() == ("cache", cache / "mnist")
    monkeypatch.setenv("HANDGRAD_DATA", "")
    assert place() == ("cache", cache / "mnist")
    (cache / "mnist" / IMAGES).unlink()
    found, notes = find(digits.published, known)
    assert found.missing == [IMAGES] and notes == [f"cache {cache / 'mnist'} without {IMAGES}"]


def test_a_folder_that_the_user_named_must_hold_everything(tmp_path, digits, known, server):
    mirrored = digits.from_mirrors(server.url + "/")
    text = complaint(DataError, mirrored, known, tmp_path / "absent")
    assert "absent: got nothing there, expected a folder with MNIST" in text
    (tmp_path / "file").touch()
    assert "got a file, expected a folder" in complaint(DataError, mirrored, known, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    text = complaint(DataNotFound, mirrored, known, tmp_path / "empty")
    assert "MNIST is not there" in text and "no MNIST files" in text and "handgrad data fetch mnist" in text
    digits.put(tmp_path / "part", [IMAGES, LABELS])
    assert f"without {TEST_IMAGES}, {TEST_LABELS}" in complaint(DataNotFound, mirrored, known, tmp_path / "part")
    assert server.asked == []  # a folder that was named is never filled


def test_what_is_missing_is_downloaded_into_the_cache(cache, digits, known, server):
    server.routes |= {"/" + name: content for name, content in digits.compressed.items()}
    digits.put(cache / "mnist", [LABELS])
    digits.put(cache / "mnist", [TEST_LABELS], plain=True)
    mirrored, seen = digits.from_mirrors(server.url + "/"), []
    train, _ = load_published(mirrored, known, progress=lambda *step: seen.append(step))
    np.testing.assert_array_equal(train.labels, digits.arrays[1])
    assert server.asked == ["/" + IMAGES, "/" + TEST_IMAGES] and seen
    load_published(mirrored, known)
    assert len(server.asked) == 2


def test_an_empty_environment_folder_is_passed_over_but_mentioned(tmp_path, monkeypatch, digits, known, server):
    mirrored = digits.from_mirrors(server.url + "/")
    for base, words in ((tmp_path / "absent", "no such folder"), (tmp_path, "no MNIST files")):
        monkeypatch.setenv("HANDGRAD_DATA", str(base))
        text = complaint(DataNotFound, mirrored, known)
        assert f"MNIST: {IMAGES} cannot be downloaded: got 'HTTP 404 Not Found'" in text
        assert f"and $HANDGRAD_DATA {base}: {words}" in text and "handgrad data import FOLDER" in text
        text = complaint(DataNotFound, mirrored, known, download=False)
        assert f"got $HANDGRAD_DATA {base}: {words}; cache " in text


def test_the_files_of_another_data_set_are_noticed(tmp_path, digits, clothes, known):
    clothes.put(tmp_path / "one")
    text = complaint(DataError, digits.published, known, tmp_path / "one")
    assert "got a file of Fashion-MNIST, expected one of MNIST; keep them apart" in text
    digits.put(tmp_path / "fashion-mnist", plain=True)
    text = complaint(DataError, clothes.published, known, tmp_path)
    assert "got a file of MNIST, expected one of Fashion-MNIST" in text
    clothes.put(tmp_path / "mixed")
    digits.put(tmp_path / "mixed", [IMAGES, TEST_IMAGES, TEST_LABELS])  # one stranger among four is enough
    text = complaint(DataError, digits.published, known, tmp_path / "mixed")
    assert LABELS in text and "a file of Fashion-MNIST" in text


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (IMAGES, LABELS, "got 1, as in a file of labels, expected 3, as in a file of images"),
        (IMAGES, TEST_IMAGES, r"got shape (8, 4, 3), expected (20, 4, 3)"),
        (LABELS, TEST_LABELS, r"got shape (8,), expected (20,)"),
    ],
)
def test_swapped_files_are_noticed(tmp_path, digits, known, first, second, message):
    digits.put(tmp_path)
    (tmp_path / first).write_bytes(digits.compressed[second])
    (tmp_path / second).write_bytes(digits.compressed[first])
    assert message in complaint(DataError, digits.published, known, tmp_path)


def test_a_damaged_file_is_an_error_and_not_a_missing_one(cache, digits, known, server):
    digits.put(cache / "mnist")
    (cache / "mnist" / IMAGES).write_bytes(digits.compressed[IMAGES][:-20])
    with pytest.raises(DataError) as caught:
        load_published(digits.from_mirrors(server.url + "/"), known)
    assert "is damaged" in str(caught.value) and not isinstance(caught.value, DataNotFound)
    assert server.asked == []


def test_counts_and_labels_that_do_not_fit(tmp_path, make):
    images, labels = np.zeros((6, 4, 3), np.uint8), np.arange(6, dtype=np.uint8) % 4
    short = make("mnist", "MNIST", ("mnist",), True, 3, (images, labels[:5], images, labels))
    text = complaint(DataError, short.published, (short.published,), short.put(tmp_path / "short"))
    assert "number of labels: got 5, expected 6" in text
    wrong = make("mnist", "MNIST", ("mnist",), True, 3, (images, labels, images, labels + 1))
    text = complaint(DataError, wrong.published, (wrong.published,), wrong.put(tmp_path / "wrong"))
    assert "label of sample 3: got 4, expected 0 to 3" in text
