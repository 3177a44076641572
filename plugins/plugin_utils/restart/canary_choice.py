"""Chooses the worker that a deploy observes first, the canary."""

from __future__ import annotations

from collections.abc import Iterable

from .order import FleetWorker, RollError


def candidates(
    workers: Iterable[FleetWorker], name: str = "", forks: int | None = None
) -> list[FleetWorker]:
    """Return the workers of which the busiest is observed first: those that can run beside the old release, if any can.

    Args:
        workers: All workers of the fleet, in the order of the inventory.
        name: Name of a worker in the inventory, or its node, to choose this one. If it does not restart, for example
            because a run that was killed has done that, it is as if there was no name.
        forks: Hosts that Ansible begins with; the others only begin when one of these has ended. None for all.

    Raises:
        RollError: There is no worker of this name, or its host begins later.
    """
    workers = list(workers)
    found = [worker for worker in workers if worker.kind == "restart"]
    hosts = list(dict.fromkeys(worker.host for worker in found))
    if found and name and not any(name in (worker.name, worker.node) for worker in workers):
        raise RollError(
            f"celery_canary_worker is {name}, and there is no worker of this name; name another one, or none"
        )
    named = [worker for worker in found if name in (worker.name, worker.node)] or found
    first = [worker for worker in named if worker.host in hosts[:forks]]
    if named and not first:
        raise RollError(
            f"celery_canary_worker is {name}, but Ansible begins with {forks} other hosts; name another worker, or "
            f"none, or run the same command with --forks={len(hosts)}"
        )
    return [worker for worker in first if worker.can_overlap] or first


def canary(workers: Iterable[FleetWorker], name: str = "", forks: int | None = None) -> str | None:
    """Return the node of the worker to observe first, the busiest of `candidates`; None if no worker restarts."""
    best = max(candidates(workers, name, forks), key=lambda worker: worker.busy, default=None)
    return best.node if best else None
