"""A port that was chosen stays free until its server starts."""

from __future__ import annotations

import os
import socket
from collections import deque
from contextlib import closing

import pytest

from scripts import ports


def bind(port: int, *, reuse: bool) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
    try:
        made.bind(("127.0.0.1", port))
    except OSError:
        made.close()
        raise
    return made


def test_only_a_server_that_asks_for_it_gets_it() -> None:
    port = ports.free_port()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    # The kernel's own choice is as if the socket asked for each port in this way.
    with pytest.raises(OSError, match="in use"):
        bind(port, reuse=False)
    for _ in range(2):  # a server that is restarted
        with closing(bind(port, reuse=True)) as server:
            server.listen()
            with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
                pass


def test_two_processes_can_keep_the_same_port() -> None:
    """The one that creates a machine, and its keeper."""
    port = ports.free_port()
    assert ports.hold(port) == port


def test_a_port_with_a_server_is_not_kept() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(OSError, match="in use"),
    ):
        ports.hold(server.getsockname()[1])


def test_the_oldest_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: deque[int] = deque()
    monkeypatch.setattr(ports, "_kept", kept)
    monkeypatch.setattr(ports, "KEPT", 2)
    found = [ports.free_port() for _ in range(3)]
    assert len(set(found)) == 3
    assert len(kept) == 2
    bind(found[0], reuse=False).close()
    for port in found[1:]:
        with pytest.raises(OSError, match="in use"):
            bind(port, reuse=False)
    for handle in kept:
        os.close(handle)
