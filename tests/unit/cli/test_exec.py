"""Running commands in the application's environment, with a fake systemd-run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.system import exec as module
from celery_fleet.system import exec_target
from celery_fleet.system.exec_request import ExecError, arguments
from tests.unit.cli import host

FAKE = Path(__file__).with_name("fake_systemd_run.py")


class Place:
    """A host with an application and a release."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ignored: tuple[signal.Signals, ...] = ()
        self.fake = root / "fake"
        self.fake.mkdir()
        self.directory = host.install(root)
        self.release = host.release(root)
        (self.directory / "exec.env").write_text(
            'PLAIN="a b"\nCELERY_LOADER="not.ours"\nCELERY_BROKER_URL="redis://elsewhere"\n'
        )
        (self.directory / "credentials/exec.env").write_text('SECRET="pa\\$\\$ word"\n')
        for name in ("systemd-run", "systemctl"):
            path = root / name
            path.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} {self.fake} {name} "$@"\n')
            path.chmod(0o755)

    @property
    def call(self) -> dict[str, list[str]]:
        """Return how systemd-run was called."""
        found: dict[str, list[str]] = json.loads((self.fake / "call.json").read_text())
        return found

    @property
    def script(self) -> str:
        """Return `exec.py` with the paths of this host, for a separate process."""
        return textwrap.dedent(f"""
            import os, sys
            from pathlib import Path
            from celery_fleet.system import exec as module
            from celery_fleet.system import exec_target
            exec_target.CONFIGURATION = Path({str(self.root / "etc")!r})
            module.STATUS = Path({str(self.root / "status")!r})
            module.SYSTEMD_RUN = {str(self.root / "systemd-run")!r}
            module.SYSTEMCTL = {str(self.root / "systemctl")!r}
            module.GRACE = 1
            os.geteuid = lambda: 0
            os.fchown = lambda *_: None
            # Whatever started the tests.
            for number in module.SIGNALS:
                ignored = number in {tuple(map(int, self.ignored))!r}
                module.signal.signal(number, 1 if ignored else 0)
            sys.exit(module.main(sys.argv[1:]))
        """)

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", self.script, "--app", "shop", *argv],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(host.SOURCE), "STRANGE": "x"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def run(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        process = self.start(*argv)
        out, err = process.communicate(stdin, timeout=120)
        return subprocess.CompletedProcess(argv, process.returncode, out, err)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_command_has_the_applications_environment_and_nothing_else(place: Place) -> None:
    done = place.run("--", "python", "-c", "import json, os; print(json.dumps(dict(os.environ)))")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["PLAIN"], seen["SECRET"]) == ("a b", "pa$$ word")
    assert seen["CELERY_LOADER"] == "celery_fleet.loader.FleetLoader"
    assert (seen["CELERY_APP"], seen["CELERY_FLEET_COMPONENT"]) == ("shop.celery", "producer")
    assert seen["CELERY_FLEET_RELEASE"] == "r1"
    assert not {"STRANGE", "CELERY_BROKER_URL"} & set(seen)
    given = json.loads((Path(seen["CREDENTIALS_DIRECTORY"]) / "settings.json").read_text())
    assert given["component"] == "producer"


def test_nothing_secret_is_in_a_command_line(place: Place) -> None:
    place.run("--as", "operator", "--", "python", "-c", "pass")
    text = json.dumps(place.call)
    assert "word" not in text
    assert host.PASSWORD not in text
    wanted = f"--property=LoadCredential=settings.json:{place.directory}/credentials/operator.json"
    assert wanted in place.call["options"]
    for item in (f"User={host.document(place.root)['user']}", "NoNewPrivileges=yes", "UMask=0077"):
        assert f"--property={item}" in place.call["options"]


def test_a_command_can_have_another_umask(place: Place) -> None:
    place.run("--umask", "0027", "--", "python", "-c", "pass")
    assert "--property=UMask=0027" in place.call["options"]


def test_the_certificate_for_redis_is_a_credential_as_well(place: Place) -> None:
    path = place.directory / "credentials/producer.json"
    document = json.loads(path.read_text())
    (place.directory / "pki").mkdir()
    for name in ("host.crt", "host.key"):
        (place.directory / "pki" / name).write_text(name)
    pair = {"ssl_certfile": "pki/host.crt", "ssl_keyfile": "pki/host.key"}
    document["celery"]["broker_use_ssl"] = {
        **{option: f"{place.directory}/{name}" for option, name in pair.items()},
        "ssl_ca_certs": f"{place.directory}/pki/ca.crt",
    }
    path.write_text(json.dumps(document))
    place.run("--", "python", "-c", "pass")
    given = [item for item in place.call["options"] if "LoadCredential" in item]
    assert [item.rpartition("=")[2] for item in given] == [
        f"settings.json:{path}",
        f"host.crt:{place.directory}/pki/host.crt",
        f"host.key:{place.directory}/pki/host.key",
    ]


def test_arguments_reach_the_command_unchanged(place: Place) -> None:
    words = ["$HOME", "${PLAIN}", "$$", "%n", 'a "b" c', "", "*", "a\nb"]
    program = "import json, sys; print(json.dumps(sys.argv[1:]))"
    assert json.loads(place.run("--", "python", "-c", program, *words).stdout) == words


def test_it_runs_in_the_code_of_the_release(place: Place) -> None:
    assert place.run("--", "pwd").stdout.strip() == str(place.release / "source")
    other = host.release(place.root, "r2", current=False)
    assert place.run("--release", "r2", "--", "pwd").stdout.strip() == str(other / "source")


def test_input_and_output_pass_through(place: Place) -> None:
    done = place.run("--", "sh", "-c", "cat; echo bad >&2", stdin="one\ntwo\n")
    assert (done.stdout, done.stderr) == ("one\ntwo\n", "bad\n")


def test_output_goes_to_a_file_if_one_is_named(place: Place) -> None:
    path = place.root / "kept"
    path.write_text("before\n")
    done = place.run("--output", str(path), "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert path.read_text() == "before\nout\nerr\n"


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 78", 78),
        ("exit 255", 255),
        # For systemd-run itself, the first two succeeded.
        ("kill -TERM $$", 143),
        ("kill -INT $$", 130),
        ("kill -KILL $$", 137),
    ],
)
def test_the_exit_status_is_the_commands(place: Place, script: str, status: int) -> None:
    assert place.run("--", "sh", "-c", script).returncode == status


def test_the_command_can_write_its_status_with_any_umask_of_the_caller(place: Place) -> None:
    """The program that starts release commands has a restrictive umask."""
    process = place.start("--", "true", umask=0o077)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert (place.root / "status").stat().st_mode & 0o777 == 0o711


def test_a_command_that_is_killed_with_its_supervisor(place: Place) -> None:
    assert place.run("--", "sh", "-c", "kill -KILL $PPID $$").returncode == 137


@pytest.mark.slow
def test_a_command_that_takes_too_long_is_stopped(place: Place) -> None:
    done = place.run("--timeout", "0.5", "--", "sleep", "30")
    assert done.returncode == 124
    assert done.stderr == "celery-fleet exec: sleep 30 took more than 0.5 s and was stopped\n"


def test_a_long_timeout_is_a_number_that_systemd_reads(place: Place) -> None:
    assert place.run("--timeout", "1234567.5", "--", "true").returncode == 0
    assert "--property=RuntimeMaxSec=1234568.500" in place.call["options"]  # and GRACE, here 1


@pytest.mark.slow
def test_a_command_that_does_not_end_when_it_is_told_to(place: Place) -> None:
    began = time.monotonic()
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(30)"
    assert place.run("--timeout", "0.5", "--", "python", "-c", script).returncode == 124
    assert time.monotonic() - began < 25


def exists(path: Path) -> None:
    """Wait for a file."""
    for _ in range(1500):
        if path.exists():
            return
        time.sleep(0.02)
    raise AssertionError(path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on(place: Place, number: signal.Signals) -> None:
    script = f"""
import signal, sys, time
for number in (1, 2, 15):
    signal.signal(number, lambda n, f: sys.exit(100 + n))
open({str(place.root / "ready")!r}, "w")
time.sleep(20)
"""
    process = place.start("--", "python", "-c", script)
    exists(place.root / "ready")
    process.send_signal(number)
    process.communicate(timeout=15)
    assert process.returncode == 100 + number


@pytest.mark.slow
def test_a_signal_waits_until_the_command_can_receive_it(place: Place) -> None:
    """The shell above the command ignores signals, and would run the command in spite of them."""
    (place.fake / "slow").touch()
    process = place.start("--", "sh", "-c", "sleep 5; exit 7")
    exists(place.fake / "pid")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130


def test_a_signal_is_forwarded_although_systemd_run_does_not_run_yet_or_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >>{told}\n')
    systemctl.chmod(0o755)
    monkeypatch.setattr(module, "SYSTEMCTL", str(systemctl))
    status = tmp_path / "status"
    status.write_text("\n")
    running = module.Running("u.service", status)
    running.forward(signal.SIGTERM)
    assert not told.exists()
    with subprocess.Popen(["sleep", "60"]) as process:
        running.started(process)
        process.kill()
    # Closing a terminal also ends systemd-run.
    running.forward(signal.SIGHUP)
    assert told.read_text() == "kill --signal=15 u.service\nkill --signal=1 u.service\n"


#: What `exec.py` does with Ctrl-C: it forwards it, and waits until the command has ended.
FORWARDS = """
import signal, sys, time
def forward(*_):
    time.sleep(1)
    print("ended", file=sys.stderr, flush=True)
    print({answer!r})
    sys.exit({status})
signal.signal(signal.SIGINT, forward)
print("ready", file=sys.stderr, flush=True)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "status", "said"), [("", 130, "interrupted"), ('{"ok": true}', 0, "{'ok': True}")]
)
def test_ctrl_c_does_not_end_a_question_before_its_command(
    answer: str, status: int, said: str
) -> None:
    """If the command has answered all the same, its answer counts."""
    script = textwrap.dedent(f"""
        import signal, sys
        from celery_fleet.cli import ask
        # A shell that started the tests in the background had SIGINT ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        forwards = {FORWARDS.format(answer=answer, status=status)!r}
        ask.exec_command = lambda *_: [sys.executable, "-c", forwards]
        try:
            print(ask.in_release(None, "producer", ["true"], 60, errors=True), file=sys.stderr)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(host.SOURCE)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=30)[1] == f"ended\n{said}\n"


@pytest.mark.slow
def test_an_ignored_signal_is_not_passed_on(place: Place) -> None:
    """`nohup celery-fleet exec -- … &`, and then a logout."""
    place.ignored = (signal.SIGHUP,)
    script = f"touch {place.root}/ready; sleep 1; exit 7"
    process = place.start("--", "sh", "-c", script)
    exists(place.root / "ready")
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=15)
    assert process.returncode == 7
    assert not (place.fake / "control").exists()


def test_its_status_file_is_removed_afterwards(place: Place) -> None:
    place.run("--", "true")
    assert list((place.root / "status").iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["--", "no-such-thing"], 127, "no-such-thing: there is no such command in "),
        (["--", "./nothing.sh"], 127, "./nothing.sh: there is no "),
        (["--", "./data.txt"], 126, "./data.txt: "),
        (["--", "data.txt"], 127, "use `python data.txt` or `./data.txt`"),
        (["--release", "r9", "--", "true"], 125, "there is no release r9 of shop"),
        (["--release", "../x", "--", "true"], 125, "is not the name of a release"),
        (["--as", "beat", "--", "true"], 125, "beat.json is missing; run this on the host of beat"),
        (
            ["--as", "schedule", "--", "true"],
            125,
            "schedule.json is missing; run this on the host of beat",
        ),
        (["--as", "worker", "--", "true"], 125, "argument --as: invalid choice: 'worker'"),
        (["--timeout", "0", "--", "true"], 125, "--timeout 0: must be a number of seconds"),
        (
            ["--timeout", "1e300", "--", "true"],
            125,
            "a number of seconds above 0, 1000000000 at most",
        ),
        (["--output", "/no/such/dir/file", "--", "true"], 125, "--output /no/such/dir/file: can't"),
        (["--unit", "bad/x", "--", "true"], 125, "--unit 'bad/x' can't be the name of a unit"),
        (["true"], 125, "no command: usage:"),
        (["--"], 125, "no command after --"),
        (["--frob", "x", "--", "true"], 125, "unrecognized arguments: --frob x; usage: "),
        (["--timeout", "--", "true"], 125, "argument --timeout: expected one argument; usage: "),
    ],
)
def test_mistakes_are_one_line(place: Place, argv: list[str], status: int, words: str) -> None:
    (place.release / "source/data.txt").write_text("x\n")
    done = place.run(*argv)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("celery-fleet exec: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_unit_that_systemd_refuses(place: Place) -> None:
    (place.fake / "refuse").touch()
    done = place.run("--unit", "mine", "--", "true")
    assert done.returncode == 125
    assert "the command did not start" in done.stderr
    assert "journalctl -u mine.service -n 20" in done.stderr


def test_a_unit_that_already_runs(place: Place) -> None:
    (place.root / "status").mkdir()
    (place.root / "status/mine.service.status").touch()
    done = place.run("--unit", "mine", "--", "true")
    assert (done.returncode, "mine.service is running already" in done.stderr) == (125, True)


def test_a_host_without_a_release(place: Place) -> None:
    (place.root / "opt/shop/current").unlink()
    done = place.run("--", "true")
    assert (done.returncode, "shop has no release on this host" in done.stderr) == (125, True)


def test_an_environment_that_was_never_written(place: Place) -> None:
    (place.directory / "credentials/exec.env").unlink()
    done = place.run("--", "true")
    assert (done.returncode, "exec.env is missing; run site.yml again" in done.stderr) == (
        125,
        True,
    )


def test_an_application_that_is_not_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exec_target, "CONFIGURATION", tmp_path)
    with pytest.raises(ExecError, match="no application shop on this host"):
        exec_target.application("shop")
    with pytest.raises(ExecError, match="not the name of an application"):
        exec_target.application("../shop")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/cli.json").write_text("{}")
    with pytest.raises(ExecError, match="can't be read"):
        exec_target.application("shop")


def test_only_root_may_run_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ExecError, match="only root"):
        module.run(arguments(["--app", "shop", "--", "true"]))


def test_as_a_file_it_only_needs_the_standard_library(tmp_path: Path) -> None:
    script = str(host.SOURCE / "celery_fleet/system/exec.py")
    done = subprocess.run(
        [sys.executable, "-S", "-I", script, "--app", "no-such", "--", "true"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 125
    assert done.stderr.startswith("celery-fleet exec: ")


def unit_command(place: Place, terminal: bool) -> list[str]:
    """Return systemd-run's command line for `echo done`."""
    app = exec_target.ExecApplication(
        "shop", "shop.celery", "nobody", place.root / "opt/shop", place.directory, "shop.slice"
    )
    request = arguments(["--app", "shop", "--", "echo", "done"])
    status = place.root / "ended"
    return module.unit_command(
        app, request, release=place.release, unit="u", status=status, terminal=terminal
    )


def test_a_status_file_of_any_size_is_read_in_part(tmp_path: Path) -> None:
    """The command's user can write to it, and root reads it."""
    status = tmp_path / "status"
    status.write_bytes(b"3\n" + b" " * (8 << 20))
    tracemalloc.start()
    try:
        assert module.outcome(status, 3, "u") == 3
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_status_that_is_no_number_is_one_line(tmp_path: Path) -> None:
    status = tmp_path / "status"
    # A digit for str.isdigit, and not for int.
    status.write_text("²")
    with pytest.raises(ExecError, match="journalctl -u u -n 20"):
        module.outcome(status, 1, "u")


def test_a_terminal_passes_through(place: Place) -> None:
    """Only the option for systemd-run is checked; tests on hosts have a real terminal."""
    for terminal, flag in ((True, "--pty"), (False, "--pipe")):
        line = unit_command(place, terminal)
        assert flag in line
        assert not {"--pty", "--pipe"} - {flag} & set(line)


def test_at_a_terminal_the_unit_outlives_its_command(place: Place) -> None:
    """When the unit ends, systemd-run stops reading what the command printed."""
    line = unit_command(place, terminal=True)
    shell = [word.replace("$$", "$") for word in line[line.index("--") + 1 :]]
    supervisor = shell[: shell.index("/usr/bin/env")]
    # The command says itself when it ran, because on a busy machine its output may be read late.
    told = subprocess.run(
        [*supervisor, "date", "+%s.%N"], check=True, timeout=60, stdout=subprocess.PIPE
    )
    assert time.time() - float(told.stdout) >= module.LINGER
    assert (place.root / "ended").read_text() == "0\n"
    assert str(module.LINGER) not in unit_command(place, terminal=False)
