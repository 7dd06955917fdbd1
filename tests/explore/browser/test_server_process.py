"""The command as it is used: a process, a port, Ctrl-C."""

import http.client
import json
import re
import signal
import socket
import time
from pathlib import Path

from commands import ibot_apart as ibot
from commands import start_ibot
from explored import write_run

from ibot.explore.browser import server


def address_of(started):
    """Host and port that the command prints."""
    for _ in range(2400):
        file = Path(started.folder.name, "stdout")
        text = file.read_text() if file.exists() else ""
        if found := re.search(r"http://(127\.0\.0\.1):(\d+)/", text):
            return found[1], int(found[2])
        assert started.poll() is None, started.ended().stderr
        time.sleep(0.05)
    raise AssertionError("no address within two minutes")


def answer(place, path):
    connection = http.client.HTTPConnection(*place, timeout=120)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_it_starts_answers_and_ends_with_ctrl_c(run, images):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = ibot("explore", run, "--data", images, "--port", port, "--no-browser")
    assert refused.returncode == 2 and f"port {port} cannot be used" in refused.stderr
    arguments = ("--data", images, "--port", 0, "--no-browser", "--device", "cpu")
    started = start_ibot("explore", run, *arguments)
    try:
        place = address_of(started)
        # The page answers from the first moment, and says what is still being opened.
        end = time.monotonic() + 120
        while (about := answer(place, "/api/about")[1])["state"] == "loading":
            assert time.monotonic() < end
            time.sleep(0.05)
        assert about["state"] == "ready"
        status, words = answer(place, "/api/words")
        assert status == 200 and words["total"] > 0
        assert answer(place, "/api/image/..%2f..%2fetc%2fpasswd")[0] == 404
        # A browser that left keeps nothing from ending.
        idle = socket.create_connection(place)
        idle.sendall(b"GET /api/words HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        started.send_signal(signal.SIGINT)
        done = started.ended()
        idle.close()
    finally:
        started.kill()
    assert done.returncode == 0, done.stderr
    assert "stopped" in done.stderr and "Traceback" not in done.stderr


def test_it_ends_while_it_still_looks_at_the_images(images, tmp_path):
    run = write_run(tmp_path / "run", steps=(3,))
    started = start_ibot("explore", run, "--data", images, "--port", 0, "--no-browser")
    try:
        file = Path(started.folder.name, "stderr")
        while not (file.exists() and "opening" in file.read_text()):
            assert started.poll() is None
            time.sleep(0.02)
        started.send_signal(signal.SIGINT)
        done = started.ended()
    finally:
        started.kill()
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert ibot("index", run, "--data", images).returncode == 0  # what is there serves on


def test_what_cannot_be_opened_ends_the_command(run, tmp_path):
    (tmp_path / "empty").mkdir()
    done = ibot("explore", run, "--data", tmp_path / "empty", "--no-browser", "--port", 0)
    assert done.returncode == 2 and "no images found" in done.stderr
    for arguments in ((tmp_path / "no_run",), (run, "--data", tmp_path / "nowhere")):
        done = ibot("explore", *arguments, "--no-browser")
        assert done.returncode == 2 and "there is no" in done.stderr
        assert done.stdout == ""


def test_ctrl_c_is_not_raised_where_the_event_loop_is_made():
    before = signal.getsignal(signal.SIGINT)
    ended = []
    with server._interrupted(lambda: ended.append("ended")):
        signal.raise_signal(signal.SIGINT)
    assert ended == ["ended"]
    assert signal.getsignal(signal.SIGINT) is before
