"""Computes which components have moved to another host and have to be removed from this one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .nginx import certificate_hook, locations_directory, site_file
from .redis_backup import owned_by_backups


@dataclass(frozen=True)
class _Owned:
    """What a component has on a host, with placeholders for arguments of `surplus`: `app` and the directories.

    Attributes:
        roles: The roles, and so the tags, that start the component.
        units: Patterns of its units.
        files: Patterns of its files and links.
    """

    roles: tuple[str, ...]
    units: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


_UNITS = "/etc/systemd/system"
_OWNED = {
    "worker": _Owned(
        ("celery_worker",),
        ("{app}-worker@*.service",),
        (
            "{directory}/worker-*.env",
            "{directory}/credentials/worker.json",
            "{root}/pins/worker-*",
            _UNITS + "/{app}-worker@.service",
            _UNITS + "/{app}-worker@*.service.d/10-fleet.conf",
        ),
    ),
    "beat": _Owned(
        ("celery_beat",),
        ("{app}-beat.service",),
        (
            "{directory}/beat.env",
            "{directory}/credentials/beat.json",
            "{directory}/credentials/schedule.json",
            "{root}/pins/beat",
            _UNITS + "/{app}-beat.service",
            _UNITS + "/{app}-beat.service.d/10-fleet.conf",
            # A beat that comes back later would send everything that was due meanwhile.
            "{state}/beat/celerybeat-schedule*",
        ),
    ),
    "web": _Owned(
        ("celery_producer",),
        ("{app}-web.socket", "{app}-web.service"),
        (
            "{directory}/web.env",
            "{root}/pins/web",
            _UNITS + "/{app}-web.socket",
            _UNITS + "/{app}-web.service",
            _UNITS + "/{app}-web.service.d/10-fleet.conf",
            "/run/{app}-web.sock",
        ),
    ),
    "web_site": _Owned(
        ("celery_producer",),
        files=(
            "{directory}/credentials-nginx/web.htpasswd",
            site_file("{app}", "web"),
            certificate_hook("{app}"),
        ),
    ),
    "flower": _Owned(
        ("flower",),
        ("{app}-flower.service",),
        (
            "{directory}/flower.env",
            _UNITS + "/{app}-flower.service.d/10-fleet.conf",
            "{directory}/credentials/flower.*",
            "{root}/pins/flower",
            _UNITS + "/{app}-flower.service",
            "{directory}/credentials-nginx/flower.htpasswd",
        ),
    ),
    "flower_site": _Owned(("flower",), files=(site_file("{app}", "flower"),)),
    # For workers and beat; written by celery_runtime, like everything else that they share.
    "logs": _Owned(("celery_worker",), files=("/etc/logrotate.d/{app}",)),
    "flower_location": _Owned(
        ("flower",), files=(locations_directory("{directory}") + "/flower.conf",)
    ),
    # Not only for the web process: a host with a release also has it for the release's commands. That role is the last
    # that reads it.
    "release": _Owned(("celery_producer",), files=("{directory}/credentials/producer.json",)),
    # The roles of all processes that read it: a process that this run does not end could not start again without it.
    "secrets": _Owned(
        ("celery_worker", "celery_beat", "celery_producer"),
        files=("{directory}/credentials/secret.env",),
    ),
    "environment": _Owned(
        ("celery_worker", "celery_beat", "celery_producer", "flower"),
        files=("{directory}/app.env",),
    ),
    # Without them, a Redis that still runs on a host that left its group would be backed up as before.
    "backups": _Owned(
        ("redis",),
        **{name: tuple(of) for name, of in owned_by_backups("{app}", "{directory}").items()},
    ),
}


def surplus(
    app: str,
    components: Sequence[str],
    directory: str,
    root: str,
    state: str,
    run: Iterable[str] = ("all",),
    skip: Iterable[str] = (),
) -> dict[str, list[str]]:
    """Return what a host must no longer run, as `owned` of the desired state.

    If beat moved in the inventory but stayed on its old host, everything would be sent twice.

    Args:
        app: Name of the application.
        components: The host's components: worker, beat, producer, web, web_site, flower, and either flower_site or
            flower_location; logs if workers or beat log to files.
        directory: Directory of the application's configuration.
        root: Directory of its releases.
        state: Directory of its state.
        run: Tags of the run. A component that they start on no host is not removed from any.
        skip: Tags that the run skips.
    """
    present = set(components)
    if present & {"worker", "beat", "producer", "web"}:
        present |= {"release", "secrets", "environment"}
    if "flower" in present:
        present.add("environment")
    if "redis" in present:
        # Its role removes them.
        present.add("backups")
    tags, left_out = set(run), set(skip)
    whole = not tags.isdisjoint(("all", "deploy", "configure"))
    absent = [
        owned
        for name, owned in _OWNED.items()
        if name not in present
        and (whole or tags.issuperset(owned.roles))
        and left_out.isdisjoint(owned.roles)
    ]
    places = {"app": app, "directory": directory, "root": root, "state": state}
    return {
        "units": [unit.format(**places) for owned in absent for unit in owned.units],
        "files": [path.format(**places) for owned in absent for path in owned.files],
    }
