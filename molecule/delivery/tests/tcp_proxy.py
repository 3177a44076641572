"""A TCP proxy that can hold back the server's replies, as a broken network does; requests still arrive.

It passes bytes on without looking at them, so TLS goes through it. Standard library only, because it runs on a host:

    python3 tcp_proxy.py LISTEN_PORT HOST PORT COMMAND_FILE

It looks at the file: while that contains `hold`, replies wait; with anything else they are delivered. That the file
exists shows that the proxy listens.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from pathlib import Path

CHUNK = 65536
#: Seconds between two checks of the command file.
LOOK = 0.05


def pass_on(source: socket.socket, sink: socket.socket, may_pass: threading.Event) -> None:
    """Pass bytes on until one of the two ends is gone; then close both."""
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            may_pass.wait()
            sink.sendall(data)
    for side in (source, sink):
        # This also wakes the thread of the other direction.
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
        side.close()


def main(listen: str, host: str, port: str, commands: str) -> None:
    """Run until killed."""
    always, replies = threading.Event(), threading.Event()
    always.set()
    replies.set()
    path = Path(commands)

    def accept(listener: socket.socket) -> None:
        while True:
            client, _ = listener.accept()
            try:
                server = socket.create_connection((host, int(port)), 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for ends in ((client, server, always), (server, client, replies)):
                threading.Thread(target=pass_on, args=ends, daemon=True).start()

    with socket.create_server(("0.0.0.0", int(listen))) as listener:  # noqa: S104 - a test host's
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        path.write_text("")
        while True:
            if path.read_text().strip() == "hold":
                replies.clear()
            else:
                replies.set()
            time.sleep(LOOK)


if __name__ == "__main__":
    main(*sys.argv[1:])
