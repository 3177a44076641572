"""Derives from names what an application has on a host without a whole manifest: 0.1.0 and earlier kept none.

It stays for one version; the next one removes this file and all its uses. Add nothing here, because a manifest is made
from the roles' desired state.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..names import slice_unit
from ..reconcile import systemd
from ..reconcile.fingerprint import STATE
from ..reconcile.manifest import UNITS, Manifest
from .host import RemovalHost

REDIS_DATA = "/var/lib/celery-fleet-redis"
# An application's own directory: absolute, with at least two parts, and without characters of glob patterns.
_OWN_DIRECTORY = re.compile(r"(/[A-Za-z0-9_+:@-][A-Za-z0-9._+:@-]*){2,}")


@dataclass(frozen=True)
class ApplicationPaths:
    """Name and directories of an application, from the facts of celery_app and redis."""

    app: str
    directory: str
    root: str
    state: str
    redis_config: str

    def __post_init__(self) -> None:
        for item in fields(self):
            path = getattr(self, item.name)
            object.__setattr__(self, item.name, path.rstrip("/") or path)

    @classmethod
    def usual(cls, app: str) -> ApplicationPaths:
        """Return the paths from the roles' defaults."""
        etc = "/etc/celery-fleet"
        return cls(app, f"{etc}/{app}", f"/opt/{app}", f"/var/lib/{app}", f"{etc}/redis")

    def wrong(self, mark: Mapping[str, Any] | None) -> list[str]:
        """Return why nothing may be removed there, each with what to do.

        Args:
            mark: The application's mark on this host: what it was deployed with, even if the inventory changed.
        """
        named = {"celery_app_root": self.root, "celery_app_state_directory": self.state}
        more = {
            "celery_app_config_directory": self.directory,
            "redis_config_directory": self.redis_config,
        }
        words = [
            f"{variable}: {path!r} is not a directory of an application: write an absolute path, in at least two "
            "parts of letters, digits and . _ + : @ -"
            for variable, path in {**named, **more}.items()
            if _OWN_DIRECTORY.fullmatch(path) is None
        ]
        known = [str(path).rstrip("/") for path in (mark or {}).get("paths") or ()]
        # A host with only Redis has neither.
        if words or not (mark or {}).get("users"):
            return words
        return [
            f"{variable}: the inventory says {path}, and the mark of {self.app} names no such directory but "
            f"{', '.join(known)}. Set it to the one that the application was deployed with"
            for variable, path in named.items()
            if path not in known
        ]


def derive(paths: ApplicationPaths, mark: Mapping[str, Any] | None, host: RemovalHost) -> Manifest:
    """Return what is on a host by its names.

    Args:
        paths: The application's paths.
        mark: The application's mark; if it is None because it can't be read, the largest footprint is assumed.
        host: The host with the application.
    """
    known: Mapping[str, Any] = mark or {}
    redis = mark is None or any(str(unit).startswith("redis@") for unit in known.get("units") or ())
    nginx = mark is None or bool(known.get("nginx"))
    # Otherwise a directory of this name outside of our directories does not belong to the fleet.
    processes = bool(known.get("users")) or host.exists(f"/etc/sysusers.d/{paths.app}.conf")
    found = Manifest()
    patterns = [*_unit_files(paths.app, redis, nginx), *_files(paths, redis, processes)]
    for pattern in patterns:
        found.files.update(path for path in host.glob(pattern) if not os.path.isdir(host.at(path)))
    masks = [f"{UNITS}/{name}-server.service" for name in ("redis", "valkey") if redis]
    found.files.update(path for path in masks if os.path.islink(host.at(path)))
    for pattern in _directories(paths, nginx):
        found.directories.update(host.glob(pattern))
    found.data.update(_data(paths, processes))
    found.units.update(systemd.listed(_units(paths.app), host.run))
    for path in host.glob(f"{STATE}/inputs/*.json"):
        unit = os.path.basename(path).removesuffix(".json")
        if unit.startswith((f"{paths.app}-", f"redis@{paths.app}-")) or unit == "nginx.service":
            found.units.add(unit)
    if not nginx:
        found.units.discard("nginx.service")
    with contextlib.suppress(OSError, ValueError, KeyError):
        note = json.loads(Path(host.at(f"{STATE}/packages.json")).read_text())
        found.packages.update(note["installed"])
    if processes:
        _add_accounts(found, paths.app, known)
    return found


def _add_accounts(found: Manifest, app: str, mark: Mapping[str, Any]) -> None:
    found.users = {
        str(mark.get("user") or app): f"{app} Celery",
        f"{app}-flower": f"{app} Flower",
    }
    found.groups.update(map(str, mark.get("users") or ()), found.users)


def _units(app: str) -> list[str]:
    own = ("health.*", "beat.service", "web.*", "worker@*.service", "flower.service", "firewall*.*")
    redis = [f"redis@{app}-broker.service", f"redis@{app}-results.service"]
    return [f"{app}.target", *(f"{app}-{name}" for name in own), *redis]


def _unit_files(app: str, redis: bool, nginx: bool) -> list[str]:
    services = ("worker@", "beat", "web", "flower", "health", "firewall", "firewall-watch")
    names = [
        slice_unit(app),
        f"{app}.target",
        *(f"{app}-{name}.service" for name in services),
        *(f"{app}-web.socket", f"{app}-health.timer", f"{app}-firewall-watch.timer"),
        f"{app}-worker@*.service.d/10-fleet.conf",
        f"redis@{app}-*.service.d/10-fleet.conf",
        *(("redis@.service",) if redis else ()),
        *(("nginx.service.d/10-celery-fleet.conf",) if nginx else ()),
    ]
    # The slice's name may contain a backslash, which is special in a pattern.
    return [f"{UNITS}/{name}".replace("\\", "[\\]") for name in names]


def _files(paths: ApplicationPaths, redis: bool, processes: bool) -> list[str]:
    app, etc, root = paths.app, paths.directory, paths.root
    return [
        *(f"{etc}/{name}.env" for name in ("app", "exec", "worker-*", "beat", "web", "flower")),
        *(f"{etc}/{name}" for name in ("cli.json", "health.json", "firewall.nft")),
        *(f"{etc}/credentials/{name}.env" for name in ("secret", "exec", "flower")),
        *(
            f"{etc}/credentials/{name}.json"
            for name in ("worker", "beat", "schedule", "producer", "operator", "flower")
        ),
        *(f"{etc}/pki/{name}" for name in ("ca.crt", "host.*", "client.*")),
        f"{etc}/nginx-web/flower.conf",
        *(f"{etc}/credentials-nginx/{name}.htpasswd" for name in ("web", "flower")),
        *(f"/etc/nginx/conf.d/{app}-{name}.conf" for name in ("web", "flower")),
        *(f"{paths.redis_config}/{app}-*/{name}" for name in ("redis.conf", "users.acl") if redis),
        *(f"{root}/pins/{name}" for name in ("worker-*", "beat", "web", "flower") if processes),
        *((f"{root}/current", f"/etc/logrotate.d/{app}") if processes else ()),
        f"/etc/sysusers.d/{app}.conf",
        f"/etc/needrestart/conf.d/celery-fleet-{app}.conf",
        f"/usr/lib/celery-fleet/cli/pins/{app}",
        "/usr/local/bin/celery-fleet",
        "/usr/share/bash-completion/completions/celery-fleet",
    ]


def _data(paths: ApplicationPaths, processes: bool) -> dict[str, str]:
    app, root = paths.app, paths.root
    own = {
        f"{root}/releases": "releases",
        f"{root}/virtualenvs": "releases",
        f"{root}/flower": "releases",
        paths.state: "state",
        f"/var/lib/{app}-flower": "state",
        f"/var/log/{app}": "logs",
        f"/var/log/{app}-flower": "logs",
    }
    return {
        **(own if processes else {}),
        f"{REDIS_DATA}/{app}-broker": "redis_data",
        f"{REDIS_DATA}/{app}-results": "redis_data",
        f"/var/log/celery-fleet/{app}": "logs",
        f"{STATE}/commands/{app}": "",
        f"{STATE}/health/{app}.json": "",
        f"/run/{app}-web.sock": "",
        "/usr/lib/celery-fleet": "",
        STATE: "",
        "/run/celery-fleet-exec": "",
    }


def _directories(paths: ApplicationPaths, nginx: bool) -> list[str]:
    app, etc, root = paths.app, paths.directory, paths.root
    return [
        f"{UNITS}/{app}-worker@*.service.d",
        f"{UNITS}/redis@{app}-*.service.d",
        f"{UNITS}/{app}.target.wants",
        f"{UNITS}/nftables.service.wants",
        *((f"{UNITS}/nginx.service.d",) if nginx else ()),
        *(f"{etc}/{name}" for name in ("credentials", "credentials-nginx", "nginx-web", "pki")),
        *(etc, "/etc/celery-fleet", root, f"{root}/pins"),
        *(paths.redis_config, f"{paths.redis_config}/{app}-*"),
        *("/var/log/celery-fleet", REDIS_DATA, "/etc/sysusers.d"),
        *("/etc/needrestart", "/etc/needrestart/conf.d"),
        *("/usr/share/bash-completion", "/usr/share/bash-completion/completions"),
    ]
