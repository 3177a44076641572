"""Computes the backup of Redis on a host: its user, its units and its setup, `credentials/backup.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from .backup_options import BACKUP_USER, KEPT
from .facts import Facts

FORMAT = 1
# The kinds of instances with data that lasts.
KINDS = ("broker", "results")


def owned_by_backups(app: str, directory: str) -> dict[str, list[str]]:
    """Return the units and files of a host's backups, as `owned` of the desired state.

    Args:
        app: Name of the application.
        directory: Directory of its configuration.
    """
    units = [f"{app}-backup.timer", f"{app}-backup.service"]
    files = [f"/etc/systemd/system/{unit}" for unit in units]
    own = [f"{directory}/credentials/backup.json", f"/etc/sysusers.d/{app}-backup.conf"]
    return {"units": units, "files": [*files, *own]}


def backup_state(
    facts: Facts,
    options: Mapping[str, Any],
    password: str,
    flavor: str,
    installed: Iterable[str],
) -> dict[str, Any]:
    """Return the desired state of a host's backups; without options, that nothing of them is left.

    Args:
        facts: The application's facts.
        options: redis_backup.
        password: The password of its user in Redis.
        flavor: redis_flavor.
        installed: The host's Debian packages.
    """
    app = facts["name"]
    owned = owned_by_backups(app, facts["directory"])
    if not options:
        return {"owned": owned}
    units, (*unit_files, setup, users) = owned["units"], owned["files"]
    content = json.dumps(_setup(facts, options, password, flavor), indent=4, sort_keys=True)
    return {
        "packages": sorted(_packages(options).difference(installed)),
        "sysusers": [
            {
                "dest": users,
                "content": f'# Written by Celery Fleet.\nu {app}-backup - "{app} backup" /\n',
            }
        ],
        "directories": [
            {"path": facts["directory"]},
            {"path": f"{facts['directory']}/credentials", "mode": "0700"},
        ],
        "files": [
            {"dest": unit_files[0], "src": "systemd/backup.timer.j2"},
            {"dest": unit_files[1], "src": "systemd/backup.service.j2"},
            {"dest": setup, "content": f"{content}\n", "mode": "0600", "secret": True},
        ],
        "data": [{"path": f"/var/lib/{app}-backup", "keep": "state"}],
        # systemd's reload applies a new interval, and each backup reads its setup.
        "units": [{"name": units[0], "on_change": "nothing"}],
        "owned": owned,
    }


def _packages(options: Mapping[str, Any]) -> set[str]:
    """Return the Debian packages that a backup uses besides Redis's own."""
    target = str(options.get("to") or "")
    found = {"gpg"} if options.get("encrypt_for") else set()
    if target and not target.startswith("/"):
        found.add("rsync")
        if "://" not in target:
            found.add("openssh-client")
    return found


def _setup(facts: Facts, options: Mapping[str, Any], password: str, flavor: str) -> dict[str, Any]:
    servers = {kind: facts[kind] for kind in KINDS}  # type: ignore[literal-required]  # both are keys of it
    return {
        "format": FORMAT,
        "app": facts["name"],
        "host": facts["host"],
        "flavor": flavor,
        "user": BACKUP_USER,
        "password": password,
        "ca": facts["redis_ca"],
        "client": dict(facts["client"]),
        "instances": {
            kind: {"host": str(one["host"]), "port": int(one["port"])}
            for kind, one in servers.items()
        },
        "to": str(options.get("to") or ""),
        "command": [str(word) for word in options.get("command") or ()],
        "keep": int(options.get("keep") or KEPT),
        **{
            name: str(options.get(name) or "")
            for name in ("encrypt_for", "ssh_key", "ssh_known_hosts")
        },
    }


def restored(
    files: Iterable[Mapping[str, Any]],
    instances: Iterable[Mapping[str, Any]],
    units: Iterable[Mapping[str, Any]],
    flavor: str,
) -> list[dict[str, Any]]:
    """Return the instances that a backup restores, as the module `redis_restore` takes them.

    Args:
        files: The backup's snapshots, each with `kind`, `sha256` and `size`.
        instances: The host's instances, each with `kind`, `name` and `appendonly`.
        units: Their units, as `redis_state` returns them.
        flavor: redis_flavor.

    Raises:
        ValueError: A snapshot is of an instance that the fleet does not have.
    """
    known = {str(one["kind"]): one for one in instances if one["kind"] in KINDS}
    of_unit = {str(one["name"]): one for one in units}
    found = []
    for file in files:
        if file["kind"] not in known:
            raise ValueError(
                f"the backup has {file['kind']}, but the fleet only {', '.join(known)}"
            )
        one = known[file["kind"]]
        unit = of_unit[f"redis@{one['name']}.service"]
        found.append(
            {
                "name": str(one["name"]),
                "sha256": file["sha256"],
                "size": int(file["size"]),
                "appendonly": bool(one["appendonly"]),
                "flavor": flavor,
                "timeout": unit["timeout"],
                "access": unit["redis"],
                "config": next(path for path in unit["files"] if path.endswith("/redis.conf")),
            }
        )
    return found
