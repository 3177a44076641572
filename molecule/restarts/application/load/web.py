"""The web process: answers each request with the release that serves it, on the socket that systemd holds.

It needs only the standard library. When it is stopped, it finishes the requests that it has accepted, and accepts no
more. systemd keeps the socket, so later ones wait for the next process.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SOCKET = 3  # systemd's first file descriptor


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    def do_GET(self) -> None:  # the library's name
        """Answer with the release's id."""
        body = os.environ["CELERY_FLEET_RELEASE"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing; nginx does, and a Unix socket has no address to name."""


class Server(ThreadingHTTPServer):
    """Waits for its threads when it is closed."""

    daemon_threads = False


def main() -> None:
    """Serve until SIGTERM."""
    server = Server(("", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=SOCKET)
    # `shutdown` waits for the loop below, so it can't be called by the thread that runs it.
    stop = threading.Thread(target=server.shutdown)
    signal.signal(signal.SIGTERM, lambda *_: stop.start())
    server.serve_forever(poll_interval=0.1)
    server.server_close()


if __name__ == "__main__":
    main()
