"""The plan of a run: what it would do and why, as items and as text.

Pure functions of the hosts' answers; `host_plan` asks the hosts, `plan_report` prints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.module_utils.text import count, shortened

from ..preflight.model.report import several
from ..restart.order import FleetWorker
from .parts import PARTS

# Longer reasons are shortened in the text but not in the JSON.
_WHY_LENGTH = 160


@dataclass(frozen=True)
class PlanItem:
    """One thing that a run would do on one host.

    Attributes:
        subject: The unit, or another subject.
        why: Reasons, each a few words, without secrets.
    """

    host: str
    part: str
    subject: str
    action: str
    why: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Its form in JSON."""
        return {
            "host": self.host,
            "part": self.part,
            "subject": self.subject,
            "action": self.action,
            "why": list(self.why),
        }


def items_of(host: str, pending: Iterable[Mapping[str, Any]]) -> list[PlanItem]:
    """Return the items that the module `reconcile` has planned for a host."""
    return [
        PlanItem(
            host,
            str(found.get("part", "")),
            str(found.get("unit") or ""),
            str(found["action"]),
            tuple(str(reason) for reason in found.get("why", ())),
        )
        for found in pending
    ]


def with_forced(
    items: Sequence[PlanItem], workers: Iterable[FleetWorker], hosts: Sequence[str]
) -> list[PlanItem]:
    """Add the workers that restart although nothing differs, for `celery_restart_all`.

    Args:
        items: Items of the plan.
        workers: All workers of the fleet.
        hosts: Hosts in order.
    """
    known = {(item.host, item.subject) for item in items}
    forced = [
        PlanItem(worker.host, "celery_worker", worker.unit, "restart", ("celery_restart_all",))
        for worker in workers
        if worker.need == "restart" and (worker.host, worker.unit) not in known
    ]
    return in_order([*items, *forced], hosts) if forced else list(items)


# Reasons for a worker's restart after which it keeps its tasks, or no longer does, when it connects again.
_DELIVERY = ("delivery ", "fetch ", "keep_tasks_on_reconnect ")
# What operators have paused, in the status of a worker; a run that moves Redis pauses all workers "by the fleet".
_PAUSED = re.compile(r"(?:^|; )(paused (?!by the fleet ).*)")
# A worker that an operator has scaled, in its status, and what the inventory said then; see
# `celery_fleet.common.pool_sizes`. The reason may be any text.
_SCALED = re.compile(r"(?:^|; )(scaled to .*?) \(inventory: ([0-9]+(?: to [0-9]+)?)\)(?:; |$)")
# Actions as shown in the text.
_WORDS = {"live": "set live"}
# In these parts, files and links that no unit reads are bookkeeping. The text has one line for all of them.
_BOOKKEEPING = frozenset(("celery_cli", "celery_health", "celery_runtime", "fleet", "verify"))
# Number of such files that the line names.
_NAMES = 5


@dataclass
class Plan:
    """The plan of one run.

    Attributes:
        items: Items in the order of hosts and parts.
        hosts: All hosts that answered.
        missing: Hosts that could not be asked, each with the reason.
        notes: Other important facts, such as the order of restarts.
    """

    items: list[PlanItem]
    hosts: list[str]
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-compatible data, format 1."""
        return {
            "format": 1,
            "changes": bool(self.items),
            "hosts": self.hosts,
            "missing": self.missing,
            "items": [item.as_dict() for item in self.items],
            "notes": self.notes,
        }

    def text(self) -> str:
        """Return a table with a line for each item and one for all bookkeeping, then the notes."""
        lines = [self._title()]
        rows = [
            (item.host, subject(item), _WORDS.get(item.action, item.action), _reasons(item))
            for item in self.items
            if not _is_bookkeeping(item)
        ]
        rows += _bookkeeping([item for item in self.items if _is_bookkeeping(item)])
        if rows:
            widths = [max(len(row[column]) for row in rows) for column in range(3)]
            lines.append("")
            for *cells, why in rows:
                padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
                lines.append(f"  {'  '.join(padded)}  {why}".rstrip())
        if self.missing:
            lines.append("")
            lines += [
                f"  {host} is left out, and what it serves counts as missing: {reason}"
                for host, reason in self.missing.items()
            ]
        if self.notes:
            lines.append("")
            lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)

    def _title(self) -> str:
        if not self.items:
            return f"Plan: nothing to do, {count(len(self.hosts), 'host')} as the inventory says."
        changed = len({item.host for item in self.items})
        same = len(self.hosts) - changed
        rest = f", {same} as the inventory says" if same else ""
        return f"Plan: {count(changed, 'host')} to change{rest}."


class UnwrittenError(UserError):
    """The plan can't be written to `fleet_plan_json`. The message says what to do."""


def save(path: str, document: Mapping[str, Any]) -> None:
    """Write the plan of a run or of a removal as JSON.

    Raises:
        UnwrittenError: The file can't be written.
    """
    try:
        Path(path).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UnwrittenError(
            f"fleet_plan_json: {error.filename} can't be written: {error.strerror}. Name a file in a directory "
            "that is there and yours, and run the same command again."
        ) from None


class ApprovedError(ValueError):
    """The file is not an approved plan. The message says why."""


def beyond(approved: Any, fresh: Mapping[str, Any]) -> list[str]:
    """Return the differences between an approved plan and the current one, one per line.

    A current plan without changes never differs, because it would do nothing that was not approved.

    Args:
        approved: The approved plan, as it was read from its JSON.
        fresh: The current plan, as `Plan.as_dict` returns it.

    Raises:
        ApprovedError: The approved plan does not have this format.
    """
    if not isinstance(approved, dict) or approved.get("format") != fresh["format"]:
        raise ApprovedError(f"it is not a plan of format {fresh['format']}")
    if not fresh["items"]:
        return []
    try:
        before, now = _lines(approved), _lines(fresh)
    except (AttributeError, KeyError, TypeError) as error:
        raise ApprovedError(f"it is not a plan of format {fresh['format']}") from error
    return [
        *(f"not approved: {line}" for line in now if line not in before),
        *(f"approved, but no longer to be done: {line}" for line in before if line not in now),
    ]


def _lines(whole: Mapping[str, Any]) -> list[str]:
    items = [
        f"{item['host']}  {item['subject'].removesuffix('.service') or item['part']}  {item['action']}  "
        f"{'; '.join(item['why'])}".rstrip()
        for item in whole["items"]
    ]
    return [*items, *(f"{host} is left out" for host in whole["missing"])]


def subject(item: PlanItem) -> str:
    """Return how the text names what an item is about."""
    return item.subject.removesuffix(".service") or item.part


def _is_bookkeeping(item: PlanItem) -> bool:
    return item.part in _BOOKKEEPING and not item.subject and item.action in ("write", "link")


def _bookkeeping(items: Sequence[PlanItem]) -> list[tuple[str, str, str, str]]:
    """Return one line for all bookkeeping, if there is any, with the hosts and the names of files and links."""
    if not items:
        return []
    hosts = list(dict.fromkeys(item.host for item in items))
    where = hosts[0] if len(hosts) == 1 else count(len(hosts), "host")
    # The reason for a link also contains its old and new target.
    paths = (why.partition(": ")[0] for item in items for why in item.why)
    names = list(dict.fromkeys(PurePosixPath(path).name for path in paths))
    return [(where, "bookkeeping", "write", several(names, _NAMES))]


def _reasons(item: PlanItem) -> str:
    # The first deploy to a host writes dozens of files, so their number is enough.
    if item.action in ("write", "remove") and not item.subject and len(item.why) > 3:
        return f"{item.why[0]} and {len(item.why) - 1} more"
    return shortened("; ".join(item.why), _WHY_LENGTH)


def in_order(items: Iterable[PlanItem], hosts: Sequence[str]) -> list[PlanItem]:
    """Return items in the order of hosts and parts; within one part the order stays."""
    parts = [part.name for part in PARTS]

    def place(item: PlanItem) -> tuple[int, int]:
        return hosts.index(item.host), parts.index(item.part) if item.part in parts else len(parts)

    return sorted(items, key=place)


def pause_notes(states: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return what operators have paused, from the status that workers show in systemd.

    Args:
        states: State of each unit, by host and unit.
    """
    return [
        f"{host}: {unit.removesuffix('.service')} has {found[1]}; the run leaves it so, "
        "`celery-fleet resume` with --queue, --worker, --host or --all ends it"
        for host, units in states.items()
        for unit, state in units.items()
        if (found := _PAUSED.search(str(state.get("status") or "")))
    ]


def scale_notes(
    states: Mapping[str, Mapping[str, Mapping[str, Any]]], nodes: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return which workers operators have scaled, from the status that workers show in systemd.

    Args:
        states: State of each unit, by host and unit.
        nodes: The workers of the inventory, from `desired.workers.nodes`.
    """
    wanted = {(str(node["host"]), str(node["unit"])): node for node in nodes.values()}
    notes = []
    for host, units in states.items():
        for unit, state in units.items():
            found = _SCALED.search(str(state.get("status") or ""))
            node = wanted.get((host, unit))
            if found is None or node is None:
                continue
            now = node.get("processes") or found[2]
            end = (
                f"the run leaves it so, `celery-fleet scale {node['worker']} --reset` ends it"
                if now == found[2]
                else f"the run ends it, because the inventory said {found[2]} then"
            )
            name = unit.removesuffix(".service")
            notes.append(f"{host}: {name} is {found[1]}; the inventory says {now}; {end}")
    return notes


def redis_restarts(items: Sequence[PlanItem]) -> list[PlanItem]:
    """Return the restarts of Redis instances that workers use."""
    return [
        item
        for item in items
        if item.part == "redis"
        and item.action == "restart"
        and not item.subject.endswith(("-cache.service", "-sentinel.service"))
    ]


def redis_pauses(items: Sequence[PlanItem], *, moves: bool) -> bool:
    """Return whether the workers pause while instances of Redis restart.

    A primary can't move from a host whose Sentinel does not run yet. Workers whose delivery this run changes still have
    the one from before.

    Args:
        items: Items of the whole plan.
        moves: Whether primaries move before they restart, and the workers can follow them.
    """
    restarts = redis_restarts(items)
    changes = any(
        why.startswith(_DELIVERY)
        for item in items
        if item.part == "celery_worker"
        for why in item.why
    )
    alone = {
        item.host
        for item in items
        if item.action == "start" and item.subject.endswith("-sentinel.service")
    }
    return any(changes or not moves or item.host in alone for item in restarts)


def drain_notes(items: Sequence[PlanItem]) -> list[str]:
    """Return notes on workers that will be stopped with a shorter drain than they have now."""
    found: dict[str, None] = {}
    for item in items:
        name = item.subject.partition("@")[2].removesuffix(".service")
        for why in item.why:
            change = re.fullmatch(r"drain_timeout (\d+) → (\d+)", why)
            if change and int(change[2]) < int(change[1]):
                note = (
                    f"worker {name}: tasks that run when it restarts get {change[2]} s to end, no longer "
                    f"{change[1]} s. If some need more, set its drain_timeout to {change[1]} in this run, and remove "
                    "that in a later one."
                )
                found[note] = None
    return list(found)


def redis_notes(items: Sequence[PlanItem], drain: float, *, moves: bool) -> list[str]:
    """Return notes on what restarts of Redis instances mean for their users.

    Args:
        items: Items of the whole plan.
        drain: Seconds that the longest drain of any worker may take.
        moves: As for `redis_pauses`.
    """
    restarts = redis_restarts(items)
    if restarts and not redis_pauses(items, moves=moves):
        return [
            "Redis restarts on one host after another, and a primary moves away first: the workers go on."
        ]
    return [
        f"{item.subject.removesuffix('.service')} on {item.host} restarts: all workers pause before and resume after; "
        f"running tasks are waited for, up to {drain:.0f} s."
        for item in restarts
    ]
