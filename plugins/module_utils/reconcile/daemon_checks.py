"""Runs daemons' own checks of files that have just been written.

A daemon reads its files only from their final paths, so they are checked there. If one is refused, the caller restores
all of them.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from . import systemd
from .desired_state import Check
from .fingerprint import SECRET_DIRECTIVES
from .redis_client import redacted

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Seconds that a server without data gets to read its configuration.
_PATIENCE = 20.0
# Directives that the trial replaces. TLS needs the key, which systemd gives only to the real server; a bad certificate
# shows when that server starts.
_TRIAL = (
    ("port", "0"),
    ("tls-port", "0"),
    ("daemonize", "no"),
    ("supervised", "no"),
    ("logfile", '""'),
    ("pidfile", '""'),
    ("syslog-enabled", "no"),
    ("save", '""'),
    ("appendonly", "no"),
    ("replicaof", "no one"),
    ("tls-replication", "no"),
    ("cluster-enabled", "no"),
)
_REPLACED = frozenset((*(name for name, _ in _TRIAL), "dir", "slaveof", "unixsocket"))
# `PID:role day month year time # message`.
_WARNING = re.compile(r"\d+:\w \d+ \w+ \d+ [\d:.]+ # (.*)")
_SUFFIXES = (".service", ".socket", ".target", ".timer", ".mount", ".path", ".slice")


class DaemonChecks:
    """Runs the checks of files that changed, or that a unit is about to read.

    Attributes:
        wanted: The checks to run, each with the changed files that it reads.
        changed: Paths of those files.
        unit_directory: Directory of our unit files, ending in a slash.
        units: Names of the units to verify.
    """

    def __init__(
        self,
        wanted: Iterable[Check],
        changed: Iterable[str],
        units: Iterable[str],
        unit_directory: str,
        runner: systemd.Runner,
    ) -> None:
        self.changed = sorted(set(changed))
        self.wanted = [(check, found) for check in wanted if (found := self._concerned(check))]
        self.unit_directory = unit_directory
        self.run = runner
        self.units = _changed_units(self.changed, tuple(units), unit_directory)

    def _concerned(self, check: Check) -> list[str]:
        return [p for p in self.changed if any(fnmatch.fnmatch(p, q) for q in check.files)]

    def leave_out(self, done: DaemonChecks) -> None:
        """Skip everything that another instance has already checked."""
        checked = [check for check, _ in done.wanted]
        self.wanted = [(check, found) for check, found in self.wanted if check not in checked]
        self.units = [name for name in self.units if name not in done.units]

    def refusals(self) -> list[str]:
        """Return the first refusal, as a list of one message; an empty list if everything is accepted."""
        for check, found in self.wanted:
            if check.redis:
                by, words = _server(check.flavor), trial(check.redis, check.flavor)
            else:
                by, words = " ".join(check.command), self._command(check.command)
            if words:
                hint = f"\n{check.hint}" if check.hint else ""
                return [f"{by} refuses {', '.join(found)}: {words}{hint}"]
        return self._refused_units()

    def _command(self, command: Sequence[str]) -> str:
        done = self.run(command)
        if done.returncode == 0:
            return ""
        return done.output.strip() or f"exit status {done.returncode}"

    def _refused_units(self) -> list[str]:
        """Return mistakes in unit files. systemd only warns and ignores the line; here it counts as a refusal."""
        if not self.units:
            return []
        command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no"]
        done = self.run([*command, *(f"{self.unit_directory}{name}" for name in self.units)])
        if done.returncode == 0:
            return []
        # A user's own drop-in is not our business: systemd has loaded it, with or without a warning.
        ours = "|".join(re.escape(text) for text in (*self.changed, *self.units))
        about = re.compile(rf"(^|[\s'\"])({ours}):")
        lines = [line for line in done.output.splitlines() if about.search(line)]
        if not lines:
            return []
        return [f"systemd refuses a unit file: {'; '.join(dict.fromkeys(lines))}"]


def _server(flavor: str) -> str:
    """Return a server's program. In Debian's packages its Unix user is named after the flavour."""
    return f"{flavor}-server"


def _known(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _changed_units(changed: Sequence[str], units: Sequence[str], unit_directory: str) -> list[str]:
    """Return units with a changed file, template or drop-in; a template itself if none of its instances is wanted."""
    names: dict[str, None] = {}
    for path in changed:
        if not path.startswith(unit_directory):
            continue
        first, _, drop_in = path.removeprefix(unit_directory).partition("/")
        name = first.removesuffix(".d") if drop_in else first
        if not name.endswith(_SUFFIXES):
            continue
        instances = [unit for unit in units if name in (unit, systemd.template_of(unit))]
        names.update(dict.fromkeys(instances or [name]))
    return list(names)


# --- Redis ---------------------------------------------------------------------------------------------


def trial_configuration(text: str, directory: str) -> str:
    """Return a configuration for a server without data or ports, with the same line numbers."""
    lines = []
    for line in text.splitlines():
        words = line.split(None, 1)
        lines.append("#" if words and words[0].lower() in _REPLACED else line)
    own = [*_TRIAL, ("dir", directory), ("unixsocket", f"{directory}/redis.sock")]
    return "\n".join([*lines, *(f"{name} {value}" for name, value in own)]) + "\n"


def trial(path: str, flavor: str = "redis") -> str:
    """Start Redis or Valkey briefly with a configuration; return why it refuses, or an empty string.

    The server has neither data nor ports. The trial only shows that it understands all directives and users.
    """
    try:
        text = Path(path).read_text(errors="surrogateescape")
    except OSError as error:
        return f"{path}: {error.strerror}"
    with tempfile.TemporaryDirectory(prefix="celery-fleet-redis-") as directory:
        owner: tuple[int, int] | None = None
        if os.geteuid() == 0 and _known(flavor):
            # Run as the server's user, so that an ACL file which that user can't read fails the trial.
            entry = pwd.getpwnam(flavor)
            owner = (entry.pw_uid, entry.pw_gid)
            os.chown(directory, *owner)
        configuration = trial_configuration(text, directory)
        with tempfile.TemporaryFile() as output:
            server = _started(_server(flavor), configuration, owner, output)
            try:
                return _outcome(server, f"{directory}/redis.sock", output)
            finally:
                server.kill()
                server.wait()


def _started(
    server: str, configuration: str, owner: tuple[int, int] | None, output: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a server that reads its configuration from standard input."""
    with tempfile.TemporaryFile() as given:
        given.write(configuration.encode(errors="surrogateescape"))
        given.seek(0)
        return subprocess.Popen(
            [shutil.which(server, path=_PATH) or server, "-"],
            stdin=given,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"LC_ALL": "C.UTF-8"},
            user=owner[0] if owner else None,
            group=owner[1] if owner else None,
            extra_groups=[] if owner else None,
        )


def _outcome(server: subprocess.Popen[bytes], path: str, output: IO[bytes]) -> str:
    deadline = time.monotonic() + _PATIENCE
    while server.poll() is None:
        if _answers(path):
            return ""
        if time.monotonic() > deadline:
            return f"it was not up within {_PATIENCE:.0f} s"
        time.sleep(0.01)
    output.seek(0)
    return _essence(output.read().decode(errors="replace")) or f"exit status {server.returncode}"


def _answers(path: str) -> bool:
    """Return whether the server answers, even with an authentication error: it listens before it has read its users."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(path)
            connection.sendall(b"PING\r\n")
            return bool(connection.recv(1))
        except OSError:
            return False


def _essence(output: str) -> str:
    """Return why a server gave up: it prints configuration errors directly and errors in users to its log."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if "FATAL CONFIG FILE ERROR" in line:
            return " ".join(_without_secret(line) for line in lines[number + 1 :])
    logged = [found[1] for line in lines if (found := _WARNING.match(line))]
    # Since Redis 7.2 an unknown directive could belong to a module, so it is only refused after all modules are loaded.
    for number, line in enumerate(logged):
        if line.startswith("Unresolved Configuration"):
            unknown = itertools.takewhile(lambda one: one.startswith(">>> "), logged[number + 1 :])
            return " ".join(f"{_without_secret(one)} Bad directive" for one in unknown)
    # The last warning is the reason.
    return redacted(logged[-1]) if logged else ""


def _without_secret(line: str) -> str:
    """Return a line of the refusal; if it repeats a directive with a secret value, without that value."""
    found = re.match(r">>> '(\S+)(.*)'", line)
    if found is None:
        return line
    secret = found[1].lower() in SECRET_DIRECTIVES
    return f"“{found[1]}{' <secret>' if secret and found[2] else found[2]}”:"
