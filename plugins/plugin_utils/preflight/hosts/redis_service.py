"""Judges a Redis that the fleet does not run by what it has told each host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ...desired.redis_service import limits
from ..checks.control import version
from ..model.inventory import Problem, Severity, as_mapping

# The first with BLMOVE and client tracking.
_FROM: Final = (6, 2)
_VARIABLES: Final = {"broker": "celery_app_broker_url", "results": "celery_app_results_url"}
_PAGE: Final = "docs/redis.md"


def check_redis_service(facts: Mapping[str, object]) -> Iterator[Problem]:
    """Yield the problems of one host with the servers.

    Args:
        facts: Its `ansible_facts['fleet']`. `redis_service` is the answer of `plugin_utils/scripts/redis_service.py`.
    """
    for kind, answer in as_mapping(facts.get("redis_service")).items():
        told = as_mapping(answer)
        for message, remedy, severity in (
            [_unusable(told)] if told.get("error") else [*_wrong(kind, told), *_limits(kind, told)]
        ):
            yield Problem(_VARIABLES.get(kind, kind), message, remedy, severity=severity)


_Judgement = tuple[str, str, Severity]


def _unusable(told: Mapping[str, object]) -> _Judgement:
    return (
        f"can't be used from the host: {told['error']}",
        "check host, port, user, password and celery_app_redis_ca, and whether the service lets this host in",
        Severity.ERROR,
    )


def _wrong(kind: str, told: Mapping[str, object]) -> Iterator[_Judgement]:
    number = str(told.get("version") or "")
    refused = [name for name in as_mapping(told.get("refused")) if not name.startswith("CLIENT")]
    if number and version(number) < _FROM:
        yield (
            f"is Redis {number}, older than {'.'.join(map(str, _FROM))}",
            "use a newer server",
            Severity.ERROR,
        )
    if told.get("cluster") == "1":
        yield (
            "is a cluster, for which Celery has no transport",
            "use a service with one primary (cluster mode disabled)",
            Severity.ERROR,
        )
    if told.get("role") == "slave":
        yield (
            "is a replica, which takes no writes",
            "write the address of the primary",
            Severity.ERROR,
        )
    if refused:
        yield (
            f"does not allow {', '.join(refused)}, which workers need",
            f"give its user these commands; {_PAGE} has the whole list",
            Severity.ERROR,
        )
    policy = str(told.get("policy") or "")
    if kind == "broker" and policy.startswith("allkeys"):
        yield (
            f"evicts keys when its memory is full (maxmemory-policy {policy}), so queues would lose tasks",
            "set maxmemory-policy to noeviction at the service, or use another one as the broker",
            Severity.ERROR,
        )


def _limits(kind: str, told: Mapping[str, object]) -> Iterator[_Judgement]:
    """Warn about limits that the fleet can live with."""
    if found := limits(kind, told):
        yield (
            f"works, with limits: {'; '.join(found)}",
            f"{_PAGE} says what each of them costs",
            Severity.WARNING,
        )
