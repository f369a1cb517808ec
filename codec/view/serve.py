"""A page and its files on the loopback address, for files that are too large to lie in a page.

    with Server(page, {"0.aez": source}) as server:
        server.url                  # http://127.0.0.1:43121/
        server.serve_forever()      # until Ctrl-C

READ ME FIRST
- A request names one of the paths that are served, or gets 404: no path of the disk is ever made of
  what a request says.
- Another web site that is open in the browser can name this address, but cannot read what it gets.
  It could if its own name led here (DNS rebinding), so requests for other host names are refused.
- Files are read as they are asked for, range by range (RFC 9110 14).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from codec.view.page import CHARSET

HOST = "127.0.0.1"
_HOSTS = (HOST, "localhost", "[::1]")  # or a tunnel from there
_CHUNK_BYTES = 1 << 18
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")  # one range; a request for several gets all


class Readable(Protocol):
    """Bytes that any thread can read."""

    size: int

    def read(self, offset: int, size: int) -> bytes: ...


class _Page:
    def __init__(self, content: bytes) -> None:
        self.content, self.size = content, len(content)

    def read(self, offset: int, size: int) -> bytes:
        return self.content[offset : offset + size]


class Server(ThreadingHTTPServer):
    """Serves a page at `/`, and files at the names they are given.  port: 0 is a free one.

    Raises OSError if it cannot listen at the port.
    """

    daemon_threads = True  # Ctrl-C does not wait for a browser

    def __init__(self, page: bytes, files: Mapping[str, Readable], port: int = 0) -> None:
        self.served: dict[str, tuple[Readable, str]] = {
            "/": (_Page(page), f"text/html; charset={CHARSET}"),
            **{f"/{name}": (file, "application/octet-stream") for name, file in files.items()},
        }
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that no longer listens is no error to be told."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60  # of a connection on which nothing is asked

    server: Server

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        name = re.sub(r":\d*$", "", self.headers.get("Host", ""))
        if name.lower() not in _HOSTS:
            self.send_error(HTTPStatus.FORBIDDEN, f"only {' and '.join(_HOSTS)} are served")
            return
        found = self.server.served.get(self.path.partition("?")[0])
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        file, kind = found
        wanted = part_of(self.headers.get("Range"), file.size)
        if wanted is None:
            self.send_response(HTTPStatus.OK)
            wanted, said = range(file.size), None
        elif wanted:
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            said = f"bytes {wanted.start}-{wanted.stop - 1}/{file.size}"
        else:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            said = f"bytes */{file.size}"
        self._send_headers(kind, len(wanted), said)
        if self.command != "HEAD":
            self._send(file, wanted)

    def _send_headers(self, kind: str, num_bytes: int, content_range: str | None) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(num_bytes))
        if content_range is not None:
            self.send_header("Content-Range", content_range)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()

    def _send(self, file: Readable, wanted: range) -> None:
        for start in range(wanted.start, wanted.stop, _CHUNK_BYTES):
            size = min(_CHUNK_BYTES, wanted.stop - start)
            piece = file.read(start, size)
            self.wfile.write(piece)
            if len(piece) < size:  # the file has become shorter: the browser sees a cut answer
                self.close_connection = True
                return

    def version_string(self) -> str:
        """The name of the server, without its version."""
        return "aez"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def part_of(asked: str | None, size: int) -> range | None:
    """The bytes that a Range header asks for, none if they are not there; None: all are asked for,
    or what is asked for is not understood.
    """
    found = _RANGE.fullmatch((asked or "").strip())
    if found is None or found[1] == found[2] == "":
        return None
    if not found[1]:  # the last so many
        return range(max(0, size - int(found[2])), size)
    first, end = int(found[1]), int(found[2]) + 1 if found[2] else size
    if found[2] and end <= first:
        return None
    return range(first, min(end, size))
