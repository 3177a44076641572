"""Runs the commands of a release (`celery_release_commands`) and decides which of them a host has to run.

Before a command starts, a mark names its host. Marks of commands that run on one host are on the fleet's first Redis
host; those of commands that run on all hosts are on each host. If a run is killed, the next one finds the
mark and asks that host's systemd whether the command still runs, so no command runs twice at once. The script `marks`
and `celery_fleet.system.release_command` do the work on the hosts. This module says what to ask them and judges the
answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError

from ..desired.application_options import COMMAND

DIRECTORY = "/var/lib/celery-fleet/commands"

# Seconds for one question to a host, and additional seconds for stopping a command after its timeout.
WAIT = 15.0
SLACK = 120.0
# How often to start a command that ends without a result.
_ATTEMPTS = 3

_DEFAULTS = {option.name: option.default for option in COMMAND}

Ask = Callable[[dict[str, Any]], Mapping[str, Any]]


class ReleaseCommandError(UserError):
    """A command failed, or its result is not known. The message is for the person who runs the play."""


@dataclass(frozen=True)
class ReleaseCommand:
    """One of `celery_release_commands`."""

    name: str
    argv: tuple[str, ...]
    when: str
    hosts: str
    timeout: float
    umask: str

    @property
    def often(self) -> str:
        """Return how often it runs, as text."""
        return "once ever" if self.when == "once" else "once per release"


def parse(raw: Iterable[Mapping[Any, Any]]) -> list[ReleaseCommand]:
    """Return the commands in the inventory, which preflight has checked."""
    return [
        ReleaseCommand(
            name=str(given["name"]),
            argv=tuple(str(word) for word in given["argv"]),
            when=str(given.get("when") or _DEFAULTS["when"]),
            hosts=str(given.get("hosts") or _DEFAULTS["hosts"]),
            timeout=float(given.get("timeout") or _DEFAULTS["timeout"]),
            umask=str(given.get("umask") or _DEFAULTS["umask"]),
        )
        for given in raw
    ]


def _own_marks(hostvars: Mapping[str, Mapping[str, Any]], host: str) -> Mapping[str, Any]:
    return (hostvars[host].get("__celery_release_own") or {}).get("marks") or {}


def begun(
    raw: Iterable[Mapping[Any, Any]],
    fleet: Mapping[str, Any],
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: Sequence[str],
) -> list[Mapping[Any, Any]]:
    """Return the commands that a release has begun anywhere; the arguments are those of `names`.

    If the fleet has gone back to it, the inventory may have further ones that only a newer release knows.
    """
    own = [_own_marks(hostvars, host) for host in hosts]
    found = []
    for given in raw:
        (command,) = parse([given])
        places = [fleet] if command.hosts == "one" else own
        if any(command.name in (marks.get(command.when) or {}) for marks in places):
            found.append(given)
    return found


def due(
    raw: Iterable[Mapping[Any, Any]],
    fleet: Mapping[str, Any],
    own: Mapping[str, Any],
    here: str,
    hosts: Sequence[str],
) -> list[dict[str, Any]]:
    """Return what this host has to run, in order, as plain data.

    Args:
        raw: celery_release_commands.
        fleet: The fleet's marks, from the script `marks`.
        own: This host's marks.
        here: Name of this host.
        hosts: All hosts of this run that have the release.
    """
    found = []
    for command in parse(raw):
        marks = fleet if command.hosts == "one" else own
        mark = (marks.get(command.when) or {}).get(command.name) or {}
        if mark.get("state") == "done" or not hosts:
            continue
        # If a killed run started it, only that host knows how it ended.
        chosen = mark["host"] if mark.get("host") in hosts else hosts[0]
        if here == chosen or (command.hosts == "all" and here in hosts):
            text = f"{command.name} ({command.often})"
            found.append({**asdict(command), "argv": list(command.argv), "text": text})
    return found


def items(found: Iterable[Mapping[str, Any]], app: str) -> list[dict[str, str]]:
    """Return the result of `due` as items of the plan."""
    return [{"subject": app, "text": str(command["text"])} for command in found]


def names(
    raw: Sequence[Mapping[Any, Any]],
    fleet: Mapping[str, Any],
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: Sequence[str],
) -> list[str]:
    """Return names of the commands that any of these hosts has to run, in order.

    Args:
        raw: celery_release_commands.
        fleet: The fleet's marks.
        hostvars: Ansible's hostvars, with the marks found on each host.
        hosts: All hosts of this run that have the release.
    """
    wanted = set()
    for host in hosts:
        own = _own_marks(hostvars, host)
        wanted |= {command["name"] for command in due(raw, fleet, own, host, hosts)}
    return [command.name for command in parse(raw) if command.name in wanted]


def question(
    do: str,
    app: str,
    scope: str,
    release: str,
    command: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return the input of the script `marks`; without a command it only reads the marks."""
    asked: dict[str, Any] = {
        "directory": DIRECTORY,
        "app": app,
        "scope": scope,
        "do": do,
        "release": release,
        **more,
    }
    if command is not None:
        asked.update(name=command["name"], when=command["when"])
    return asked


def check_mark(
    answer: Mapping[str, Any], command: Mapping[str, Any], here: str, keeper: str
) -> None:
    """Check that this host may run a command, or that it is done.

    Args:
        answer: Answer of the script `marks` to `start`.
        command: A command from `due`.
        here: Name of this host.
        keeper: Name of the host that has the mark.

    Raises:
        ReleaseCommandError: The command may be running elsewhere, or its mark can't be read.
    """
    path = f"{answer['path']} on {keeper}"
    if answer["state"] == "unreadable":
        raise ReleaseCommandError(
            f"{command['name']}: its mark, {path}, can't be read ({answer.get('error')}). Find out whether the command "
            "was done; if not, remove that file. Then run the same command again."
        )
    if answer["state"] == "started" and answer["host"] != here:
        raise ReleaseCommandError(
            f"{command['name']} was started on {answer['host']}, which has to say how it ended. Run again with "
            f"{answer['host']} among the hosts. If that host is gone for good, find out whether the command was done; "
            f"if not, remove {path}, and run again."
        )


def carry_out(
    ask: Ask,
    request: Mapping[str, Any],
    *,
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[str], None] = lambda line: None,
) -> Mapping[str, Any]:
    """Start a command on its host, or resume one that an earlier run started there, and wait for its end.

    Args:
        ask: Runs `celery_fleet.system.release_command` on the host.
        request: Its `app`, `name`, `release`, `mark`, `resumed`, `argv`, `timeout` and `umask`.
        clock: Clock in seconds.
        say: Shows a line of progress.

    Returns:
        The result: `status`, `seconds`, `log` and `tail`.

    Raises:
        ReleaseCommandError: The command can't be started, or does not end.
    """
    name = str(request["name"])
    begin = {"do": "start", **request}
    deadline = clock() + float(request["timeout"]) + SLACK
    attempts = 1
    answer = ask(begin)
    if answer["state"] == "running":
        say(f"{name} was started by an earlier run and still runs: waiting for its end")
    while True:
        state = str(answer["state"])
        if state == "ended":
            return answer
        if state == "refused":
            raise ReleaseCommandError(
                f"{name} can't be started ({answer.get('error')}). Fix that there and run the same command again."
            )
        if clock() > deadline:
            raise ReleaseCommandError(
                f"{name} has not ended {float(request['timeout']) + SLACK:.0f} s after its start, and could not be "
                f"ended. Next, there: systemctl status '{request['app']}-command.{name}*'; then run again."
            )
        if state == "gone":
            if attempts == _ATTEMPTS:
                raise ReleaseCommandError(
                    f"{name} was ended {_ATTEMPTS} times without a result, for example by a reboot or for lack of "
                    f"memory. Next, there: journalctl -u '{request['app']}-command.{name}*' -n 50; then run again."
                )
            attempts += 1
            answer = ask(begin)
            continue
        waited = ask({"do": "wait", "seconds": WAIT, **request})
        # The command of an earlier release, or with another command line, has ended: now ours can start.
        if waited["state"] == "gone" and state == "other":
            attempts -= 1
        answer = waited


# Meanings of exit statuses that don't come from the program itself.
_STATUS = {
    124: "took longer than its timeout of {timeout:g} s and was ended (celery_release_commands, timeout)",
    125: "could not be started",
    126: "can't be run",
    127: "is a program that does not exist in the release or on the host",
}


def failure(
    host: str,
    command: Mapping[str, Any],
    release: str,
    ended: Mapping[str, Any],
) -> str:
    """Return the message about a failed command; its last lines are already redacted."""
    status = int(ended["status"])
    what = _STATUS.get(status, "ended with exit status {status}").format(
        timeout=float(command["timeout"]), status=status
    )
    known = f" (exit status {status})" if status in _STATUS else ""
    seconds = f"after {float(ended['seconds']):g} s"
    lines = [f"{host}: {command['name']} of release {release} {what}{known}, {seconds}."]
    tail = str(ended.get("tail") or "")
    if tail:
        lines.append("Its last lines:")
        lines += [f"  {line}" for line in tail.splitlines()]
    lines += [
        f"Its whole output is on {host}, readable by root: {ended['log']}",
        "Nothing of the new release was started; the previous one keeps running.",
        f"Fix the cause and run the same playbook again: it continues with {command['name']}.",
    ]
    return "\n".join(lines)
