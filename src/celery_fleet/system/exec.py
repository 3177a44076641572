"""Run a command as the application's user, with exactly the application's environment and credentials.

    /usr/bin/python3 -S -I exec.py --app APP [--as producer|operator|…] [--release ID] [--timeout SECONDS]
        [--unit NAME] [--output PATH] [--umask MODE] -- CMD…

Runs as root with the system's Python; standard library only. ``/etc/celery-fleet/<app>/cli.json`` describes the
application and its directories. The command becomes a transient unit, so systemd gives it what the application's
processes get: the environment files, which only root may read, and the settings as a credential. No command line
contains them. :mod:`celery_fleet.system.launch` starts it in the release, by default ``<root>/current``.
``python``, ``celery`` and so on are the release's; other commands are looked up as a shell does.

A terminal is passed through if there is one; signals to this process are forwarded. The exit status is the
command's (128 plus the signal's number if a signal ended it), or

    124  the command took longer than ``--timeout`` and was stopped
    125  it could not be started; one line says what, where and what to do next
    126  it can't be run; 127 there is no such command
"""

from __future__ import annotations

# Built into Python. The module `signal` loads others from files first, and Ctrl-C could come meanwhile.
import _signal  # type: ignore[import-not-found]  # typeshed does not have it

if __name__ == "__main__":
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        # During the imports Ctrl-C ends this process without a traceback. main() restores the handler.
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    # `celery-fleet exec` blocks it while Python itself starts.
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGINT,))

import os
import pwd
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

if __name__ == "__main__":
    # Run as a file by `python3 -I`, which leaves its directory out of the path; the package is above it.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from celery_fleet.system import launch
from celery_fleet.system.exec_request import TIMED_OUT, ExecError, ExecRequest, arguments
from celery_fleet.system.exec_target import (
    ENVIRONMENT,
    SEARCH,
    ExecApplication,
    application,
    credential,
    environment,
    program,
    release_of,
    shown,
)

#: Files with the exit statuses of commands: systemd-run's own status does not distinguish signals or its own failures.
STATUS = Path("/run/celery-fleet-exec")
SYSTEMD_RUN = "/usr/bin/systemd-run"
SYSTEMCTL = "/usr/bin/systemctl"
#: Seconds between SIGTERM and SIGKILL for a command that must stop.
GRACE = 10
#: Seconds for which a signal waits for a command that does not start; then its unit is stopped.
PATIENCE = 30
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

#: Seconds for which the unit outlives a command at a terminal. systemd-run ends with the unit, and on a busy machine it
#: has not always read the command's last output by then: of 480 runs it lost that of 36, and of none after 0.05 s.
LINGER = 0.3

# The shell stays as the command's parent, because only the parent learns how it ended. The signals are for the command;
# the command does not inherit a trap, unlike an ignored signal. The shell prints nothing itself, such as "Terminated".
# The empty line shows that signals now reach the command. The shell would ignore one that comes before.
_SUPERVISOR = (
    "trap : HUP INT QUIT TERM; status=$1; linger=$2; shift 2; exec 3>&2 2>/dev/null; "
    '(echo >"$status"; exec "$@" 2>&3 3>&-); code=$?; echo "$code" >"$status"; sleep "$linger"; exit "$code"'
)


def unit_command(
    app: ExecApplication,
    request: ExecRequest,
    *,
    release: Path,
    unit: str,
    status: Path,
    terminal: bool,
) -> list[str]:
    """Return the command line of systemd-run."""
    settings = credential(app, request.component)
    properties = [
        f"Slice={app.slice}",
        f"User={app.user}",
        f"Group={app.user}",
        *(f"EnvironmentFile={app.directory / name}" for name in ENVIRONMENT),
        f"UnsetEnvironment={' '.join(launch.URL_VARIABLES)}",
        f"LoadCredential=settings.json:{settings}",
        *(f"LoadCredential={path.name}:{path}" for path in shown(app, settings)),
        "NoNewPrivileges=yes",
        f"UMask={request.umask}",
        f"TimeoutStopSec={GRACE}",
        # An interactive shell ignores SIGTERM.
        "SendSIGHUP=yes",
    ]
    if request.timeout is not None:
        # In case this process dies before the timeout. systemd reads no exponents.
        properties.append(f"RuntimeMaxSec={request.timeout + GRACE:.3f}")
    inner = [
        *("/bin/sh", "-c", _SUPERVISOR, "sh", str(status), str(LINGER if terminal else 0)),
        # While Python starts, Ctrl-C would show a traceback. launch.py unblocks it.
        *("/usr/bin/env", "--block-signal=INT"),
        *(f"{name}={value}" for name, value in environment(app).items()),
        *("/usr/bin/python3", "-S", "-I", str(Path(launch.__file__).resolve())),
        *(
            "beat" if request.component == "schedule" else request.component,
            "--pin",
            str(release),
            "--",
        ),
        *(program(release, request.command[0]), *request.command[1:]),
    ]
    return [
        *(SYSTEMD_RUN, "--quiet", "--collect", "--wait", "--service-type=exec"),
        *(f"--unit={unit}", f"--description={app.name}: {request.command[0]}"),
        "--pty" if terminal else "--pipe",
        *(f"--property={item}" for item in properties),
        "--",
        # systemd would replace what looks like a variable with its value.
        *(word.replace("$", "$$") for word in inner),
    ]


@contextmanager
def status_file(unit: str, user: str) -> Iterator[Path]:
    """Create a file for the exit status that only the command's user can write."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ExecError(f"there is no user {user} on this host; run site.yml") from None
    STATUS.mkdir(exist_ok=True)
    # Independent of the caller's umask.
    STATUS.chmod(0o711)
    path = STATUS / f"{unit}.status"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise ExecError(
            f"{unit} is running already, or {path} was left behind: systemctl status {unit}"
        ) from None
    try:
        os.fchown(handle, entry.pw_uid, entry.pw_gid)
        os.close(handle)
        yield path
    finally:
        path.unlink(missing_ok=True)


class Running:
    """A command that will start, or runs, in a unit."""

    def __init__(self, unit: str, status: Path) -> None:
        self._unit = unit
        self._status = status
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []

    def started(self, process: subprocess.Popen[bytes]) -> None:
        """Learn the process of systemd-run; forward the signals that came before it."""
        self._process = process
        for number in self._early:
            self.forward(number)

    def forward(self, number: int, frame: FrameType | None = None) -> None:
        """Forward a signal to the command as soon as it can receive one."""
        del frame
        if self._process is None:
            self._early.append(number)
            return
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            # A terminal that is closed ends systemd-run, but not the unit.
            ended = _ended(self._process)
            ready = ended or self._status.stat().st_size
            if (ready and self._systemctl("kill", f"--signal={number}")) or ended:
                return
            time.sleep(0.1)
        self.stop()

    def stop(self) -> None:
        """Stop the command with SIGTERM, then SIGKILL."""
        # If systemd does not answer, it has the job all the same.
        with suppress(subprocess.TimeoutExpired):
            self._systemctl("stop", timeout=GRACE + 20)

    def _systemctl(self, *words: str, timeout: float | None = None) -> bool:
        done = subprocess.run(
            [SYSTEMCTL, *words, self._unit],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return done.returncode == 0


def _ended(process: subprocess.Popen[bytes]) -> bool:
    # poll() does not tell while this thread is in wait(), which a signal has interrupted.
    try:
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, process.pid, options) is not None
    except ChildProcessError:
        return True


def _leave_keys() -> None:
    # At a terminal systemd-run is in this process's group. Until it reads the keys itself, Ctrl-C would end it and not
    # the command; this process forwards it.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def forwarding(running: Running) -> Iterator[None]:
    """Forward this process's signals to the command, except those that its parent had it ignore (nohup)."""
    before = {
        number: signal.signal(number, running.forward)
        for number in SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _opened(path: str) -> IO[bytes]:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    except OSError as error:
        raise ExecError(f"--output {path}: can't be written ({error.strerror})") from None
    return os.fdopen(handle, "ab")


def run(request: ExecRequest) -> int:
    """Run the command; return its exit status.

    Raises:
        ExecError: It could not be run.
    """
    if os.geteuid() != 0:
        raise ExecError("only root may read the application's credentials; run this with sudo")
    app = application(request.app)
    release = release_of(app, request.release)
    unit = request.unit or f"{app.name}-exec-{os.getpid()}-{secrets.token_hex(3)}"
    unit = unit if unit.endswith(".service") else f"{unit}.service"
    with ExitStack() as stack:
        output = stack.enter_context(_opened(request.output)) if request.output else None
        terminal = output is None and all(os.isatty(number) for number in (0, 1, 2))
        status = stack.enter_context(status_file(unit, app.user))
        command = unit_command(
            app, request, release=release, unit=unit, status=status, terminal=terminal
        )
        running = Running(unit, status)
        stack.enter_context(forwarding(running))
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if output else None,
                stdout=output,
                stderr=output,
                env=_own_environment(os.environ),
                # Without a terminal a Ctrl-C would end systemd-run and leave the command running.
                process_group=None if terminal else 0,
                preexec_fn=_leave_keys if terminal else None,
            )
        except OSError as error:
            raise ExecError(f"{SYSTEMD_RUN} can't be run: {error.strerror}") from None
        running.started(process)
        try:
            ended = process.wait(request.timeout)
        except subprocess.TimeoutExpired:
            running.stop()
            process.wait()
            raise ExecError(
                f"{shlex.join(request.command[:3])} took more than {request.timeout:.15g} s and was stopped",
                TIMED_OUT,
            ) from None
        return outcome(status, ended, unit, request.output)


def _own_environment(environ: Mapping[str, str]) -> dict[str, str]:
    kept = {name: environ[name] for name in ("TERM", "LANG") if name in environ}
    return {"PATH": SEARCH, **kept}


def outcome(status: Path, ended: int, unit: str, output: str | None = None) -> int:
    """Return the command's exit status, from its status file and from how systemd-run ended.

    Raises:
        ExecError: The command never ran.
    """
    with status.open("rb") as stream:
        # The command's user can write to it as much as the disk holds.
        text = stream.read(8).strip()
    if text.isdigit():
        return int(text) & 0xFF
    if ended == 255:
        # Both the command and the shell above it were killed: by hand, or because memory ran out.
        return 128 + signal.SIGKILL
    where = f"{output} and " if output else ""
    raise ExecError(
        f"the command did not start, or its end was not observed (systemd-run ended with {ended}); see"
        f" {where}journalctl -u {unit} -n 20"
    )


def main(argv: Sequence[str]) -> int:
    """Run the requested command; errors are one line."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run(arguments(argv))
    except KeyboardInterrupt:
        # Only before the command runs: then this process forwards the signal.
        return 128 + signal.SIGINT
    except ExecError as error:
        print(f"celery-fleet exec: {error}", file=sys.stderr, flush=True)
        return error.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
