"""An HTTP proxy that passes on connections (CONNECT): prints its port, and writes each request line to a file."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
from pathlib import Path


def passed(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes from one side until it ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Handler(socketserver.StreamRequestHandler):
    """One connection."""

    def handle(self) -> None:
        """Read the request, connect, and pass on both ways."""
        first = self.rfile.readline().decode()
        with Path(sys.argv[1]).open("a") as stream:
            stream.write(first)
        while self.rfile.readline().strip():
            pass
        host, _, port = first.split()[1].rpartition(":")
        with socket.create_connection((host, int(port))) as target:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=passed, args=(target, self.connection))
            back.start()
            passed(self.connection, target)
            back.join()


if __name__ == "__main__":
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        print(server.server_address[1], flush=True)
        server.serve_forever()
