"""Downloads against a web server on this machine that misbehaves in every way a mirror can."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time

import pytest

from handgrad.datasets import download
from handgrad.datasets.download import PinnedFile, fetch
from handgrad.engine.checks import DataError

CONTENT = bytes(range(256)) * 1200  # 300 kB: several pieces
FILE = PinnedFile("data.gz", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
OTHER = PinnedFile("other.gz", 3, hashlib.sha256(b"abc").hexdigest())
WRONG = CONTENT[:-1] + b"\0"


def refuse(files, folder, mirrors, timeout=2.0):
    """Return the message of the DataError that downloading must raise, and see that it left nothing behind."""
    before = sorted(os.listdir(folder)) if folder.exists() else []
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        fetch(files, folder, mirrors, timeout=timeout)
    assert time.monotonic() - start < 10 * timeout
    assert (sorted(os.listdir(folder)) if folder.exists() else []) == before
    text = str(caught.value)
    assert "\n" not in text and files[0].name in text
    for remedy in ("handgrad data import FOLDER", "HANDGRAD_DATA", "--data mnist-5k"):
        assert remedy in text
    return text


def send(content, length=None, pause=0.0, piece=None):
    """Return a route that announces `length` bytes (or nothing) and sends `content` in pieces."""

    def answer(handler):
        handler.send_response(200)
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        for start in range(0, len(content), piece or len(content)):
            handler.wfile.write(content[start : start + (piece or len(content))])
            if pause:
                time.sleep(pause)

    return answer


def test_a_good_mirror(server, tmp_path):
    server.routes |= {"/a/data.gz": CONTENT, "/a/other.gz": b"abc"}
    seen = []
    written = fetch([FILE, OTHER], tmp_path / "new" / "folder", [server.url + "/a/"], lambda *step: seen.append(step))
    assert written == [tmp_path / "new/folder/data.gz", tmp_path / "new/folder/other.gz"]
    assert [path.read_bytes() for path in written] == [CONTENT, b"abc"]
    assert sorted(os.listdir(tmp_path / "new/folder")) == ["data.gz", "other.gz"]
    assert seen[0] == ("data.gz", 0, len(CONTENT)) and ("data.gz", len(CONTENT), len(CONTENT)) in seen
    assert seen[-1] == ("other.gz", 3, 3)


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_others_may_read_what_the_umask_lets_them(server, tmp_path):
    server.routes["/data.gz"] = CONTENT
    (tmp_path / "plain").touch()
    (path,) = fetch([FILE], tmp_path, [server.url + "/"])
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_no_length_and_a_redirection_are_fine(server, tmp_path):
    def redirect(handler):
        handler.send_response(302)
        handler.send_header("Location", server.url + "/b/data.gz")
        handler.end_headers()

    server.routes |= {"/a/data.gz": redirect, "/b/data.gz": send(CONTENT)}
    (path,) = fetch([FILE], tmp_path, [server.url + "/a/"])
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (None, "HTTP 404 Not Found"),
        (WRONG, f"other content, SHA-256 {hashlib.sha256(WRONG).hexdigest()[:12]} instead of {FILE.sha256[:12]}"),
        (b"<html>sign in</html>", f"a file of 20 bytes instead of {len(CONTENT)}"),
        (send(CONTENT + b"x"), f"more than the file's {len(CONTENT)} bytes"),
        (send(CONTENT * 100), f"more than the file's {len(CONTENT)} bytes"),
        (send(CONTENT[:1000]), f"the connection ended after 1000 of {len(CONTENT)} bytes"),
        (send(CONTENT[:1000], length=len(CONTENT)), f"the connection ended after 1000 of {len(CONTENT)} bytes"),
        (lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"), "nonsense"),
        (lambda handler: None, "without response"),
    ],
    ids=["404", "content", "short-page", "long", "endless", "cut", "cut-announced", "nonsense", "silence"],
)
def test_a_bad_mirror_and_then_a_good_one(server, tmp_path, route, reason):
    if route is not None:
        server.routes["/bad/data.gz"] = route
    text = refuse([FILE], tmp_path, [server.url + "/bad/"])
    assert f"from {server.url.removeprefix('http://')}" in text
    assert reason in text
    server.routes["/good/data.gz"] = CONTENT
    (path,) = fetch([FILE], tmp_path, [server.url + "/bad/", server.url + "/good/"])
    assert path.read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["data.gz"]


def test_hanging_servers_are_left(server, tmp_path):
    server.routes["/a/data.gz"] = lambda handler: server.over.wait(20)  # never answers

    def stops(handler):
        send(CONTENT[:1000], length=len(CONTENT))(handler)
        handler.wfile.flush()
        server.over.wait(20)

    server.routes["/b/data.gz"] = stops
    text = refuse([FILE], tmp_path, [server.url + "/a/", server.url + "/b/"], 0.3)
    assert text.count("'no answer within 0.3 s' from 127.0.0.1") == 2


def test_a_server_that_drips_is_left(server, tmp_path):
    server.routes["/data.gz"] = send(CONTENT, pause=0.05, piece=10)  # 200 bytes a second, and never silent for long
    assert "'less than 8192 bytes a second'" in refuse([FILE], tmp_path, [server.url + "/"], 0.3)


def test_a_name_that_takes_for_ever_to_look_up_is_left(tmp_path, monkeypatch):
    over = threading.Event()

    def look_up(*arguments, **options):
        over.wait(20)
        raise OSError("too late")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    try:
        text = refuse([FILE], tmp_path, ["http://a.invalid/", "https://b.invalid/"], 0.3)
    finally:
        over.set()
        for thread in threading.enumerate():
            if thread.name == "handgrad-download":
                thread.join()
    assert "'no answer within 0.3 s' from a.invalid and 'no answer within 0.3 s' from b.invalid" in text


def test_nobody_listens(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = refuse([FILE], tmp_path / "new", [f"http://127.0.0.1:{port}/"])
    assert "Connection refused" in text
    assert not (tmp_path / "new").exists()


def test_an_address_that_is_none(tmp_path):
    assert "unknown url type" in refuse([FILE], tmp_path, ["nothing://x/"])


def test_after_one_file_fails_no_other_is_tried(server, tmp_path):
    server.routes["/a/other.gz"] = b"abc"
    refuse([FILE, OTHER], tmp_path, [server.url + "/a/", server.url + "/b/"])
    assert server.asked == ["/a/data.gz", "/b/data.gz"]


def test_the_mirror_that_worked_is_asked_first(server, tmp_path):
    server.routes |= {"/b/data.gz": CONTENT, "/b/other.gz": b"abc", "/a/other.gz": b"abc"}
    fetch([FILE, OTHER], tmp_path, [server.url + "/a/", server.url + "/b/"])
    assert server.asked == ["/a/data.gz", "/b/data.gz", "/b/other.gz"]


def test_an_older_file_stays_until_the_new_one_is_whole(server, tmp_path):
    (tmp_path / "data.gz").write_bytes(b"old")
    server.routes["/data.gz"] = WRONG
    refuse([FILE], tmp_path, [server.url + "/"])
    assert (tmp_path / "data.gz").read_bytes() == b"old"
    server.routes["/data.gz"] = CONTENT
    fetch([FILE], tmp_path, [server.url + "/"])
    assert (tmp_path / "data.gz").read_bytes() == CONTENT


def test_an_interrupted_download_leaves_nothing(server, tmp_path):
    server.routes["/data.gz"] = CONTENT

    def interrupt(name, done, total):
        if done:
            (temporary,) = os.listdir(tmp_path)
            assert temporary.startswith(".data.gz.") and temporary.endswith(".part")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch([FILE], tmp_path, [server.url + "/"], interrupt)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_not_the_mirrors_fault(server, tmp_path, monkeypatch):
    server.routes["/data.gz"] = CONTENT

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"data\.gz cannot be written: got No space left .* HANDGRAD_CACHE"):
        fetch([FILE], tmp_path, [server.url + "/", server.url + "/"])
    assert os.listdir(tmp_path) == [] and server.asked == ["/data.gz"]


def test_a_folder_that_cannot_be_made(server, tmp_path):
    server.routes["/data.gz"] = CONTENT
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        fetch([FILE], tmp_path / "file" / "below", [server.url + "/"])


def test_downloads_at_the_same_time_do_not_disturb_each_other(server, tmp_path):
    server.routes["/data.gz"] = send(CONTENT, pause=0.01, piece=50_000)
    failures = []

    def work():
        try:
            fetch([FILE], tmp_path, [server.url + "/"])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert os.listdir(tmp_path) == ["data.gz"] and (tmp_path / "data.gz").read_bytes() == CONTENT


def test_a_proxy_in_the_environment_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.routes["http://mirror.invalid/data.gz"] = CONTENT  # what a proxy is asked for
    (path,) = fetch([FILE], tmp_path, ["http://mirror.invalid/"])
    assert path.read_bytes() == CONTENT


def test_the_time_without_a_network_is_bounded():
    assert download.TIMEOUT * 2 <= 10
