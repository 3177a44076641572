"""Asks a new release of a Django application which of its migrations are pending, before its commands run.

`celery_fleet.ops.migrations` lists them in the release's own Python, as the application's user, with the environment
that release commands get. Other applications have none.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError

from . import host_scripts

#: Migrations of a new database can be a hundred, so only this many are shown.
SHOWN = 20


class MigrationsError(UserError):
    """The pending migrations can't be listed. The message is for the person who runs the play."""


def command(app: str, root: str, runtime: str, release: str, timeout: float) -> str:
    """Return the shell command that lists them on the host.

    Args:
        app: Name of the application.
        root: Directory of its releases.
        runtime: Directory of the fleet's package.
        release: Name of the release.
        timeout: Seconds that it may take.
    """
    launcher = host_scripts.program(f"{runtime}/celery_fleet/system/exec.py")
    own = ("--app", app, "--as", "producer", "--release", release, "--timeout", f"{timeout:g}")
    program = ("python", "-m", "celery_fleet.ops.migrations", f"{root}/releases/{release}")
    return f"{launcher} {shlex.join([*own, '--', *program])}"


def lines(
    host: str, release: str, done: dict[str, Any], secrets: Iterable[str], *, required: bool
) -> list[str]:
    """Return what to show; nothing if the application is not Django.

    Args:
        host: Name of the host that was asked.
        release: Name of the release.
        done: Result of the command.
        secrets: Values that may not be shown.
        required: Whether it is an error if they can't be listed. Otherwise the lines say so: a release command may
            be what makes the database ready.

    Raises:
        MigrationsError: They can't be listed.
    """
    try:
        answer = host_scripts.finding(done, secrets)
        error = answer["error"]
    except host_scripts.RemoteError as words:
        answer, error = {}, str(words)
    if error:
        what = f"{host}: the pending migrations of release {release} can't be listed: {error}."
        if required:
            raise MigrationsError(
                f"{what} None of its commands has run, and running processes are not affected. Next: see that the "
                "database answers there (`celery-fleet health`) and accepts the application's login, then run the same "
                "playbook again."
            )
        return [f"{what} Its commands run all the same."]
    pending = answer["pending"]
    if pending is None:
        return []
    if not pending:
        return [f"{host}: no migrations are pending for release {release}"]
    what = "1 migration is" if len(pending) == 1 else f"{len(pending)} migrations are"
    told = [f"{host}: {what} pending for release {release}:"]
    told += [f"  {name}" for name in pending[:SHOWN]]
    told += [f"  and {len(pending) - SHOWN} more"] if len(pending) > SHOWN else []
    if answer["one_way"]:
        names = ", ".join(answer["one_way"])
        told.append(f"  According to one-way-migrations.txt, these can't be undone: {names}")
    return told
