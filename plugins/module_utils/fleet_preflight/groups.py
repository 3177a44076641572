"""Groups of the inventory."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from .model import FLEET, MEMBER_GROUPS, Model, Problem, as_mapping
from .redis_cluster import INSTEAD, NO_CLUSTER


def check_groups(model: Model) -> Iterator[Problem]:
    """Groups that are missing, empty, too big, or outside `fleet`."""
    if not model.groups.get(FLEET):
        yield Problem(
            FLEET,
            _absence(model, FLEET),
            f"make it the parent of {', '.join(MEMBER_GROUPS)} in the inventory's hosts file",
        )
    if not model.groups.get("celery_workers"):
        yield Problem(
            "celery_workers",
            f"{_absence(model, 'celery_workers')}, so nothing would run a task",
            _guess(model, "celery_workers") or "put the hosts that run workers into it",
        )
    redis = model.members("redis")
    if not redis:
        yield Problem(
            "redis",
            f"{_absence(model, 'redis')}; an external broker, given by URL, is not supported yet",
            _guess(model, "redis") or "put the one host that runs Redis into it",
        )
    elif len(redis) > 1:
        yield Problem(
            "redis",
            f"has more than one host; replicated Redis is not supported yet, and {NO_CLUSTER}",
            f"leave one host in it: {INSTEAD}",
            value=", ".join(redis),
        )
    yield from _beat(model)
    yield from _outside(model)


def _beat(model: Model) -> Iterator[Problem]:
    beat = model.members("celery_beat")
    scheduled = [
        (value, hosts)
        for value, hosts in model.distinct("celery_beat_schedule")
        # What switches one of the code's entries off asks for no beat.
        if any(
            as_mapping(entry).get("enabled") is not False for entry in as_mapping(value).values()
        )
    ]
    if len(beat) > 1:
        yield Problem(
            "celery_beat",
            "has more than one host, so that every entry would be sent more than once",
            "leave one host in it",
            value=", ".join(beat),
        )
    elif not beat and scheduled:
        yield Problem(
            "celery_beat",
            f"{_absence(model, 'celery_beat')}, while celery_beat_schedule has entries: nothing would send them",
            _guess(model, "celery_beat") or "put one host into it, or empty celery_beat_schedule",
        )


def _outside(model: Model) -> Iterator[Problem]:
    fleet = set(model.groups.get(FLEET, ()))
    if not fleet:
        return
    for group in MEMBER_GROUPS:
        outside = tuple(host for host in model.groups.get(group, ()) if host not in fleet)
        if outside:
            yield Problem(
                group,
                "has hosts that are not in fleet, so site.yml would pass them over",
                f"list {group} among the children of fleet",
                value=", ".join(outside),
            )


def _absence(model: Model, group: str) -> str:
    return (
        "is a group without hosts"
        if group in model.groups
        else "is a group that the inventory lacks"
    )


def _guess(model: Model, group: str) -> str:
    if group in model.groups:
        return ""
    others = [
        name for name in model.groups if name not in (FLEET, *MEMBER_GROUPS, "all", "ungrouped")
    ]
    near = difflib.get_close_matches(group, others, n=1, cutoff=0.75)
    return f"did you mean it by the group {near[0]}? Rename that to {group}" if near else ""
