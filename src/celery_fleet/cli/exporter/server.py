"""Answer ``GET /metrics`` on the socket that systemd has opened; everything else is not found."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer, TCPServer, ThreadingMixIn
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from celery_fleet.common.errors import error_text


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: _Server
    server_version = "celery-fleet"
    sys_version = ""
    #: Seconds after which a client that sends or reads nothing is given up.
    timeout = 5.0

    def do_GET(self) -> None:
        """Send the metrics."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        text = self.server.answer()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send an error. A method that there is no function for is 501 in the base class."""
        super().send_error(404 if code == 501 else code, None if code == 501 else message, explain)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name in the base class
        """Log nothing: scrapes come every few seconds, and a client may send anything."""


class _Server(ThreadingMixIn, TCPServer):
    """The server, also on a Unix socket. `answer` returns the metrics."""

    daemon_threads = True
    answer: Callable[[], bytes]

    def handle_error(self, request: object, client_address: object) -> None:
        """Print an error in one line. A client that goes away is none."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"<3>the request failed: {error_text(error)}", file=sys.stderr, flush=True)


def serve(listening: socket.socket, answer: Callable[[], bytes]) -> BaseServer:
    """Return a server on a socket that already listens; its `serve_forever` answers with `answer`."""
    server = _Server(listening.getsockname(), _Handler, bind_and_activate=False)
    # The base class has made one of its own.
    server.socket.close()
    server.socket = listening
    server.answer = answer
    return server
