"""Compares the inventory's requirements with the memory, disk space, kernel, directories and packages of each host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final

from ...desired.option import as_number
from ...desired.workers import processes
from ...pki import openssl, wanted
from ..checks.certificates import pki_settings
from ..checks.control import version
from ..checks.network import redis_memory
from ..checks.units import memory_bytes
from ..checks.web import CERTIFICATES
from ..checks.workers import each_enabled
from ..model.inventory import (
    UNITS,
    Model,
    Problem,
    Severity,
    as_list,
    as_mapping,
    as_strings,
    as_text,
)
from ..model.report import several
from ..model.sizes import redis_bytes
from ..model.specs import ROLE_GROUPS

_MIB: Final = 2**20

# Bytes. With less free space a new virtualenv is likely to fill the disk.
_ROOM: Final = 1000 * _MIB

# Connections to Redis that may wait, its tcp-backlog.
_BACKLOG: Final = 511

# With less than this, Redis and logs may soon fail to write.
_LEAST_ROOM: Final = 250 * _MIB

# Debian 12's versions, which files and access rules are written for. Valkey began with 7.2.
_FROM: Final = {
    "redis-server": (7, 0),
    "valkey-server": (7, 2),
    "nginx-common": (1, 22),
    "nftables": (1, 0),
}

_OPTIONS: Final = ("concurrency", "autoscale", "pool", "max_memory_per_child", "memory_max")


def demands(model: Model) -> dict[str, dict[str, object]]:
    """Return the inventory's requirements for each host, as plain data.

    `workers` has their limits, `redis` its memory in bytes, and `release` says whether releases are built there.
    `distributions` has the untested ones that the inventory allows. `paths` has those that must exist already, each
    with the first variable that names it. `certificate` lists why strict Pythons on other hosts would refuse the host's
    certificate, and `needs_client_key` says whether its clients show one. `authorities` names the files of the fleet's
    own authorities, if it has any.
    """
    found: dict[str, dict[str, object]] = {}
    redis, workers = model.members("redis"), model.members("celery_workers")
    releases = model.members(*ROLE_GROUPS["celery_release"], *ROLE_GROUPS["flower"])
    certificates = pki_settings(model)
    for host in model.hosts:
        given = certificates.get(host)
        asked: dict[str, object] = {
            "release": host in releases,
            "certificate": openssl.not_strict(given) if given else [],
            "needs_client_key": bool(given and given.clients),
            "distributions": as_list(model.value(host, "preflight_allowed_distributions")),
        }
        if given and given.source == wanted.OWN:
            asked["authorities"] = {"directory": given.directory, "bundle": given.ca_bundle}
        if host in redis:
            asked["redis"] = {
                name: size
                for name in redis_memory(model, host)
                if (size := redis_bytes(model.value(host, name)))
            }
        if host in workers:
            asked["workers"] = {
                name: {
                    key: value
                    for key, value in own.items()
                    if key in _OPTIONS and isinstance(value, (str, int, float, Mapping))
                }
                for name, own in each_enabled(model, host)
            }
        if paths := _paths(model, host):
            asked["paths"] = paths
        found[host] = asked
    return found


def _paths(model: Model, host: str) -> dict[str, str]:
    """Return the paths that must exist and that no deploy creates, each with the first variable that names it."""
    app = str(model.value(host, "celery_app_name"))
    made = [f"{base}/{app}" for base in ("/opt", "/var/cache", "/var/lib", "/var/log")]
    made += as_mapping(model.value(host, "celery_app_directories"))
    found: dict[str, str] = {}
    for name, options in _processes(model, host):
        for text in as_strings(options.get("read_write_paths")):
            path = text.removeprefix("+")
            # A path with - may be missing. Another check refuses one that is not absolute.
            if path.startswith("/") and not any(
                PurePosixPath(path).is_relative_to(one) for one in made
            ):
                found.setdefault(path, f"{name}.read_write_paths")
    if host in model.members("celery_producers"):
        for name in CERTIFICATES:
            if certificate := as_text(model.value(host, name)):
                found.setdefault(certificate, name)
    return found


def _processes(model: Model, host: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the variable and the options of each process of the host."""
    if host in model.members("celery_workers"):
        for name, options in each_enabled(model, host):
            yield f"celery_worker_instances.{name}", options
    for variable, group in UNITS.items():
        if host in model.members(group):
            yield variable, as_mapping(model.value(host, variable))


def check_capacity(facts: Mapping[str, object], asked: Mapping[str, object]) -> Iterator[Problem]:
    """Yield the problems of one host.

    Args:
        facts: Its `ansible_facts['fleet']`.
        asked: The host's part of the result of `demands`.
    """
    yield from _memory(facts, asked)
    yield from _disk(facts, asked)
    yield from _missing(facts, asked)
    flavor = str(facts.get("redis_flavor") or "redis")
    if "redis" in asked:
        yield from _kernel(facts)
    servers = [f"{flavor}-server"] if "redis" in asked else []
    for package in (*servers, "nginx-common", "nftables"):
        yield from _package(package, facts)


def _missing(facts: Mapping[str, object], asked: Mapping[str, object]) -> Iterator[Problem]:
    variables = as_mapping(asked.get("paths"))
    for path in as_strings(facts.get("missing")):
        name = str(variables.get(path))
        if name in CERTIFICATES:
            message = "does not exist on the host, so nginx would refuse the site"
            remedy = "put it there first, for example with certbot, while the site has the fleet's own certificate"
        else:
            message = (
                "does not exist on the host, so systemd would not start the process (226/NAMESPACE)"
            )
            remedy = f"create it there, writable for the process's user; or write -{path} if it may be missing"
        yield Problem(name, message, remedy, value=path)


def _memory(facts: Mapping[str, object], asked: Mapping[str, object]) -> Iterator[Problem]:
    memory = as_number(facts.get("memory_bytes"))
    if not memory:
        return
    processors = as_number(facts.get("processors")) or 1
    parts = {
        f"worker {name}": bound
        for name, options in as_mapping(asked.get("workers")).items()
        if (bound := worker_bytes(as_mapping(options), processors, memory)) is not None
    }
    for name, size in as_mapping(asked.get("redis")).items():
        parts[name] = as_number(size) or 0.0
    total = sum(parts.values())
    if total > memory:
        largest = sorted(parts.items(), key=lambda part: -part[1])
        parts_shown = several([f"{name} {_size(size)}" for name, size in largest], 4)
        yield Problem(
            "memory",
            f"of the host is {_size(memory)}, but its processes may use {_size(total)}: {parts_shown}. Without free "
            "memory the kernel kills processes",
            "lower concurrency, max_memory_per_child, memory_max or Redis's maxmemory, move a worker to another host, "
            "or use a larger host",
            severity=Severity.WARNING,
        )


def worker_bytes(options: Mapping[str, object], processors: float, memory: float) -> float | None:
    """Return the most bytes that a worker may use: all its processes at their limit, or its unit's limit.

    Args:
        options: The worker's options, merged over the defaults.
        processors: The host's number of processors, which is Celery's default concurrency.
        memory: The host's memory in bytes, for a limit in percent.

    Returns:
        None for a worker without a limit.
    """
    bounds = []
    child = as_number(options.get("max_memory_per_child"))
    if child is not None and options.get("pool", "prefork") == "prefork":
        bounds.append((processes(options) or processors) * child * 1024)
    limit = str(options.get("memory_max", ""))
    size = memory_bytes(limit)
    percent = as_number(limit[:-1]) if limit.endswith("%") else None
    if size is not None:
        bounds.append(size)
    elif percent is not None:
        bounds.append(memory * percent / 100)
    return min(bounds, default=None)


def _disk(facts: Mapping[str, object], asked: Mapping[str, object]) -> Iterator[Problem]:
    paths = [*(["/opt"] if asked.get("release") else []), "/var"]
    for path in paths:
        free = as_number(as_mapping(facts.get("free_bytes")).get(path))
        if free is None or free >= _ROOM:
            continue
        what = "releases and virtualenvs" if path == "/opt" else "packages, logs and data"
        yield Problem(
            "disk",
            f"of the host has {_size(free)} left below {path}, the place of {what}",
            f"free at least {_size(_ROOM)} there, or enlarge the disk"
            + ("; celery_release_keep sets how many releases are kept" if path == "/opt" else ""),
            value=path,
            severity=Severity.ERROR if free < _LEAST_ROOM else Severity.WARNING,
        )


def _kernel(facts: Mapping[str, object]) -> Iterator[Problem]:
    """Check the kernel's settings for Redis, which can't warn about them itself: its sandbox hides them."""
    settings = as_mapping(facts.get("kernel"))
    if settings.get(name := "vm.overcommit_memory") == "2":
        yield _wrong_setting(
            name,
            "2",
            "makes the kernel refuse Redis a copy of its process if it uses much of the memory, so it could not save",
            "0",
        )
    waiting = as_number(settings.get(name := "net.core.somaxconn"))
    if waiting is not None and waiting < _BACKLOG:
        yield _wrong_setting(
            name,
            f"{waiting:.0f}",
            f"refuses connections when many workers connect at once: Redis lets {_BACKLOG} wait",
            "4096",
        )


def _wrong_setting(name: str, value: str, message: str, right: str) -> Problem:
    return Problem(
        name,
        message,
        f"write {name} = {right} into a file in /etc/sysctl.d/ on the host and run sysctl --system",
        value=value,
        severity=Severity.WARNING,
    )


def _package(package: str, facts: Mapping[str, object]) -> Iterator[Problem]:
    """Check the version of the installed package, or of the one that would be installed, if the host knows it."""
    least = _FROM.get(package)
    text = str(as_mapping(facts.get("versions")).get(package, "")).rpartition(":")[2]
    if least and text and version(text) < least:
        yield Problem(
            package,
            f"of the host's packages is older than {'.'.join(map(str, least))}",
            "use a host with a newer version in its package sources",
            value=text,
        )


def _size(number: float) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / _MIB:.0f} MiB"
