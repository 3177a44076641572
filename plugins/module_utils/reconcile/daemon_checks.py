"""Daemons' own checks of files that have just been written.

A daemon reads its files only from their places, so they are checked there. If one is refused, the caller takes all of
them back.
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

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import systemd
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.fingerprint import (
    SECRET_DIRECTIVES,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_client import (
    redacted,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.wanted import Check

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Seconds until a server without data must have read its configuration.
_PATIENCE = 20.0
# What the trial has in its own way. TLS needs the key, which systemd hands to the real server alone; what is wrong
# with a certificate shows when the server starts.
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
    ("cluster-enabled", "no"),
)
_REPLACED = frozenset((*(name for name, _ in _TRIAL), "dir", "slaveof", "unixsocket"))
# `PID:role day month year time # message`.
_WARNING = re.compile(r"\d+:\w \d+ \w+ \d+ [\d:.]+ # (.*)")
_SUFFIXES = (".service", ".socket", ".target", ".timer", ".mount", ".path", ".slice")


class Checks:
    """The checks that concern what changed, or is about to be taken up by a unit.

    Attributes:
        wanted: The roles' own.
        changed: Those paths.
        unit_directory: Where our unit files lie, with a slash at its end.
        units: Names of all wanted units.
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

    def leave_out(self, done: Checks) -> None:
        """Not again what others have checked already."""
        checked = [check for check, _ in done.wanted]
        self.wanted = [(check, found) for check, found in self.wanted if check not in checked]
        self.units = [name for name in self.units if name not in done.units]

    def refusals(self) -> list[str]:
        """The first refusal, in words; nothing where all is taken."""
        for check, found in self.wanted:
            if check.redis:
                by, words = _server(check.flavor), trial(check.redis, check.flavor)
            else:
                by, words = " ".join(check.command), self._command(check.command)
            if words:
                return [f"{by} refuses {', '.join(found)}: {words}"]
        return self._refused_units()

    def _command(self, command: Sequence[str]) -> str:
        done = self.run(command)
        if done.returncode == 0:
            return ""
        return done.output.strip() or f"exit status {done.returncode}"

    def _refused_units(self) -> list[str]:
        """systemd takes a unit with a mistake in it, warns, and leaves the line out: here that is a refusal."""
        if not self.units:
            return []
        command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no"]
        done = self.run([*command, *(f"{self.unit_directory}{name}" for name in self.units)])
        if done.returncode == 0:
            return []
        # A drop-in of the user's own is the user's: systemd has taken it, warning or not.
        ours = "|".join(re.escape(text) for text in (*self.changed, *self.units))
        about = re.compile(rf"(^|[\s'\"])({ours}):")
        lines = [line for line in done.output.splitlines() if about.search(line)]
        if not lines:
            return []
        return [f"systemd refuses a unit file: {'; '.join(dict.fromkeys(lines))}"]


def _server(flavor: str) -> str:
    """The program of a server. Its Unix user has the name of the flavour, as Debian's packages make it."""
    return f"{flavor}-server"


def _known(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _changed_units(changed: Sequence[str], units: Sequence[str], unit_directory: str) -> list[str]:
    """Units whose file, template or drop-in changed; of a template without a wanted instance the template."""
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
    """A configuration for a server without data or ports; line numbers stay what they are."""
    lines = []
    for line in text.splitlines():
        words = line.split(None, 1)
        lines.append("#" if words and words[0].lower() in _REPLACED else line)
    own = [*_TRIAL, ("dir", directory), ("unixsocket", f"{directory}/redis.sock")]
    return "\n".join([*lines, *(f"{name} {value}" for name, value in own)]) + "\n"


def trial(path: str, flavor: str = "redis") -> str:
    """Start a server, Redis or Valkey, with a configuration for a moment; returns why it refuses, or nothing.

    It has neither data nor ports: what it shows is that it understands all directives and users.
    """
    try:
        text = Path(path).read_text(errors="surrogateescape")
    except OSError as error:
        return f"{path}: {error.strerror}"
    with tempfile.TemporaryDirectory(prefix="celery-fleet-redis-") as directory:
        owner: tuple[int, int] | None = None
        if os.geteuid() == 0 and _known(flavor):
            # As the server will run: who can't read its users must not pass.
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
    """A server that reads its configuration from standard input."""
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
    """Whether the server answers at all, be it that nobody is logged in: it listens before it has read its users."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(path)
            connection.sendall(b"PING\r\n")
            return bool(connection.recv(1))
        except OSError:
            return False


def _essence(output: str) -> str:
    """What a server that gave up says of the reason: of its configuration at once, of its users in its log."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if "FATAL CONFIG FILE ERROR" in line:
            return " ".join(_without_secret(line) for line in lines[number + 1 :])
    logged = [found[1] for line in lines if (found := _WARNING.match(line))]
    # From Redis 7.2 on a directive that it does not know could be a module's, until no module has asked for it.
    for number, line in enumerate(logged):
        if line.startswith("Unresolved Configuration"):
            unknown = itertools.takewhile(lambda one: one.startswith(">>> "), logged[number + 1 :])
            return " ".join(f"{_without_secret(one)} Bad directive" for one in unknown)
    # Its last words are the reason.
    return redacted(logged[-1]) if logged else ""


def _without_secret(line: str) -> str:
    """A line of the refusal; the one that repeats a directive loses a value that is secret."""
    found = re.match(r">>> '(\S+)(.*)'", line)
    if found is None:
        return line
    secret = found[1].lower() in SECRET_DIRECTIVES
    return f"“{found[1]}{' <secret>' if secret and found[2] else found[2]}”:"
