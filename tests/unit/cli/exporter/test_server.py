"""The server answers GET /metrics on the socket that it is given, and nothing else."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import health

from celery_fleet.cli.exporter import program
from celery_fleet.cli.exporter.program import LOGIN, read
from celery_fleet.cli.exporter.server import serve
from celery_fleet.health.setup import CheckError
from tests.facts import facts
from tests.unit.cli.exporter.documents import parsed

SOURCE = Path(__file__).parents[4] / "src"


class ExporterConnection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self.path))


def ask(path: Path, method: str = "GET", address: str = "/metrics") -> tuple[int, bytes, Any]:
    connection = ExporterConnection(path)
    connection.request(method, address)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, answer.headers


def listening(path: Path) -> socket.socket:
    """Return a socket such as systemd opens."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made


@contextmanager
def serving(
    listening: socket.socket, answer: Callable[[], bytes] = lambda: b"up 1\n"
) -> Iterator[Any]:
    with serve(listening, answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    with serving(listening(tmp_path / "exporter.sock")):
        yield tmp_path / "exporter.sock"


def test_metrics_on_a_unix_socket(path: Path) -> None:
    status, content, headers = ask(path)
    assert (status, content) == (200, b"up 1\n")
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "Python" not in headers["Server"]


@pytest.mark.parametrize(
    ("method", "address"),
    [
        ("GET", "/"),
        ("GET", "/metrics/"),
        ("GET", "/metricsx"),
        ("GET", "/[?/metrics"),
        ("GET", "/../metrics"),
        ("POST", "/metrics"),
        ("HEAD", "/metrics"),
        ("DELETE", "/metrics"),
        ("GARBAGE", "/metrics"),
    ],
)
def test_everything_else_is_not_found(method: str, address: str, path: Path) -> None:
    assert ask(path, method, address)[0] == 404


@pytest.mark.parametrize(
    "sent", [b"", b"\n", b"\x16\x03\x01\x02", b"GET", b"GET /metrics HTTP/9\r\n"]
)
def test_a_broken_client_causes_no_error(
    sent: bytes, path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(sent)
    assert ask(path)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_a_client_that_goes_away_while_it_is_answered(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked, gone, ended = (threading.Event() for _ in range(3))

    def answer() -> bytes:
        asked.set()
        gone.wait(30)
        return b"x" * (8 << 20)

    with serving(listening(tmp_path / "e.sock"), answer) as server:
        close = server.shutdown_request
        server.shutdown_request = lambda request: (close(request), ended.set())
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/e.sock")
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert asked.wait(30)
        gone.set()
        assert ended.wait(30)
        assert ask(tmp_path / "e.sock")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_an_internal_error_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def answer() -> bytes:
        raise RuntimeError("no\nway")

    with (
        serving(listening(tmp_path / "e.sock"), answer),
        pytest.raises(http.client.RemoteDisconnected),
    ):
        ask(tmp_path / "e.sock")
    assert capfd.readouterr().err == "<3>the request failed: no way\n"


def test_a_scrape_does_not_wait_for_a_slow_client(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as slow:
        slow.connect(str(path))
        slow.sendall(b"GET /metr")
        assert ask(path)[0] == 200


@pytest.mark.parametrize("address", [("127.0.0.1", 0), ("::1", 0)])
def test_metrics_on_a_loopback_address(address: tuple[str, int]) -> None:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with serving(socket.create_server(address, family=family)) as server:
        connection = http.client.HTTPConnection(*server.server_address[:2])
        connection.request("GET", "/metrics")
        assert connection.getresponse().read() == b"up 1\n"
        connection.close()


# --- its configuration -----------------------------------------------------------------------------------


def configured(directory: Path, **exporter: Any) -> Path:
    """Write exporter.json, as a role makes it from the setup of the health check."""
    made = health.setup(
        facts(directory=str(directory)),
        interval=300,
        checks=[],
        thresholds={},
        on_change=(),
        beat_interval=5,
    )
    own = {"interval": 15, "asks_redis": False, "state": "/var/lib/shop", **exporter}
    path = directory / "shop/exporter.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**made, "certificates": [], "exporter": own}))
    return path


def test_the_exporter_reads_the_setup_of_the_health_check(tmp_path: Path) -> None:
    setup, settings = read(configured(tmp_path, interval=30), tmp_path)
    assert (setup.app, setup.host) == ("shop", "h")
    assert (settings.interval, settings.asks_redis) == (30, False)


def test_the_login_is_read_from_a_credential(tmp_path: Path) -> None:
    path = configured(tmp_path, asks_redis=True)
    with pytest.raises(CheckError, match="missing"):
        read(path, tmp_path)
    (tmp_path / LOGIN).write_text('{"celery": {')
    with pytest.raises(CheckError, match="can't be read"):
        read(path, tmp_path)
    (tmp_path / LOGIN).write_text('{"celery": {"broker_url": "redis://h"}}')
    setup, _ = read(path, tmp_path)
    assert setup.operator == {"celery": {"broker_url": "redis://h"}}


def test_without_a_socket_it_says_what_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    configured(tmp_path)
    monkeypatch.setattr(program, "CONFIGURATION", tmp_path)
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    assert program.main(["shop"]) == 78
    assert "start the unit of the socket" in capfd.readouterr().err


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_mistake_is_one_line(
    content: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(program, "CONFIGURATION", tmp_path)
    if content is not None:
        (tmp_path / "shop").mkdir()
        (tmp_path / "shop/exporter.json").write_text(content)
    assert program.main(["shop"]) == 78
    said = capfd.readouterr().err
    assert said.startswith("<3>")
    assert said.count("\n") == 1


def test_the_program_serves_until_it_is_stopped(tmp_path: Path) -> None:
    configured(tmp_path)
    code = (
        "import pathlib, sys; from celery_fleet.cli.exporter import program; "
        f"program.CONFIGURATION = pathlib.Path({str(tmp_path)!r}); sys.exit(program.main(['shop']))"
    )
    paths = [str(SOURCE), *(entry for entry in sys.path if entry)]
    with listening(tmp_path / "exporter.sock") as ours:
        # systemd's sockets begin at descriptor 3.
        process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{ours.fileno()}', "bash", sys.executable, "-c", code],
            pass_fds=[ours.fileno()],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.pathsep.join(paths),
                "LISTEN_FDS": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            status, content, _ = ask(tmp_path / "exporter.sock")
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=30)
    assert status == 200
    found = parsed(content)
    (about,) = found["celery_fleet_build_info"]
    assert dict(about)["asks_redis"] == "false"
    assert "celery_fleet_memory_available_ratio" in found
    assert process.returncode == -signal.SIGTERM
    assert "Traceback" not in said


def test_it_imports_neither_celery_nor_an_application() -> None:
    code = (
        "import sys; import celery_fleet.cli.exporter.program; "
        "print(*{name.partition('.')[0] for name in sys.modules} & {'celery', 'kombu', 'redis', 'click'})"
    )
    paths = [str(SOURCE), *(entry for entry in sys.path if entry)]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
