"""A server of files on 127.0.0.1 with the manners and the faults of real ones."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Served:
    """What a server has, how it behaves, and what it was asked."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        """By their path, with its slash."""
        self.headers: dict[str, dict[str, str]] = {}
        """Of answers, beside the usual ones, by path."""
        self.tag = '"one"'
        """The ETag of everything; None: none is given."""
        self.cuts: list[int] = []
        """The next answers end after so many bytes each, whatever they promised."""
        self.codes: list[int] = []
        """The next answers are these errors."""
        self.lengths: str | None = None
        """What answers say of their length; None: the truth."""
        self.ranges = True
        """Whether parts of files are given."""
        self.asked: list[tuple[str, str]] = []
        """Path and Range of every GET."""
        self.gate = threading.Event()
        """Answers wait for it."""
        self.gate.set()
        self.address = ""


@contextmanager
def served():
    """Serve until the end of the block."""
    held = Served()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            _answer(self, held, body=True)

        def do_HEAD(self):
            _answer(self, held, body=False)

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    held.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield held
    finally:
        held.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(handler, held, *, body):
    path, wanted = handler.path.partition("?")[0], handler.headers.get("Range", "")
    if body:
        held.asked.append((path, wanted))
    held.gate.wait(20)
    code = held.codes.pop(0) if held.codes and body else 200
    if code != 200 or path not in held.files:
        handler.send_response(code if code != 200 else 404)
        for name, value in held.headers.get(path, {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    content, begin = held.files[path], 0
    same = handler.headers.get("If-Range") in (None, held.tag)
    if wanted and held.ranges and same:
        begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
    if begin >= len(content) > 0:
        handler.send_response(416)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    handler.send_response(206 if begin else 200)
    if begin:
        handler.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
    length = str(len(content) - begin) if held.lengths is None else held.lengths
    handler.send_header("Content-Length", length)
    if held.tag:
        handler.send_header("ETag", held.tag)
    for name, value in held.headers.get(path, {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    if body:
        rest = content[begin:]
        cut = held.cuts.pop(0) if held.cuts else len(rest)
        handler.wfile.write(rest[:cut])
        if cut < len(rest):
            handler.close_connection = True
