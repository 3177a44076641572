"""Answer ``GET /metrics`` on a Unix socket or on the loopback; everything else is not found."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseServer, TCPServer, ThreadingMixIn, UnixStreamServer
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from celery_fleet.common.errors import error_text

UNIX = "unix:"


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


class _Server(ThreadingMixIn, BaseServer):
    """What both servers share. `answer` returns the metrics."""

    daemon_threads = True
    answer: Callable[[], bytes]

    def handle_error(self, request: object, client_address: object) -> None:
        """Print an error in one line. A client that goes away is none."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"<3>the request failed: {error_text(error)}", file=sys.stderr, flush=True)


class _OnUnix(_Server, UnixStreamServer):
    def server_bind(self) -> None:
        path = Path(str(self.server_address))
        if path.is_socket():
            # A process that was killed has left it.
            path.unlink()
        super().server_bind()
        # Despite the umask: the group is that of the web server.
        os.chmod(path, 0o660)


class _OnLoopback(_Server, TCPServer):
    allow_reuse_address = True


class _OnLoopback6(_OnLoopback):
    address_family = socket.AF_INET6


def serve(listen: str, answer: Callable[[], bytes]) -> _OnUnix | _OnLoopback:
    """Return a server that listens; its `serve_forever` answers.

    Args:
        listen: `unix:` and a path, or an address of the loopback with a port, such as `127.0.0.1:9808` or `[::1]:9808`.
        answer: Returns the metrics.

    Raises:
        OSError: It can't listen there.
        ValueError: The address is none of these.
    """
    server: _OnUnix | _OnLoopback
    if listen.startswith(UNIX):
        server = _OnUnix(listen.removeprefix(UNIX), _Handler)
    else:
        host, _, port = listen.rpartition(":")
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        if not address.is_loopback:
            raise ValueError(f"{listen} is not on the loopback")
        kind = _OnLoopback6 if address.version == 6 else _OnLoopback
        server = kind((str(address), int(port)), _Handler)
    server.answer = answer
    return server
