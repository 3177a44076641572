"""Run a command as the application's user, with exactly its environment and its credentials.

    /usr/bin/python3 -S -I exec.py --app APP [--as producer|operator|…] [--release ID] [--timeout SECONDS]
        [--unit NAME] [--output PATH] -- CMD…

As root, by the system's Python; the standard library alone. What the application is and where it lies is read from
``/etc/celery-fleet/<app>/cli.json``. The command becomes a transient unit, so that systemd gives it what it gives
the application's own processes: the environment files, which root alone reads, and the settings by credential. Nothing
of these is in a command line. :mod:`celery_fleet.system.launch` brings it into the release, ``<root>/current`` by
default; ``python``, ``celery`` and the like are the release's own, everything else is looked up as a shell would.

A terminal passes through where there is one; signals that this process gets are sent on. The exit status is the
command's (128 and the signal's number where one ended it), or

    124  the command took longer than ``--timeout`` and was stopped
    125  it could not be started; one line says what, where and what to do next
    126  it can't be run, 127 there is no such command
"""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

if __name__ == "__main__":
    # Run as a file by `python3 -I`, which leaves its directory out of the path; the package is beside it.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from celery_fleet.common import client_certificate
from celery_fleet.health import result as health_result
from celery_fleet.system import launch

CONFIGURATION = Path("/etc/celery-fleet")
#: Where a command leaves its exit status: systemd-run's own tells neither a signal nor its own failure from a status.
STATUS = Path("/run/celery-fleet-exec")
SYSTEMD_RUN = "/usr/bin/systemd-run"
SYSTEMCTL = "/usr/bin/systemctl"
SEARCH = "/usr/local/bin:/usr/bin:/bin"

#: Whose credentials a command may have. Beat's are for those who look at its schedule; `schedule` are beat's with the
#: entries that are declared, where it reads those from a database.
COMPONENTS = ("producer", "operator", "beat", "schedule")

#: The file that makes a directory a release.
NOTE = "release.json"

#: The application's environment, below its directory: a part for everybody and one for root alone.
ENVIRONMENT = ("exec.env", "credentials/exec.env")

TIMED_OUT, FAILED, NOT_EXECUTABLE, NOT_FOUND = 124, 125, 126, 127
#: Seconds that --timeout takes at most, some 30 years; systemd has no room for any number.
LONGEST = 1_000_000_000
#: Seconds between SIGTERM and SIGKILL for a command that has to end.
GRACE = 10
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

# Stays beside the command, since what ended it is known to its parent alone. The signals are for the command; a trap,
# unlike an ignored signal, is not inherited. The shell itself has nothing to say, such as "Terminated".
_SUPERVISOR = (
    "trap : HUP INT QUIT TERM; status=$1; shift; exec 3>&2 2>/dev/null; "
    '(exec "$@" 2>&3 3>&-); code=$?; echo "$code" >"$status"; exit "$code"'
)

USAGE = (
    f"usage: exec.py --app APP [--as {'|'.join(COMPONENTS)}] [--release ID] [--timeout SECONDS]"
    " [--unit NAME] [--output PATH] -- CMD…"
)


class ExecError(Exception):
    """Why a command can't be run, in one line; ``status`` is the exit status that says so."""

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(" ".join(text.split()))
        self.status = status


@dataclass(frozen=True)
class Request:
    """What is asked for; see the module's text."""

    app: str
    command: tuple[str, ...]
    component: str = "producer"
    release: str | None = None
    timeout: float | None = None
    unit: str | None = None
    output: str | None = None


@dataclass(frozen=True)
class Application:
    """What ``cli.json`` says of the application."""

    name: str
    module: str
    user: str
    root: Path
    directory: Path
    slice: str


def arguments(argv: Sequence[str]) -> Request:
    """Read the command line (without the program's name).

    Raises:
        ExecError: With the usage.
    """
    if "--" not in argv:
        raise ExecError(f"no command: {USAGE}")
    cut = list(argv).index("--")
    own, command = list(argv[:cut]), tuple(argv[cut + 1 :])
    if not command:
        raise ExecError(f"no command after --; {USAGE}")
    known = {
        "--app": "app",
        "--as": "component",
        "--release": "release",
        "--timeout": "timeout",
        "--unit": "unit",
        "--output": "output",
    }
    given: dict[str, str] = {}
    while own:
        word = own.pop(0)
        if word not in known or not own:
            raise ExecError(f"{word} is no option with a value; {USAGE}")
        given[known[word]] = own.pop(0)
    if "app" not in given:
        raise ExecError(f"--app is missing; {USAGE}")
    component = given.get("component", "producer")
    if component not in COMPONENTS:
        raise ExecError(f"--as {component}: use one of {', '.join(COMPONENTS)}")
    return Request(
        app=given["app"],
        command=command,
        component=component,
        release=given.get("release"),
        timeout=_seconds(given.get("timeout")),
        unit=_unit(given.get("unit")),
        output=given.get("output"),
    )


def _unit(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[A-Za-z0-9:_.@-]{1,200}", name):
        raise ExecError(f"--unit {name!r} can't be the name of a unit")
    return name


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST:
        raise ExecError(f"--timeout {text}: must be a number of seconds above 0, {LONGEST} at most")
    return seconds


def application(name: str) -> Application:
    """What the host knows of an application.

    Raises:
        ExecError: It knows none of this name, or can't read what it knows.
    """
    path = CONFIGURATION / name / "cli.json"
    if os.sep in name or name in ("", ".", ".."):
        raise ExecError(f"--app {name!r} is not the name of an application")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Application(
            name=found["app"],
            module=found["module"],
            user=found["user"],
            root=Path(found["root"]),
            directory=Path(found["directory"]),
            slice=found["slice"],
        )
    except FileNotFoundError:
        raise ExecError(
            f"there is no application {name} on this host ({path} is missing); check the name, or run"
            " site.yml"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExecError(f"{path} can't be read ({error!r}); run site.yml again") from None


def release_of(app: Application, identity: str | None) -> Path:
    """Directory of the release to run in.

    Raises:
        ExecError: It is not there, or not finished.
    """
    if identity is not None and (os.sep in identity or identity in ("", ".", "..")):
        raise ExecError(f"--release {identity!r} is not the name of a release")
    link = app.root / "current" if identity is None else app.root / "releases" / identity
    release = link.resolve()
    if identity is None and not link.exists():
        raise ExecError(
            f"{app.name} has no release on this host ({link} is missing); run this on a host of workers,"
            " beat or producers, or deploy with site.yml"
        )
    if not (release / NOTE).is_file():
        have = sorted(path.parent.name for path in (app.root / "releases").glob(f"*/{NOTE}"))
        raise ExecError(
            f"there is no release {identity or release.name} of {app.name} on this host; there are"
            f" {', '.join(have) or 'none'}"
        )
    return release


def program(release: Path, word: str) -> str:
    """The first word of a command as :mod:`celery_fleet.system.launch` takes it.

    Raises:
        ExecError: There is no such command, or it can't be run.
    """
    try:
        launch.interpreter(str(release))
        directory = Path(launch.working_directory(str(release)))
    except launch.LaunchError as error:
        raise ExecError(str(error)) from None
    if word == "python":
        return word
    if os.sep in word:
        path = directory / word
        _runnable(path, word)
        return word
    for place in (release / "venv" / "bin", *map(Path, SEARCH.split(":"))):
        path = place / word
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    hint = ""
    if (directory / word).is_file():
        hint = f"; {directory / word} is there: say `python {word}` or `./{word}`"
    raise ExecError(
        f"{word}: there is no such command in {release}/venv/bin, {SEARCH.replace(':', ', ')}{hint}",
        NOT_FOUND,
    )


def _runnable(path: Path, word: str) -> None:
    if not path.exists():
        raise ExecError(f"{word}: there is no {path}", NOT_FOUND)
    if path.is_dir() or not os.access(path, os.X_OK):
        raise ExecError(
            f"{word}: {path} can't be run; if it is Python: python {word}", NOT_EXECUTABLE
        )


def credential(app: Application, component: str) -> Path:
    """The settings that the command gets.

    Raises:
        ExecError: They are not on this host.
    """
    for name in ENVIRONMENT:
        if not (app.directory / name).is_file():
            # systemd would say no more than that it could not start.
            raise ExecError(f"{app.directory / name} is missing; run site.yml again")
    path = app.directory / "credentials" / f"{component}.json"
    if not path.is_file():
        where = (
            "the host of beat" if component in ("beat", "schedule") else "a host that has a release"
        )
        raise ExecError(f"{path} is missing; run this on {where}, or run site.yml again")
    return path


def shown(app: Application, settings: Path) -> list[Path]:
    """The host's certificate and key, where the settings have the command show them to Redis.

    Raises:
        ExecError: The settings can't be read.
    """
    try:
        document = json.loads(settings.read_text(encoding="utf-8"))
        return [
            path for path in client_certificate.files(document) if app.directory in path.parents
        ]
    except (OSError, ValueError, AttributeError) as error:
        raise ExecError(f"{settings} can't be read ({error}); run site.yml again") from None


def environment(app: Application) -> dict[str, str]:
    """What the fleet puts over the application's own environment; nothing of it is secret."""
    return {
        "CELERY_LOADER": "celery_fleet.loader.FleetLoader",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "PYTHONUNBUFFERED": "1",
        # So that a bare `celery inspect …` needs no -A.
        "CELERY_APP": app.module,
        "CELERY_FLEET_HEALTH": str(health_result.path_of(app.name)),
        "CELERY_FLEET_ARGS": "",
    }


def unit_command(
    app: Application,
    request: Request,
    *,
    release: Path,
    unit: str,
    status: Path,
    terminal: bool,
) -> list[str]:
    """The command line of systemd-run."""
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
        "UMask=0077",
        f"TimeoutStopSec={GRACE}",
        # An interactive shell takes no notice of SIGTERM.
        "SendSIGHUP=yes",
    ]
    if request.timeout is not None:
        # Should this process not live to see it. systemd reads no exponents.
        properties.append(f"RuntimeMaxSec={request.timeout + GRACE:.3f}")
    inner = [
        *("/bin/sh", "-c", _SUPERVISOR, "sh", str(status)),
        *("/usr/bin/env", *(f"{name}={value}" for name, value in environment(app).items())),
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
        # systemd would put the values of variables in place of what looks like one.
        *(word.replace("$", "$$") for word in inner),
    ]


@contextmanager
def status_file(unit: str, user: str) -> Iterator[Path]:
    """A file to which the command's user alone can write, for its exit status."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ExecError(f"there is no user {user} on this host; run site.yml") from None
    STATUS.mkdir(exist_ok=True)
    # Whatever the umask of whoever asks.
    STATUS.chmod(0o711)
    path = STATUS / f"{unit}.status"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise ExecError(
            f"{unit} runs already, or {path} was left behind: systemctl status {unit}"
        ) from None
    try:
        os.fchown(handle, entry.pw_uid, entry.pw_gid)
        os.close(handle)
        yield path
    finally:
        path.unlink(missing_ok=True)


class Running:
    """A command that runs."""

    def __init__(self, process: subprocess.Popen[bytes], unit: str) -> None:
        self.process = process
        self._unit = unit

    def forward(self, number: int, frame: FrameType | None = None) -> None:
        """Send a signal on to the command, which may be about to start."""
        del frame
        for _ in range(20):
            done = subprocess.run(
                [SYSTEMCTL, "kill", f"--signal={number}", self._unit],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            if done.returncode == 0 or self.process.poll() is not None:
                return
            time.sleep(0.1)

    def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL."""
        subprocess.run(
            [SYSTEMCTL, "stop", self._unit],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GRACE + 20,
            check=False,
        )


@contextmanager
def forwarding(running: Running) -> Iterator[None]:
    """Send this process's signals on to the command, but for those that whoever started it ignores (nohup)."""
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


def run(request: Request) -> int:
    """Run the command; its exit status.

    Raises:
        ExecError: It could not be run.
    """
    if os.geteuid() != 0:
        raise ExecError("only root may read the application's credentials; put sudo before it")
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
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if output else None,
                stdout=output,
                stderr=output,
                env=_own_environment(os.environ),
                # Without a terminal a Ctrl-C would end systemd-run, and leave the command running.
                process_group=None if terminal else 0,
            )
        except OSError as error:
            raise ExecError(f"{SYSTEMD_RUN} can't be run: {error.strerror}") from None
        running = Running(process, unit)
        stack.enter_context(forwarding(running))
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
    """The command's exit status, by what it left and how systemd-run ended.

    Raises:
        ExecError: It never ran.
    """
    text = status.read_text(encoding="utf-8", errors="replace")[:8].strip()
    if text.isdigit():
        return int(text) & 0xFF
    if ended == 255:
        # Killed, its supervisor with it: by hand, or for want of memory.
        return 128 + signal.SIGKILL
    where = f"{output} and " if output else ""
    raise ExecError(
        f"the command did not start or was not waited for (systemd-run ended with {ended}); see"
        f" {where}journalctl -u {unit} -n 20"
    )


def main(argv: Sequence[str]) -> int:
    """Run what is asked for; errors are one line."""
    try:
        return run(arguments(argv))
    except ExecError as error:
        print(f"celery-fleet exec: {error}", file=sys.stderr, flush=True)
        return error.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
