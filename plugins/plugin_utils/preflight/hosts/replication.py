"""Judges what the hosts of Redis have: data before one of them begins as the primary, and Sentinels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Problem,
    as_list,
    as_mapping,
)


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
    """Refuse to take hosts out of the group while they have a Sentinel, which may still name them as the primary.

    Args:
        facts: `ansible_facts['fleet']` by host.
        redis: The fleet's Redis hosts.
    """
    having = tuple(host for host in facts if _has_sentinel(as_mapping(facts[host])))
    leaving = [host for host in having if host not in redis]
    if leaving or (len(redis) == 1 and having):
        yield Problem(
            "redis",
            "has fewer hosts than before, but their Sentinels run and may name one that leaves as the primary",
            "write them into the group again; taking out hosts of Redis is not possible yet",
            value=", ".join(redis),
            hosts=tuple(leaving) or having,
        )


def _has_sentinel(facts: Mapping[str, object]) -> bool:
    """Return whether this application's mark on a host says that it has a Sentinel there."""
    app = as_mapping(facts.get("claims")).get("app")
    own = (as_mapping(mark) for mark in as_list(facts.get("marks")))
    return any(
        mark.get("app") == app and "sentinel" in as_mapping(mark.get("ports")) for mark in own
    )
