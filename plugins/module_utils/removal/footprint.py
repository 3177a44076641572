"""What an application has on a host by name: units, files, directories, users; and what all applications there share.

It is told from names, not from an inventory: that may have changed since, and what an earlier one put there goes as
well. A test holds it against all that the roles write (`tests/render/test_removal.py`). What lies in between and has
another name is somebody else's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.celery_fleet.core.plugins.module_utils.names import slice_unit

UNITS = "/etc/systemd/system"
SITES = "/etc/nginx/conf.d"
NEEDRESTART = "/etc/needrestart/conf.d"
STATE = "/var/lib/celery-fleet"
RUN = "/run/celery-fleet"
LIBRARY = "/usr/lib/celery-fleet"
REDIS_DATA = "/var/lib/celery-fleet-redis"
MARK = "fleet.json"
# Beside the mark, while a removal is under way: what becomes of the messages in Redis has been settled.
SETTLED = "removal.json"
# What may be kept, by the names of `fleet_remove_keep`.
KEEP = ("logs", "redis_data", "releases", "state")
# Whose names are safe to build paths of: the same as preflight's.
APPLICATION = re.compile(r"[a-z][a-z0-9_-]{0,24}")
# A directory that is an application's own: absolute, below another one, and with nothing that a pattern would take.
_OWN_DIRECTORY = re.compile(r"(/[A-Za-z0-9_+:@-][A-Za-z0-9._+:@-]*){2,}")


@dataclass(frozen=True)
class Places:
    """Where an application lies; the facts of celery_app and redis."""

    app: str
    directory: str
    root: str
    state: str
    redis_config: str

    def __post_init__(self) -> None:
        for name in ("directory", "root", "state", "redis_config"):
            object.__setattr__(self, name, _without_end(getattr(self, name)))

    @classmethod
    def usual(cls, app: str) -> Places:
        """Those of the roles' defaults."""
        return cls(
            app,
            f"/etc/celery-fleet/{app}",
            f"/opt/{app}",
            f"/var/lib/{app}",
            "/etc/celery-fleet/redis",
        )

    @property
    def mark(self) -> str:
        """Path of the owner's mark."""
        return f"{self.directory}/{MARK}"

    def wrong(self, mark: Mapping[str, object] | None) -> list[str]:
        """Why nothing may be removed there; each with what to do.

        Args:
            mark: The application's own on this host: what it was deployed with, whatever the inventory says since.
        """
        named = {"celery_app_root": self.root, "celery_app_state": self.state}
        more = {"celery_app_directory": self.directory, "redis_config_directory": self.redis_config}
        words = [
            f"{variable}: {path!r} is no directory of an application's own: write an absolute path, in at least two "
            "parts of letters, digits and . _ + : @ -"
            for variable, path in {**named, **more}.items()
            if not is_own_directory(path)
        ]
        known = (mark or {}).get("paths")
        # A host that has Redis alone has neither.
        if words or not isinstance(known, Sequence) or not (mark or {}).get("users"):
            return words
        return [
            f"{variable}: the inventory says {path}, and {self.mark} names no such directory but "
            f"{', '.join(map(str, known))}. Set it to the one that the application was deployed with"
            for variable, path in named.items()
            if path not in map(_without_end, map(str, known))
        ]


@dataclass(frozen=True)
class Tree:
    """A directory with what processes and builds have put into it.

    Attributes:
        path: A glob pattern.
        keep: The name by which it may be kept; empty where nobody could want it.
        whole: Everything in it goes; else what the application's users own.
        processes: It is there for processes of the application, not for its Redis.
    """

    path: str
    keep: str = ""
    whole: bool = True
    processes: bool = True


def _without_end(path: str) -> str:
    return path.rstrip("/") or path


def is_own_directory(path: str) -> bool:
    """Whether a path may be one that a single application has, and removes."""
    return _OWN_DIRECTORY.fullmatch(path) is not None


# In the order in which they are stopped, each on all hosts before the next: what checks, then what sends, then what
# works, which drains, and Redis once nobody needs it any more.
STAGES = ("watch", "beat", "web", "workers", "flower", "redis", "rest")


def units(app: str) -> dict[str, list[str]]:
    """Glob patterns of an application's units by the stage in which they are stopped."""
    return {
        "watch": [f"{app}-health.timer", f"{app}-health.service"],
        "beat": [f"{app}-beat.service"],
        "web": [f"{app}-web.socket", f"{app}-web.service"],
        "workers": [f"{app}-worker@*.service"],
        "flower": [f"{app}-flower.service"],
        "redis": [f"redis@{app}-broker.service", f"redis@{app}-results.service"],
        # What would bring the table back goes before it; an earlier version had the watch.
        "rest": [
            f"{app}-firewall-rollback.timer",
            f"{app}-firewall-rollback.service",
            f"{app}-firewall-watch.timer",
            f"{app}-firewall-watch.service",
            f"{app}-firewall.service",
            f"{app}.target",
        ],
    }


def all_units(app: str) -> list[str]:
    """All of these patterns."""
    return [pattern for patterns in units(app).values() for pattern in patterns]


def commands(app: str) -> list[str]:
    """Patterns of units in which somebody's command, or a release's, runs: these are waited for by a person."""
    return [f"{app}-exec-*.service", f"{app}-command.*.service"]


def unit_files(app: str) -> list[str]:
    """Patterns of unit files and of our drop-ins; a user's own drop-in has another name."""
    own = [
        slice_unit(app),
        f"{app}.target",
        f"{app}-worker@.service",
        f"{app}-worker@*.service.d/10-fleet.conf",
        f"{app}-beat.service",
        f"{app}-web.socket",
        f"{app}-web.service",
        f"{app}-flower.service",
        f"{app}-health.timer",
        f"{app}-health.service",
        f"{app}-firewall.service",
        f"{app}-firewall-watch.timer",
        f"{app}-firewall-watch.service",
        f"redis@{app}-broker.service.d/10-fleet.conf",
        f"redis@{app}-results.service.d/10-fleet.conf",
    ]
    # The slice's name may have a backslash, which a pattern would take for its own.
    return [f"{UNITS}/{name}".replace("\\", "[\\]") for name in own]


def site_files(places: Places) -> list[str]:
    """What nginx reads of it."""
    return [
        f"{SITES}/{places.app}-web.conf",
        f"{SITES}/{places.app}-flower.conf",
        f"{places.directory}/nginx-web/flower.conf",
        f"{places.directory}/credentials-nginx/web.htpasswd",
        f"{places.directory}/credentials-nginx/flower.htpasswd",
    ]


def sysusers(app: str) -> str:
    """The file that declares its users."""
    return f"/etc/sysusers.d/{app}.conf"


def files(places: Places, *, processes: bool = True) -> list[str]:
    """Patterns of all other files and links, but for the mark and the users' declaration, which go last.

    Without `processes`, as on a host of Redis alone, none of those outside of our own directories that are theirs.
    """
    app, etc = places.app, places.directory
    environments = ("app", "exec", "worker-*", "beat", "web", "flower")
    credentials = (
        *("secret.env", "exec.env", "flower.env"),
        *("worker.json", "beat.json", "schedule.json", "producer.json", "operator.json"),
        "flower.json",
    )
    return [
        *(f"{etc}/{name}.env" for name in environments),
        *(f"{etc}/{name}" for name in ("cli.json", "health.json", "firewall.nft")),
        *(f"{etc}/credentials/{name}" for name in credentials),
        *(f"{etc}/pki/{name}" for name in ("ca.crt", "host.crt", "host.key")),
        *(
            f"{places.redis_config}/{app}-{kind}/{name}"
            for kind in ("broker", "results")
            for name in ("redis.conf", "users.acl")
        ),
        *(_process_files(places) if processes else ()),
        f"{NEEDRESTART}/celery-fleet-{app}.conf",
        f"{LIBRARY}/cli/pins/{app}",
        f"{STATE}/health/{app}.json",
        *(f"{STATE}/inputs/{unit}.json" for unit in all_units(app)),
        *(f"{RUN}/fingerprints/{unit}.json" for unit in all_units(app)),
        f"/run/{app}-web.sock",
    ]


def _process_files(places: Places) -> list[str]:
    app, root = places.app, places.root
    pins = ("worker-*", "beat", "web", "flower")
    return [
        *(f"{root}/pins/{name}" for name in pins),
        f"{root}/current",
        f"/etc/logrotate.d/{app}",
    ]


def trees(places: Places) -> list[Tree]:
    """Directories that go with what is in them, the inner ones first."""
    app, root, state = places.app, places.root, places.state
    return [
        Tree(f"{root}/releases", "releases"),
        Tree(f"{root}/flower", "releases"),
        *(
            Tree(f"{REDIS_DATA}/{app}-{kind}", "redis_data", processes=False)
            for kind in ("broker", "results")
        ),
        *(Tree(f"{state}/{name}", "state") for name in ("beat", "web", "worker-*")),
        # The application writes there as well, and somebody may have put something beside.
        Tree(state, "state", whole=False),
        Tree(f"/var/lib/{app}-flower", "state", whole=False),
        Tree(f"/var/log/{app}", "logs", whole=False),
        Tree(f"/var/log/{app}-flower", "logs", whole=False),
        Tree(f"/var/log/celery-fleet/{app}", "logs", processes=False),
        Tree(f"{STATE}/commands/{app}", processes=False),
    ]


def directories(places: Places) -> list[str]:
    """Patterns of directories that go where nothing is left in them, the inner ones first."""
    app, etc, root = places.app, places.directory, places.root
    return [
        f"{UNITS}/{app}-worker@*.service.d",
        f"{UNITS}/redis@{app}-broker.service.d",
        f"{UNITS}/redis@{app}-results.service.d",
        f"{UNITS}/{app}.target.wants",
        *(f"{etc}/{name}" for name in ("credentials", "credentials-nginx", "nginx-web", "pki")),
        f"{places.redis_config}/{app}-broker",
        f"{places.redis_config}/{app}-results",
        f"{root}/pins",
        root,
    ]


# -- what the applications of a host share --------------------------------------------------------------------

# With the last application that has a Redis there, or a site behind nginx.
REDIS_FILES = (f"{UNITS}/redis@.service",)
NGINX_FILES = (
    f"{UNITS}/nginx.service.d/10-celery-fleet.conf",
    f"{STATE}/inputs/nginx.service.json",
    f"{RUN}/fingerprints/nginx.service.json",
)
NGINX_DIRECTORIES = (f"{UNITS}/nginx.service.d",)
# Each keeps Debian's own open instance from running; it goes with the package, by whose name it is called.
REDIS_MASKS = {name: f"{UNITS}/{name}.service" for name in ("redis-server", "valkey-server")}
# With the last one of all.
SHARED_FILES = (
    "/usr/local/bin/celery-fleet",
    "/usr/share/bash-completion/completions/celery-fleet",
)
SHARED_TREES = (LIBRARY, STATE, "/run/celery-fleet-exec")
# Copied by a script of nginx's package, which leaves it behind: the copy, what it was made from, and where it lies.
WELCOME = ("/var/www/html/index.nginx-debian.html", "/usr/share/nginx/html/index.html")
WELCOME_DIRECTORIES = ("/var/www/html", "/var/www")
SHARED_DIRECTORIES = (
    "/var/log/celery-fleet",
    REDIS_DATA,
    "/etc/celery-fleet/redis",
    "/etc/sysusers.d",
    NEEDRESTART,
    "/etc/needrestart",
    "/etc/systemd/system/nftables.service.wants",
    "/usr/share/bash-completion/completions",
    "/usr/share/bash-completion",
)


@dataclass(frozen=True)
class Neighbours:
    """The other applications of a host.

    Attributes:
        names: Of all of them.
        units: Patterns of their units.
        users: Their users and groups.
        paths: Patterns of their directories.
        redis: Whether one of them has a Redis there.
        nginx: Whether one of them has a site there.
    """

    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    redis: bool = False
    nginx: bool = False


def neighbours(app: str, marks: Mapping[str, Mapping[str, object] | None]) -> Neighbours:
    """What the marks of a host say of others than this application.

    Args:
        app: This application.
        marks: Of all, by the names of their directories; None stands for one that can't be read, of which the worst is
            assumed: that it needs all that is shared.
    """
    others = {name: mark for name, mark in marks.items() if name != app}

    def texts(key: str) -> tuple[str, ...]:
        found: list[str] = []
        for mark in others.values():
            value = (mark or {}).get(key)
            found += map(str, value) if isinstance(value, Sequence) else ()
        return tuple(found)

    unreadable = None in others.values()
    return Neighbours(
        names=tuple(sorted(others)),
        units=texts("units"),
        users=texts("users"),
        paths=texts("paths"),
        redis=unreadable or any(unit.startswith("redis@") for unit in texts("units")),
        nginx=unreadable or bool(texts("nginx")),
    )
