"""Checks for ports, names and users of a host that belong to another application of a fleet or to other software."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final

from ...desired.exporters import NODE, NODE_UNIT
from ...desired.nginx import site_file
from ...desired.option import as_number
from ..model.inventory import Problem, Severity, as_list, as_mapping, as_strings

# The variable that sets each port.
_PORTS: Final = {
    "broker": "celery_app_broker_port",
    "results": "celery_app_results_port",
    "sentinel": "celery_app_sentinel_port",
    "cache": "celery_app_cache_port",
    "web": "celery_producer_web_port",
    "redirect": "celery_producer_web_redirect_http",
    "flower": "flower_port",
    "backend": "celery_producer_web_listen",
    "metrics": "celery_exporter_port",
    "exporter": "celery_exporter_listen",
    "node": NODE,
    "redis_exporter": "celery_exporter_redis_port",
}
BEHIND_NGINX: Final = ("web", "flower", "metrics")
# Ports that several sites of nginx can share if they have different names.
_SHARED: Final = ("web", "redirect")
# The units that listen on other ports.
_BY_UNIT: Final = {"node": NODE_UNIT, "redis_exporter": "{app}-redis-exporter.service"}
# Ports for which systemd itself listens, and what follows the application's name in the names of their units.
_BY_SOCKET: Final = {"backend": "web", "exporter": "exporter"}


def socket_files(app: str) -> list[str]:
    """Return the paths of an application's socket units."""
    return [_socket_file(app, unit) for unit in _BY_SOCKET.values()]


def _socket_file(app: str, unit: str) -> str:
    return f"/etc/systemd/system/{app}-{unit}.socket"


def check_owners(facts: Mapping[str, object]) -> Iterator[Problem]:
    """Refuse ports, names and users that already belong to something else on the host.

    Args:
        facts: The host's facts. `claims` has the ports, names and users that this inventory wants there, and `marks`
            the marks of all applications there. `listeners` has the processes that listen on the wanted ports, and
            `files` the existing nginx sites and socket units of this application.
    """
    claim = as_mapping(facts.get("claims"))
    if not claim:
        return
    app = str(claim.get("app"))
    taken: set[str] = set()
    own: Mapping[str, object] = {}
    for item in as_list(facts.get("marks")):
        mark = as_mapping(item)
        path = str(mark.get("path"))
        if mark.get("error") and PurePosixPath(path).parent.name == app:
            # This run repairs it.
            yield Problem(
                "host",
                f"has an unreadable mark of this application, which this run writes again: {mark['error']}",
                "do nothing if no other inventory deploys this application",
                severity=Severity.WARNING,
                value=path,
            )
        elif mark.get("error"):
            yield Problem(
                "host",
                f"has an unreadable mark, so the ports and names of that application are unknown: {mark['error']}",
                "run that application's site.yml again, which writes the mark; or remove the file if the application "
                "is gone",
                value=path,
            )
        elif mark.get("app") == app:
            own = mark
            if mark.get("owner") != claim.get("owner"):
                yield _of_another_inventory(claim, mark, path)
        else:
            collisions = list(_collisions(claim, mark, taken))
            if collisions and mark.get("owner") == claim.get("owner"):
                yield _renamed(claim, mark, collisions)
            else:
                yield from collisions
    yield from _strangers(claim, own, facts, taken)


def _of_another_inventory(
    claim: Mapping[str, object], mark: Mapping[str, object], path: str
) -> Problem:
    return Problem(
        "celery_app_name",
        f"belongs to another inventory on this host: {path} names {mark.get('owner')} as the owner, but this "
        f"inventory is {claim.get('owner')}",
        "choose another name; or, if this inventory takes the application over, set celery_app_inventory_name to "
        f"{mark.get('owner')}",
        value=str(claim.get("app")),
    )


def _renamed(
    claim: Mapping[str, object], mark: Mapping[str, object], collisions: list[Problem]
) -> Problem:
    """Return the problem of a collision within one inventory, which is mostly an application that was renamed."""
    old = mark.get("app")
    others = sorted({problem.variable for problem in collisions} - {"celery_app_name"})
    both = f"; to run both here, change {', '.join(others)}" if others else ""
    return Problem(
        "celery_app_name",
        f"is a new name: this inventory (owner {mark.get('owner')}) already has an application on this host, which is "
        f"{old}. Under the new name a second application would run beside it, with a second beat",
        f"set it back to {old}, or remove {old} first: ansible-playbook celery_fleet.core.remove_fleet -e "
        f"celery_app_name={old}{both}",
        value=str(claim.get("app")),
    )


def _collisions(
    claim: Mapping[str, object], mark: Mapping[str, object], taken: set[str]
) -> Iterator[Problem]:
    sites, their_sites = (set(as_strings(one.get("server_names"))) for one in (claim, mark))
    side_by_side = bool(sites and their_sites and sites.isdisjoint(their_sites))
    other = f"application {mark.get('app')} (owner {mark.get('owner')})"
    for name, port in as_mapping(claim.get("ports")).items():
        for theirs, number in as_mapping(mark.get("ports")).items():
            shared = side_by_side and name in _SHARED and theirs in _SHARED
            # The applications of a host share this exporter.
            shared = shared or name == theirs == "node"
            if as_number(port) == as_number(number) and not shared:
                taken.add(name)
                yield Problem(
                    _PORTS.get(name, name),
                    f"is already the port of {theirs} of the {other} on this host",
                    f"choose another port; or change the port of {mark.get('app')} and deploy that first",
                    value=str(port),
                )
    users = set(as_strings(claim.get("users"))) & set(as_strings(mark.get("users")))
    for user in sorted(users):
        mine = user == claim.get("user") != claim.get("app")
        yield Problem(
            "celery_app_user" if mine else "celery_app_name",
            f"leads to the Unix user or group {user}, which the {other} already has on this host: each application "
            "could read the other's files",
            f"choose another {'celery_app_user' if mine else 'name'}",
            value=str(claim.get("user" if mine else "app")),
        )
    for kind in ("units", "paths", "nginx"):
        names = [
            name
            for name in as_strings(claim.get(kind))
            if any(_meet(name, theirs) for theirs in as_strings(mark.get(kind)))
        ]
        if names:
            yield Problem(
                "celery_app_name",
                f"leads to the names {', '.join(names)}, which the {other} already has on this host",
                "choose another name",
                value=str(claim.get("app")),
            )


def _meet(one: str, other: str) -> bool:
    """Return whether two patterns can match the same name."""
    return fnmatchcase(one, other) or fnmatchcase(other, one)


def _strangers(
    claim: Mapping[str, object],
    own: Mapping[str, object],
    facts: Mapping[str, object],
    taken: set[str],
) -> Iterator[Problem]:
    app = str(claim.get("app"))
    listeners, files = as_mapping(facts.get("listeners")), as_strings(facts.get("files"))
    before = {as_number(port) for port in as_mapping(own.get("ports")).values()}
    for name, port in as_mapping(claim.get("ports")).items():
        # In this run the application's previous ports may be exchanged with one another.
        if name in taken or as_number(port) in before:
            continue
        ours: tuple[str, ...]
        if name in (*BEHIND_NGINX, "redirect"):
            # One nginx serves the whole host. It may listen there for another site, which would continue to answer.
            site = site_file(app, "web" if name == "redirect" else name)
            by_name = name in _SHARED and claim.get("server_names")
            ours = ("nginx.service",) if by_name or site in files else ()
        elif name in _BY_SOCKET:
            unit = _BY_SOCKET[name]
            ours = (
                ("init.scope", f"{app}-{unit}.service") if _socket_file(app, unit) in files else ()
            )
        elif name in _BY_UNIT:
            ours = (_BY_UNIT[name].format(app=app),)
        else:
            ours = tuple(f"redis@{app}-{kind}.service" for kind in ("broker", "results", "cache"))
        strangers = [
            as_mapping(who)
            for who in as_list(listeners.get(str(port)))
            if as_mapping(who).get("unit") not in ours
        ]
        if strangers:
            names = sorted({f"{who.get('command')} ({who.get('unit')})" for who in strangers})
            yield Problem(
                _PORTS.get(name, name),
                f"is taken on this host by {', '.join(names)}",
                "stop what listens there; or set it to false and name that exporter in celery_exporter_others"
                if name == "node"
                else "choose another port, or stop what listens there",
                value=str(port),
            )
