"""Small scripts for the hosts, and the one that waits until services serve."""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import host_scripts
from ansible_collections.celery_fleet.core.plugins.plugin_utils.scripts import serving

from scripts.ports import free_port
from tests.support.certificates import Authority


def test_a_script_is_one_word_of_the_command() -> None:
    source = 'print(\'a "b"\')\nprint("$HOME `ls`")\n'
    words = shlex.split(host_scripts.command(source))
    assert words == ["/usr/bin/python3", "-S", "-I", "-c", source]


def test_a_script_imports_nothing_from_where_it_is_run(tmp_path: Path) -> None:
    """The working directory is the home of the user who logs in, and the script runs as root."""
    (tmp_path / "json.py").write_text("print('the home of a user')\n")
    done = subprocess.run(
        ["/bin/sh", "-c", host_scripts.command("import json; print(json.dumps({}))")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "{}\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["ops/probe.py"], "-m celery_fleet.ops.probe"),
        (["probe.py"], "-m celery_fleet.probe"),
        (None, None),
    ],
    ids=["this runtime", "one of before the packages", "no worker"],
)
def test_workers_are_asked_with_the_runtime_that_they_run_with(
    tmp_path: Path, files: list[str] | None, expected: str | None
) -> None:
    runtime, programs = tmp_path / "runtime", tmp_path / "bin"
    for name in files or ():
        path = runtime / "celery_fleet" / name
        path.parent.mkdir(parents=True)
        path.touch()
    python = tmp_path / "pins/worker-mail/venv/bin/python"
    for path, text in (
        (python, 'echo "$PYTHONPATH $*"'),
        (programs / "setpriv", 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    if files is not None:
        (tmp_path / "worker-mail.env").write_text(f'A="b"\nPYTHONPATH="{runtime}"\n')
    done = subprocess.run(
        ["/bin/sh", "-c", host_scripts.deployed_probe(str(tmp_path), str(tmp_path), "shop")],
        env={"PATH": f"{programs}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    if expected is None:
        assert (done.returncode, done.stdout) == (0, "{}\n")
    else:
        assert (done.returncode, done.stdout) == (0, f"{runtime} {expected}\n")


@pytest.mark.parametrize("deployed", [False, True])
def test_a_probe_gets_nothing_of_roots_environment(tmp_path: Path, deployed: bool) -> None:
    """The release's code can read it, and `environment:` or sudo may have added passwords."""
    runtime, programs = tmp_path / "runtime", tmp_path / "bin"
    python = tmp_path / "pins/worker-mail/venv/bin/python"
    for path, text in (
        (python, "exec /usr/bin/env"),
        (programs / "setpriv", 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    (tmp_path / "worker-mail.env").write_text(f'PYTHONPATH="{runtime}"\n')
    command = (
        host_scripts.deployed_probe(str(tmp_path), str(tmp_path), "shop")
        if deployed
        else host_scripts.probe(str(python), str(runtime), "shop")
    )
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env={"PATH": f"{programs}:/usr/bin:/bin", "HTTPS_PROXY": "http://u:s3cr3t@proxy"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    for name in ("PWD", "_", "SHLVL", "OLDPWD"):
        # The shell that is our Python here sets them.
        found.pop(name, None)
    assert found == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/nonexistent",
        "PYTHONPATH": str(runtime),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def test_requests_to_the_serving_script() -> None:
    command, stdin = host_scripts.serving(
        journals=["no-such.service"], schedule="/run/x.json", release="/r.json", timeout=3
    )
    assert command == host_scripts.call("serving", {})[0]
    assert json.loads(stdin.splitlines()[1]) == {
        **request(),
        "journals": ["no-such.service"],
        "schedule": "/run/x.json",
        "release": "/r.json",
        "timeout": 3,
        "stable_for": 10,
    }


@pytest.mark.parametrize("path", sorted(Path(serving.__file__).parent.glob("*.py")))
def test_no_script_is_in_a_command_line(path: Path) -> None:
    """sudo logs these, every few seconds in a run."""
    command, stdin = host_scripts.call(path.stem, {"a": 1})
    assert len(command) < 200
    assert [json.loads(line) for line in stdin.splitlines()] == [path.read_text(), {"a": 1}]


def test_a_script_gets_its_request() -> None:
    command, stdin = host_scripts.serving(journals=["no-such.service"])
    done = subprocess.run(
        ["/bin/sh", "-c", command], input=stdin, capture_output=True, check=False, timeout=20
    )
    answer = host_scripts.answer({"rc": done.returncode, "stdout": done.stdout.decode()})
    assert list(answer["journals"]) == ["no-such.service"]


def test_scripts_need_nothing_but_the_standard_library() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", host_scripts.script("serving")],
        input=json.dumps(request()),
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert host_scripts.answer({"rc": 0, "stdout": done.stdout}) == {
        "units": {},
        "journals": {},
        "schedule": [],
        "zone": "",
        "code": [],
        "errors": {},
    }


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"rc": 0, "stdout": 'a login greets\n{"a": 1}\n'}, {"a": 1}),
        ({"rc": 0, "stdout": "[]"}, []),
    ],
)
def test_the_answer_is_the_last_line(result: dict[str, Any], expected: Any) -> None:
    assert host_scripts.answer(result) == expected


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"rc": 1, "stdout": "{}", "stderr": "Traceback\nKeyError: 'x'\n"}, "KeyError: 'x'"),
        ({"rc": 127, "stdout": "sh: python3: not found\n", "stderr": ""}, "sh: python3: not found"),
        ({"rc": 0, "stdout": "not JSON"}, "not JSON"),
        ({"rc": 255}, "no answer, exit status 255"),
        ({"rc": 0, "stdout": "\n"}, "no answer, exit status 0"),
    ],
)
def test_no_answer_is_an_error_with_the_last_words(result: dict[str, Any], words: str) -> None:
    with pytest.raises(host_scripts.RemoteError) as caught:
        host_scripts.answer(result)
    assert str(caught.value) == words


def test_a_probe_that_ends_without_output_is_named_by_its_exit_status() -> None:
    """As when the kernel kills it for memory."""
    with pytest.raises(host_scripts.RemoteError, match="exit status 137"):
        host_scripts.finding({"rc": 137, "stdout": ""})
    assert host_scripts.finding({"rc": 1, "stdout": '{"errors": ["x"]}'}) == {"errors": ["x"]}


# --- serving -----------------------------------------------------------------------------------------


def request(**more: Any) -> dict[str, Any]:
    base = {"units": [], "addresses": [], "journals": [], "schedule": "", "release": ""}
    return {**base, "timeout": 0, "stable_for": 10, "restarts": None, **more}


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"ActiveState": "active", "NRestarts": "0"}, True),
        # A socket has no restarts, a target neither.
        ({"ActiveState": "active"}, True),
        ({"ActiveState": "active", "NRestarts": ""}, True),
        ({"ActiveState": "activating", "NRestarts": "0"}, False),
        ({"ActiveState": "failed"}, False),
        ({}, False),
    ],
)
def test_states_that_count_as_up(state: dict[str, str], expected: bool) -> None:
    assert serving.up(state, 10) is expected


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, False), (60.0, True)])
def test_a_unit_that_was_started_again_has_to_stay_up(seconds: float, expected: bool) -> None:
    since = int((time.clock_gettime(time.CLOCK_MONOTONIC) - seconds) * 1e6)
    state = {
        "ActiveState": "active",
        "NRestarts": "3",
        "ActiveEnterTimestampMonotonic": str(since),
    }
    assert serving.up(state, 30) is expected


def test_states_of_units_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        serving,
        "run",
        lambda *command: "ActiveState=active\nStatusText=a=b\n\nActiveState=failed\n",
    )
    assert serving.states(["x", "y"]) == {
        "x": {"ActiveState": "active", "StatusText": "a=b"},
        "y": {"ActiveState": "failed"},
    }


def test_a_unit_that_systemd_says_nothing_of_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "run", lambda *command: "Failed to connect to bus: Host is down\n")
    found = serving.states(["x", "y"])
    assert list(found) == ["x", "y"]
    assert not any(serving.up(state, 0) for state in found.values())


def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **more: Any) -> Any:
    class Input:
        @staticmethod
        def read() -> str:
            return json.dumps(request(**more))

    monkeypatch.setattr(sys, "stdin", Input)
    serving.main()
    return host_scripts.answer({"rc": 0, "stdout": capsys.readouterr().out})


def test_it_waits_until_a_unit_is_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    course = iter(["activating", "activating", "active"])
    monkeypatch.setattr(serving, "run", lambda *command: f"ActiveState={next(course)}\nMainPID=0\n")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert answer(monkeypatch, capsys, units=["a.service"], timeout=60)["errors"] == {}


def test_the_wait_is_bounded_and_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*command: str) -> str:
        if command[0] == "journalctl":
            return f"the journal of {command[-1]}\n"
        return "ActiveState=activating\nSubState=start\nResult=success\nNRestarts=2\nMainPID=7\nStatusText=waiting\n"

    monkeypatch.setattr(serving, "run", run)
    found = answer(monkeypatch, capsys, units=["a.service"], journals=["b.service"])
    assert found["errors"]["a.service"].splitlines() == [
        "it is activating (start, result success, restarted 2 times), it says “waiting”",
        "the journal of a.service",
    ]
    assert found["journals"] == {"b.service": "the journal of b.service"}


def test_the_schedule_that_beat_has_loaded_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "schedule.json"
    assert "No such file" in answer(monkeypatch, capsys, schedule=str(path))["errors"]["beat"]
    path.write_text("{")
    assert "beat" in answer(monkeypatch, capsys, schedule=str(path))["errors"]
    path.write_text('{"entries": [{"name": "x"}]}')
    found = answer(monkeypatch, capsys, schedule=str(path))
    assert (found["schedule"], found["zone"], found["errors"]) == ([{"name": "x"}], "", {})
    path.write_text('{"entries": [{"name": "x"}], "zone": "Europe/Berlin"}')
    assert answer(monkeypatch, capsys, schedule=str(path))["zone"] == "Europe/Berlin"


def test_a_schedule_of_thousands_of_entries_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "schedule.json"
    entries = [{"name": f"invoice {number}", "task": "t" * 250} for number in range(10_000)]
    path.write_text(json.dumps({"entries": entries}))
    found = answer(monkeypatch, capsys, schedule=str(path))
    assert (found["schedule"], found["errors"]) == (entries, {})
    # Too many to show is no error.
    monkeypatch.setattr(serving, "_LARGEST", path.stat().st_size - 1)
    found = answer(monkeypatch, capsys, schedule=str(path))
    assert (found["schedule"], found["errors"]) == (None, {})


def test_the_schedule_in_a_releases_code_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    note = tmp_path / "release.json"
    # Neither a missing one nor one of an older version is an error: it says nothing of a schedule.
    assert answer(monkeypatch, capsys, release=str(note))["code"] == []
    note.write_text('{"tasks": []}')
    assert answer(monkeypatch, capsys, release=str(note))["code"] == []
    note.write_text('{"application": {"schedule": {"b": {}, "a": {}}}}')
    assert answer(monkeypatch, capsys, release=str(note))["code"] == ["a", "b"]


def test_a_socket_that_no_process_uses_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """systemd accepts the connection, so all that is seen is that no answer comes."""
    path = str(tmp_path / "web.sock")
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(path)
        held.listen()
        monkeypatch.setattr(socket.socket, "settimeout", lambda stream, seconds: set_soon(stream))
        text = serving.fetch({"host": "shop", "path": "/", "listen": path})
    assert text.startswith(f"no answer in time at {path}. The process may be busy")
    assert "celery_producer_web.command has to use file descriptor 3" in text


def set_soon(stream: socket.socket, settimeout: Any = socket.socket.settimeout) -> None:
    settimeout(stream, 0.1)


class Server:
    """Answers each connection with one line, over TLS."""

    def __init__(
        self, authority: Authority, directory: Path, *, names: list[str], line: bytes
    ) -> None:
        certificate, key = authority.issue(names)
        pair = directory / "server.pem"
        pair.write_text(key + certificate)
        self.ca = directory / "ca.crt"
        self.ca.write_text(authority.pem)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pair)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.line = line
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        try:
            plain, _ = self.listener.accept()
            with plain, self.context.wrap_socket(plain, server_side=True) as stream:
                stream.recv(4096)
                stream.sendall(self.line)
        except OSError:
            return  # the client did not like the certificate

    def close(self) -> None:
        self.listener.close()
        self.thread.join(10)

    def fetch(self, status: list[int], ca: str = "", **more: str) -> str:
        address = {"host": "127.0.0.1", "port": self.port, "path": "/", "ca": ca or str(self.ca)}
        return serving.fetch({**address, "status": status, **more})


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    made = Server(Authority("fleet"), tmp_path, **request.param)
    yield made
    made.close()


OK = {"names": ["IP:127.0.0.1"], "line": b"HTTP/1.1 401 Unauthorized\r\n\r\n"}


@pytest.mark.parametrize("server", [OK], indirect=True)
def test_an_address_that_answers_as_expected(server: Server) -> None:
    assert server.fetch([200, 401]) == ""


@pytest.mark.parametrize("server", [OK], indirect=True)
def test_an_address_that_answers_otherwise(server: Server) -> None:
    assert server.fetch([200]) == "answered “HTTP/1.1 401 Unauthorized”"


@pytest.mark.parametrize(
    ("server", "well"),
    [
        ({**OK, "line": b"HTTP/1.1 %d Words\r\n\r\n" % status}, status < 500)
        for status in (200, 204, 303, 400, 401, 404, 405, 429, 500, 502, 503)
    ],
    indirect=["server"],
)
def test_any_answer_but_a_server_error_shows_that_a_site_works(server: Server, well: bool) -> None:
    assert (server.fetch([]) == "") is well


@pytest.mark.parametrize("server", [{**OK, "line": b"\x15\x03"}], indirect=True)
def test_an_address_that_does_not_speak_http(server: Server) -> None:
    assert server.fetch([200]).startswith("answered “")


@pytest.mark.parametrize("server", [{**OK, "names": ["DNS:other"]}], indirect=True)
def test_a_certificate_for_another_name(server: Server) -> None:
    assert "SSLCertVerificationError" in server.fetch([401])


@pytest.mark.parametrize("server", [{**OK, "names": ["DNS:shop.example.org"]}], indirect=True)
def test_a_site_with_a_name_and_a_certificate_of_its_own(server: Server, tmp_path: Path) -> None:
    """Neither has this host an address for the name, nor need it know the authority."""
    own = tmp_path / "server.pem"
    assert server.fetch([401], str(own), host="shop.example.org", address="127.0.0.1") == ""


@pytest.mark.parametrize("server", [OK], indirect=True)
def test_a_certificate_of_another_authority(server: Server, tmp_path: Path) -> None:
    other = tmp_path / "other.crt"
    other.write_text(Authority("other").pem)
    assert "SSLCertVerificationError" in server.fetch([401], str(other))


def test_a_missing_server_and_a_missing_authority_are_errors(tmp_path: Path) -> None:
    wanted = {"host": "127.0.0.1", "port": free_port(), "path": "/", "status": [200]}
    ca = tmp_path / "ca.crt"
    ca.write_text(Authority("fleet").pem)
    assert "ConnectionRefusedError" in serving.fetch({**wanted, "ca": str(ca)})
    assert "FileNotFoundError" in serving.fetch({**wanted, "ca": str(tmp_path / "none")})


@contextlib.contextmanager
def process(family: socket.AddressFamily, place: Any, *lines: str) -> Iterator[str]:
    """Listen like a process without TLS, and give each request the next answer."""

    def serve() -> None:
        for line in lines:
            stream, _ = listener.accept()
            with stream:
                stream.recv(4096)
                stream.sendall(line.encode() + b"\r\n\r\n")

    with socket.socket(family) as listener:
        listener.bind(place)
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        name = listener.getsockname()
        if family == socket.AF_INET6:
            yield f"[{name[0]}]:{name[1]}"
        else:
            yield name if isinstance(name, str) else f"{name[0]}:{name[1]}"
        thread.join(10)


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6])
def test_a_process_is_asked_on_its_own_socket(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    family: socket.AddressFamily,
) -> None:
    """It may be running long before it answers, or answer with errors at first."""
    monkeypatch.setattr(serving, "run", lambda *command: "ActiveState=active\nMainPID=7\n")
    places = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0)}
    place = places.get(family, str(tmp_path / "web.sock"))
    wanted: dict[str, Any] = {"name": "web.service", "host": "shop.example.org", "path": "/"}
    with process(family, place, "HTTP/1.1 503 Not yet", "HTTP/1.1 404 Not Found") as listen:
        addresses = [{**wanted, "listen": listen}]
        found = answer(
            monkeypatch, capsys, units=["web.service"], addresses=addresses, timeout=60, restarts=2
        )
    assert found["errors"] == {}
    found = answer(monkeypatch, capsys, units=["web.service"], addresses=addresses)
    assert found["errors"]["web.service"].startswith("did not serve within 0 s: ConnectionRefused")


@pytest.mark.parametrize(
    ("course", "looks"),
    [
        ([("activating", 5 + n) for n in range(9)], 4),
        ([("active", 0), ("failed", 0)], 2),
    ],
    ids=["restarted again and again", "failed"],
)
def test_a_wait_for_a_process_that_will_not_serve_ends_early(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    course: list[tuple[str, int]],
    looks: int,
) -> None:
    ahead = iter(course)

    def run(*command: str) -> str:
        if command[0] == "journalctl":
            return "ModuleNotFoundError: No module named 'shop'\n"
        state, number = next(ahead)
        return f"ActiveState={state}\nNRestarts={number}\nMainPID=0\n"

    monkeypatch.setattr(serving, "run", run)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    wanted = {"name": "web.service", "host": "h", "path": "/", "listen": str(tmp_path / "none")}
    found = answer(
        monkeypatch, capsys, units=["web.service"], addresses=[wanted], timeout=600, restarts=2
    )
    assert len(list(ahead)) == len(course) - looks
    assert found["errors"]["web.service"].endswith("\nModuleNotFoundError: No module named 'shop'")


def test_a_probe_is_passed_what_its_user_can_not_read(tmp_path: Path) -> None:
    """By root, on the host: neither the run nor a command line has the key."""
    (tmp_path / "host.crt").write_text("certificate\n")
    (tmp_path / "host.key").write_text("key\n")
    pair = {"ssl_certfile": f"{tmp_path}/host.crt", "ssl_keyfile": f"{tmp_path}/host.key"}
    tls = {"ssl_ca_certs": "/ca.crt", **pair}
    settings = {"celery": {"broker_use_ssl": tls, "redis_backend_use_ssl": tls, "x": 1}}
    line = host_scripts.with_identity("cat; exit 3", settings)
    request = json.dumps({"settings": settings, "nodes": {"a'b": 1}})
    done = subprocess.run(
        ["/bin/sh", "-c", line], input=request, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (3, "")
    seen = json.loads(done.stdout)
    assert seen["nodes"] == {"a'b": 1}
    for name in ("broker_use_ssl", "redis_backend_use_ssl"):
        assert seen["settings"]["celery"][name] == {
            "ssl_ca_certs": "/ca.crt",
            "ssl_certfile": "certificate\n",
            "ssl_keyfile": "key\n",
        }
    (tmp_path / "host.key").unlink()
    done = subprocess.run(
        ["/bin/sh", "-c", line], input=request, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "host.key" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_probe_without_a_certificate_is_run_directly() -> None:
    for celery in ({}, {"broker_use_ssl": None}, {"broker_use_ssl": {"ssl_ca_certs": "/ca.crt"}}):
        assert host_scripts.with_identity("probe", {"celery": celery}) == "probe"
