"""Judges what the hosts of Redis have: data before one of them begins as the primary, and Sentinels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..model.inventory import Problem, as_list, as_mapping, as_strings


def check_first_primary(facts: Mapping[str, object], redis: Sequence[str]) -> Iterator[Problem]:
    """Refuse a first host without data if another one has some, which would be replaced by nothing.

    Args:
        facts: `ansible_facts['fleet']` by host.
        redis: The fleet's Redis hosts; the first one begins as the primary.
    """
    reached = [host for host in redis if as_mapping(facts.get(host)).get("reachable") is True]
    having = [host for host in reached if as_mapping(as_mapping(facts[host]).get("redis_data"))]
    if len(redis) > 1 and having and redis[0] in reached and redis[0] not in having:
        yield Problem(
            "redis",
            f"begins with {redis[0]}, which has no data of Redis yet, but {', '.join(having)} has some, which it would "
            "lose as a replica of an empty primary",
            f"write {having[0]} before {redis[0]} in the group",
            hosts=(redis[0],),
        )


def check_leaving(facts: Mapping[str, object], redis: Sequence[str]) -> Iterator[Problem]:
    """Refuse to leave out hosts whose Sentinels still run: they have votes, and one of them may have the primary.

    Args:
        facts: `ansible_facts['fleet']` by host.
        redis: The fleet's Redis hosts.
    """
    leaving = {
        host for host in facts if host not in redis and _has_sentinel(as_mapping(facts[host]))
    }
    for host in redis:
        leaving |= {str(one) for one in as_list(as_mapping(facts.get(host)).get("sentinels"))}
    if leaving:
        names = ", ".join(sorted(leaving))
        yield Problem(
            "redis",
            f"lacks {names}, whose Sentinel still runs and votes on the primary",
            "write it into the group again, and take it off first: ansible-playbook "
            f"celery_fleet.core.remove_fleet --limit {','.join(sorted(leaving))}",
            value=", ".join(redis),
            hosts=tuple(sorted(leaving & facts.keys())),
        )


def check_logins(facts: Mapping[str, object], redis: Sequence[str]) -> Iterator[Problem]:
    """Refuse to change the password with which a run logs in together with those that servers use among themselves.

    If a server can't be told the first one while it runs, the servers restart, one after another. Each would wait for
    others that have the old passwords.

    Args:
        facts: `ansible_facts['fleet']` by host.
        redis: The fleet's Redis hosts.
    """
    found = {
        host: set(as_strings(as_mapping(facts.get(host)).get("changed_logins"))) for host in redis
    }
    hosts = tuple(
        host
        for host, names in found.items()
        if "admin" in names and names & {"replica", "sentinel"}
    )
    if len(redis) > 1 and hosts:
        yield Problem(
            "redis_passwords",
            "changes admin together with replica or sentinel, and Redis could not be told",
            "change admin in a run of its own",
            hosts=hosts,
        )


def check_ports(facts: Mapping[str, object], redis: Sequence[str]) -> Iterator[Problem]:
    """Refuse another port for servers with replicas: Sentinels and replicas only know the one from before.

    Args:
        facts: `ansible_facts['fleet']` by host.
        redis: The fleet's Redis hosts.
    """
    for kind in ("broker", "results", "sentinel"):
        changed = {}
        for host in redis:
            found = as_mapping(facts.get(host))
            wanted = as_mapping(as_mapping(found.get("claims")).get("ports")).get(kind)
            deployed = [
                as_mapping(mark["ports"]).get(kind)
                for mark in _own_marks(found)
                if "sentinel" in as_mapping(mark.get("ports"))
            ]
            if any(port not in (None, wanted) for port in deployed):
                changed[host] = deployed[0]
        if len(redis) > 1 and changed:
            yield Problem(
                f"celery_app_{kind}_port",
                f"differs from the port that is deployed, {next(iter(changed.values()))}: replicas and Sentinels on "
                "other hosts would no longer find these servers",
                "write the deployed port. To change it, go back to one host first (docs/redis.md)",
                hosts=tuple(changed),
            )


def _own_marks(facts: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Return this application's marks on a host."""
    app = as_mapping(facts.get("claims")).get("app")
    marks = (as_mapping(mark) for mark in as_list(facts.get("marks")))
    return [mark for mark in marks if mark.get("app") == app]


def _has_sentinel(facts: Mapping[str, object]) -> bool:
    """Return whether this application's mark on a host says that it has a Sentinel there."""
    return any("sentinel" in as_mapping(mark.get("ports")) for mark in _own_marks(facts))
