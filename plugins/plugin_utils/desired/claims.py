"""Computes what an application claims on one host; its mark there, `fleet.json`, contains the claim and the owner.

Several applications may share a host, each from its own inventory, and none knows the others' inventories. So each
leaves its mark, and preflight refuses what another application's mark already names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.names import slice_unit

from .facts import Facts, log_directory

FORMAT = 1
# The component that listens on each port.
_COMPONENT_OF_PORT = {
    "broker": "redis",
    "results": "redis",
    "sentinel": "sentinel",
    "cache": "cache",
    "web": "web_site",
    "redirect": "web_site",
    "flower": "flower_site",
    "backend": "web_backend",
    "metrics": "exporter_site",
    "exporter": "exporter_listen",
    "node": "node_exporter",
    "redis_exporter": "redis_exporter",
}

# Its user is not the application's.
_EXPORTER = ("exporter", "exporter_site", "exporter_listen", "node_exporter", "redis_exporter")


def claims(
    facts: Facts,
    ports: Mapping[str, int | str],
    server_names: Sequence[str] = (),
    redirects: bool = False,
) -> dict[str, Any]:
    """Return the claim of one application on one host, with patterns for what it may have any number of.

    Args:
        facts: The application's facts; its components may include `redis`.
        ports: Ports of `broker`, `results`, `sentinel`, `cache`, `web`, `flower`, `backend`, `metrics`, `exporter`,
            `node` and `redis_exporter`, whether or not this host has them.
        server_names: Names by which nginx tells the web site from others on the same port.
        redirects: Whether the web site also has port 80.
    """
    ports = {**ports, **({"redirect": 80} if redirects else {})}
    app, user = facts["name"], facts["user"]
    here = set(facts["components"])
    own = bool(here - {"redis", "sentinel", "redis_backup", "cache", "firewall", *_EXPORTER})
    units = [slice_unit(app), f"{app}-health.service", f"{app}-health.timer"]
    paths = [facts["directory"]]
    if own:
        units += [f"{app}.target", f"{app}-servers.target"]
        paths += [facts["root"], facts["state"], log_directory(app), f"/etc/logrotate.d/{app}"]
    if "redis" in here:
        units += [f"redis@{app}-broker.service", f"redis@{app}-results.service"]
    if "sentinel" in here:
        units.append(f"{app}-sentinel.service")
    if "redis_backup" in here:
        units += [f"{app}-backup.timer", f"{app}-backup.service"]
        paths += [f"/var/lib/{app}-backup", f"/run/{app}-backup"]
    if "cache" in here:
        units.append(f"redis@{app}-cache.service")
    if "firewall" in here:
        units += [f"{app}-firewall.service", f"{app}-firewall-rollback.*"]
    if "worker" in here:
        units.append(f"{app}-worker@*.service")
        paths.append(f"/run/{app}-worker-*")
    if "beat" in here:
        units.append(f"{app}-beat.service")
        paths.append(f"/run/{app}-beat")
    if "web" in here:
        units += [f"{app}-web.socket", f"{app}-web.service"]
        paths += [f"/run/{app}-web", f"/run/{app}-web.sock"]
    if "flower" in here:
        units.append(f"{app}-flower.service")
        paths += [f"/run/{app}-flower", f"/var/lib/{app}-flower", f"/var/log/{app}-flower"]
    if "exporter" in here:
        units += [f"{app}-exporter.socket", f"{app}-exporter.service"]
        paths.append(f"/run/{app}-exporter.sock")
    if "redis_exporter" in here:
        units.append(f"{app}-redis-exporter.service")
    sites = [site.removesuffix("_site") for site in ("web_site", "flower_site") if site in here]
    if "exporter_site" in here:
        sites.append("metrics")
    return {
        "format": FORMAT,
        "app": app,
        "owner": facts["owner"],
        "user": user,
        # Users and groups share these names. Every host gets all of them, unless it only has Redis.
        "users": [
            *([user, f"{app}-flower", facts["proxy_group"]] if own else []),
            *([f"{app}-exporter"] if "exporter" in here else []),
            *([f"{app}-backup"] if "redis_backup" in here else []),
        ],
        "ports": {
            name: int(ports[name])
            for name, component in _COMPONENT_OF_PORT.items()
            if name in ports and component in here
        },
        **({"server_names": list(server_names)} if server_names and "web_site" in here else {}),
        "units": units,
        "paths": paths,
        # The names of nginx's variables can't contain a dash.
        "nginx": [f"{app.replace('-', '_')}_{site}" for site in sites],
    }
