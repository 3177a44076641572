"""A TCP proxy that delays replies, loses them, or goes silent, as a broken network does to a client of Redis.

It passes bytes on without looking at them, so TLS goes through it. A fault affects the connections that exist when it
begins and, by default, new ones as well. Standard library only: on a test host it runs as a program,

    python3 tcp_proxy.py LISTEN_PORT HOST PORT COMMAND_FILE

and obeys the command in the file: one of the names of `FAULTS`, `pass` or `cut`, followed by the word `old` to affect
only existing connections. The file is emptied once the command is done.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

#: Replies wait and are delivered in the end; replies are lost; neither requests nor replies pass, without an error.
HOLD, LOSE, SILENCE = "hold", "lose", "silence"
FAULTS = (HOLD, LOSE, SILENCE)
PASS, CUT = "pass", "cut"
CHUNK = 65536
#: Seconds between two checks of the command file.
LOOK = 0.05


class _Pair:
    """A client's connection and the one to the server that was opened for it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.fault = PASS
        #: Bytes of a stream are missing, so the receiver would misread everything after them.
        self.is_torn = False

    def close(self) -> None:
        for side in (self.client, self.server):
            with contextlib.suppress(OSError):  # closed by the other end
                side.shutdown(socket.SHUT_RDWR)
            side.close()


class Proxy:
    """Listens on a free port of the loopback address (or the given one) during the block."""

    def __init__(self, host: str, port: int, listen: int = 0, address: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self._changed = threading.Condition()
        self._pairs: set[_Pair] = set()
        self._fault = PASS
        self._server = socket.create_server((address, listen))
        self.port = int(self._server.getsockname()[1])

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._server.shutdown(socket.SHUT_RDWR)
        finally:
            self._server.close()
        self.cut()

    def fail(self, fault: str, new: bool = True) -> None:
        """Start a fault; with ``new`` it also affects connections that are made from now on."""
        if fault not in FAULTS:
            raise ValueError(f"no fault {fault!r}; there are {', '.join(FAULTS)}")
        with self._changed:
            self._fault = fault if new else PASS
            for pair in self._pairs:
                pair.fault = fault
            self._changed.notify_all()

    def heal(self) -> None:
        """End the fault. Delayed replies are delivered; a connection that has lost bytes is cut, since it is torn."""
        with self._changed:
            self._fault = PASS
            for pair in list(self._pairs):
                if pair.is_torn:
                    self._drop(pair)
                pair.fault = PASS
            self._changed.notify_all()

    def cut(self) -> None:
        """Close all connections."""
        with self._changed:
            for pair in list(self._pairs):
                self._drop(pair)
            self._changed.notify_all()

    @property
    def connections(self) -> int:
        """Return how many connections exist."""
        with self._changed:
            return len(self._pairs)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:  # it is closed
                return
            try:
                server = socket.create_connection(self._target, 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._changed:
                pair.fault = self._fault
                self._pairs.add(pair)
            self._spawn(lambda pair=pair: self._pass_on(pair, True))  # type: ignore[misc]  # mypy takes no default of a lambda
            self._spawn(lambda pair=pair: self._pass_on(pair, False))  # type: ignore[misc]  # mypy takes no default of a lambda

    def _pass_on(self, pair: _Pair, replies: bool) -> None:
        source, sink = (pair.server, pair.client) if replies else (pair.client, pair.server)
        try:
            while data := source.recv(CHUNK):
                if self._may_pass(pair, replies):
                    sink.sendall(data)
        except OSError:  # one of the two ends is gone
            pass
        with self._changed:
            self._drop(pair)
            self._changed.notify_all()

    def _may_pass(self, pair: _Pair, replies: bool) -> bool:
        with self._changed:
            while replies and pair.fault == HOLD and pair in self._pairs:
                self._changed.wait()
            loses = pair.is_torn or pair.fault == SILENCE or (replies and pair.fault == LOSE)
            pair.is_torn = pair.is_torn or loses
            # If only replies are lost, requests on their way to the server still arrive.
            return not (pair.fault == SILENCE or (replies and loses))

    def _drop(self, pair: _Pair) -> None:
        self._pairs.discard(pair)
        pair.close()

    def _spawn(self, run: Callable[[], None]) -> None:
        threading.Thread(target=run, daemon=True).start()


def obey(proxy: Proxy, line: str) -> None:
    """Carry out a line of the command file.

    Raises:
        ValueError: The command is unknown.
    """
    word, *rest = line.split()
    if word == PASS:
        proxy.heal()
    elif word == CUT:
        proxy.cut()
    else:
        proxy.fail(word, new=rest != ["old"])


def main(listen: str, host: str, port: str, commands: str) -> None:
    """Run until killed."""
    path = Path(commands)
    with Proxy(host, int(port), int(listen), address="0.0.0.0") as proxy:  # noqa: S104 - a test host's
        # The existence of the file shows that the proxy listens.
        path.write_text("")
        while True:
            if line := path.read_text().strip():
                obey(proxy, line)
                path.write_text("")
            time.sleep(LOOK)


if __name__ == "__main__":
    main(*sys.argv[1:])
