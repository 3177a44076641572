"""The proxy with which tests break connections."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.ports import free_port
from tests import tcp_proxy
from tests.tcp_proxy import HOLD, LOSE, SILENCE, Proxy


@pytest.fixture
def heard() -> list[bytes]:
    return []


@pytest.fixture
def echo(heard: list[bytes]) -> Iterator[int]:
    """Return the port of a server that echoes each line."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            try:
                for line in stream:
                    heard.append(line)
                    stream.write(line)
                    stream.flush()
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=[connection], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield int(server.getsockname()[1])
    server.shutdown(socket.SHUT_RDWR)
    server.close()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", echo) as made:
        yield made


class Client:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)

    def say(self, text: str) -> None:
        self.socket.sendall(text.encode() + b"\n")

    def hear(self, seconds: float = 10) -> str | None:
        """Return a reply; None if there is none, "" at the end."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(100).decode().strip()
        except TimeoutError:
            return None
        except ConnectionError:
            return ""


@pytest.fixture
def client(proxy: Proxy) -> Iterator[Client]:
    made = Client(proxy.port)
    made.say("hello")
    assert made.hear() == "hello"
    yield made
    made.socket.close()


def until(look: object) -> None:
    end = time.monotonic() + 20
    while not look():  # type: ignore[operator]  # the caller gives it
        assert time.monotonic() < end
        time.sleep(0.01)


def test_replies_that_are_held_come_late(proxy: Proxy, client: Client, heard: list[bytes]) -> None:
    proxy.fail(HOLD)
    client.say("one")
    until(lambda: b"one\n" in heard)
    assert client.hear(0.2) is None
    proxy.heal()
    assert client.hear() == "one"


def test_a_fault_can_be_limited_to_existing_connections(proxy: Proxy, client: Client) -> None:
    proxy.fail(HOLD, new=False)
    client.say("old")
    other = Client(proxy.port)
    other.say("new")
    assert other.hear() == "new"
    assert client.hear(0.2) is None
    proxy.heal()
    assert client.hear() == "old"
    other.socket.close()


def test_replies_that_are_lost_never_come(proxy: Proxy, client: Client, heard: list[bytes]) -> None:
    proxy.fail(LOSE)
    client.say("one")
    until(lambda: b"one\n" in heard)
    assert client.hear(0.2) is None
    proxy.heal()
    assert client.hear() == ""


def test_nothing_arrives_while_it_is_silent(
    proxy: Proxy, client: Client, heard: list[bytes]
) -> None:
    proxy.fail(SILENCE)
    client.say("one")
    assert client.hear(0.2) is None
    assert b"one\n" not in heard
    proxy.heal()
    assert client.hear() == ""


def test_a_cut_is_noticed_at_once_and_new_connections_work(proxy: Proxy, client: Client) -> None:
    proxy.cut()
    assert client.hear() == ""
    assert proxy.connections == 0
    other = Client(proxy.port)
    other.say("again")
    assert other.hear() == "again"
    other.socket.close()


def test_an_unknown_fault_is_refused(proxy: Proxy) -> None:
    with pytest.raises(ValueError, match="no fault 'slow'"):
        tcp_proxy.obey(proxy, "slow")


def test_as_a_program_it_obeys_its_command_file(echo: int, tmp_path: Path) -> None:
    port = free_port()
    commands = tmp_path / "commands"
    words = [str(port), "127.0.0.1", str(echo), str(commands)]
    program = subprocess.Popen([sys.executable, tcp_proxy.__file__, *words])

    def obeys(line: str) -> None:
        commands.write_text(line)
        until(lambda: commands.read_text() == "")

    try:
        until(commands.exists)
        client = Client(port)
        client.say("zero")
        assert client.hear() == "zero", "the proxy has accepted the connection, so it is an old one"
        obeys("hold old")
        client.say("one")
        assert client.hear(0.2) is None
        obeys("pass")
        assert client.hear() == "one"
        obeys("cut")
        assert client.hear() == ""
        client.socket.close()
    finally:
        program.kill()
        program.wait()
