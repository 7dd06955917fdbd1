"""Output that vanishes, with real pipes, descriptors and signals."""

import errno
import io
import os
import signal
import subprocess
import sys

import pytest

from ibot.system.output import Output, unwatched, without_hangup

IBOT = f"{sys.executable} -m ibot"


def shell(command):
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60
    )


def broken_pipe():
    """A stream whose reader left."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def test_text_that_nobody_can_read_is_dropped_and_the_reason_kept():
    output = Output(broken_pipe())
    output.write("a line\n")
    assert output.error is None, "it is in the buffer"
    output.flush()
    assert output.error.errno == errno.EPIPE and not output.isatty()
    assert output.write("more\n") == 5
    with unwatched():  # as the interpreter does at its end, without an error
        print("seen")


def test_a_stream_that_was_closed_before_the_start_takes_text():
    output = Output(None)
    assert output.write("text") == 4 and output.error.errno == errno.EBADF


def test_letters_that_the_encoding_lacks_become_escapes():
    raw = io.BytesIO()
    output = Output(io.TextIOWrapper(raw, encoding="ascii"))
    output.write("caf\xe9 \udce9.jpg\n")
    output.flush()
    assert raw.getvalue() == b"caf\\xe9 \\udce9.jpg\n" and output.error is None


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("recipes list | true", 141, ""),
        ("recipes show tiny32 > /dev/full", 4, "No space left"),
        ("recipes list >&-", 4, "closed"),
        ("recipes list >&- 2>&-", 4, ""),
        ("recipes show nonsense 2>&-", 2, ""),
        ("--help | true", 0, ""),
    ],
)
def test_a_list_that_could_not_be_printed_says_so_by_its_code(command, code, words):
    done = shell(f"{IBOT} {command}")
    assert done.returncode == code and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert words or not done.stderr


def test_a_new_file_never_gets_the_number_of_a_closed_standard_stream(tmp_path):
    code = (
        "import sys; from ibot.system.output import unwatched\n"
        f"with unwatched(): file = open({str(tmp_path / 'f')!r}, 'w'); sys.exit(file.fileno())"
    )
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        assert shell(f'{sys.executable} -c "{code}" {closed}').returncode > 2


def test_a_hangup_is_ignored_and_the_old_way_comes_back():
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    with without_hangup():
        os.kill(os.getpid(), signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with without_hangup():  # under nohup it stays as it is
            pass
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
