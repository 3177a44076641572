"""What moved to another host and has to end on this one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.nginx import (
    _added,
    site_file,
)

# The roles, and so the tags, that start a component.
_ROLES: dict[str, tuple[str, ...]] = {
    "worker": ("celery_worker",),
    "beat": ("celery_beat",),
    "web": ("celery_producer",),
    "web_site": ("celery_producer",),
    "flower": ("flower",),
    "flower_site": ("flower",),
    "flower_location": ("flower",),
    # Of workers and beat: written by celery_runtime, as is what else they share.
    "logs": ("celery_worker",),
    # The last that reads what it leaves.
    "release": ("celery_producer",),
    # All whose processes read it: one that this run does not end could not start again without it.
    "secrets": ("celery_worker", "celery_beat", "celery_producer"),
    "environment": ("celery_worker", "celery_beat", "celery_producer", "flower"),
}


def surplus(
    app: str,
    components: Sequence[str],
    directory: str,
    root: str,
    run: Iterable[str] = ("all",),
    skip: Iterable[str] = (),
) -> dict[str, list[str]]:
    """What a host must not run any more, by what it is for: `owned` of `settle`.

    A beat that was moved in the inventory and stayed on its old host would send everything twice.

    Args:
        app: Name of the application.
        components: Those that the host has: worker, beat, producer, web, web_site, flower, and either flower_site or
            flower_location; logs, where workers or beat log to files.
        directory: Of the application's configuration.
        root: Of its releases.
        run: Tags of the run: what it starts nowhere it ends nowhere.
        skip: Tags that it leaves out.
    """
    units = "/etc/systemd/system"
    owned: dict[str, tuple[list[str], list[str]]] = {
        "worker": (
            [f"{app}-worker@*.service"],
            [
                f"{directory}/worker-*.env",
                f"{directory}/credentials/worker.json",
                f"{root}/pins/worker-*",
                f"{units}/{app}-worker@.service",
                f"{units}/{app}-worker@*.service.d/10-fleet.conf",
            ],
        ),
        "beat": (
            [f"{app}-beat.service"],
            [
                f"{directory}/beat.env",
                f"{directory}/credentials/beat.json",
                f"{directory}/credentials/schedule.json",
                f"{root}/pins/beat",
                f"{units}/{app}-beat.service",
            ],
        ),
        "web": (
            [f"{app}-web.socket", f"{app}-web.service"],
            [
                f"{directory}/web.env",
                f"{root}/pins/web",
                f"{units}/{app}-web.socket",
                f"{units}/{app}-web.service",
                f"/run/{app}-web.sock",
            ],
        ),
        "web_site": (
            [],
            [f"{directory}/credentials-nginx/web.htpasswd", site_file(app, "web")],
        ),
        "flower": (
            [f"{app}-flower.service"],
            [
                f"{directory}/flower.env",
                f"{directory}/credentials/flower.*",
                f"{root}/pins/flower",
                f"{units}/{app}-flower.service",
                f"{directory}/credentials-nginx/flower.htpasswd",
            ],
        ),
        "flower_site": ([], [site_file(app, "flower")]),
        "logs": ([], [f"/etc/logrotate.d/{app}"]),
        "flower_location": ([], [f"{_added(directory)}/flower.conf"]),
        # Not the web process's alone: a host with a release has it for the release's commands as well.
        "release": ([], [f"{directory}/credentials/producer.json"]),
        "secrets": ([], [f"{directory}/credentials/secret.env"]),
        "environment": ([], [f"{directory}/app.env"]),
    }
    present = set(components)
    if present & {"worker", "beat", "producer", "web"}:
        present |= {"release", "secrets", "environment"}
    if "flower" in present:
        present.add("environment")
    tags, left_out = set(run), set(skip)
    whole = not tags.isdisjoint(("all", "deploy", "configure"))
    absent = [
        owned[name]
        for name in owned
        if name not in present
        and (whole or tags.issuperset(_ROLES[name]))
        and left_out.isdisjoint(_ROLES[name])
    ]
    return {
        "units": [unit for names, _ in absent for unit in names],
        "files": [path for _, paths in absent for path in paths],
    }
