"""The report at the end of a run: a table of what serves, or errors with what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.release.suitability import (
    ADD,
    names_expected,
)

#: What systemd shows of a beat that does not send (`celery_fleet.beat.standby`).
STANDING_BY = "standing by"

# Number of entries of a schedule in the table; a database may have thousands.
_SHOWN = 100


@dataclass(frozen=True)
class HostFindings:
    """What was found on one host: the answer of `serving.py`, and journals of workers that did not answer."""

    serving: Mapping[str, Any]
    journals: Mapping[str, str] = field(default_factory=dict)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table with aligned columns; the first row is the heading."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def error(host: str, name: str, text: str, unit: str = "") -> str:
    """Return the paragraph for a service that does not work.

    Args:
        host: Name of the host.
        name: Name of the unit, or of what it serves.
        text: The error, then lines of the unit's journal.
        unit: Name of the unit, if `name` is another.
    """
    first, _, rest = text.partition("\n")
    lines = [f"{host}: {name}: {first}"]
    if rest:
        lines += ["  The last lines of its journal:", _indented(rest)]
    return "\n".join([*lines, f"  Next, on {host}: journalctl -u {unit or name} -n 100"])


def errors(
    app: str,
    seen: Mapping[str, HostFindings],
    probe: Mapping[str, Any],
    schedule: Mapping[str, Mapping[str, Any]] | None = None,
    policy: str = ADD,
) -> list[str]:
    """Return one paragraph for each service that does not work: host, unit, journal, next command.

    Args:
        app: Name of the application.
        seen: What was found, by host.
        probe: Answer of the probe.
        schedule: celery_beat_schedule; None to ignore beat's entries.
        policy: celery_beat_schedule_policy.
    """
    found = []
    for host, what in seen.items():
        for name, text in what.serving.get("errors", {}).items():
            found.append(error(host, name, text, name if "." in name else f"{app}-{name}.service"))
        if schedule is not None and not what.serving.get("errors"):
            missing = _not_held(app, what.serving, schedule, policy)[0]
            if missing:
                unit = f"{app}-beat.service"
                found.append(
                    f"{host}: beat: it has not loaded {', '.join(missing)}, so these are not sent\n"
                    f"  Next, on {host}: systemctl restart {unit}; journalctl -u {unit} -n 100"
                )
    for node in probe.get("bad", []):
        host, unit = node["host"], node["unit"]
        lines = [f"{host}: {unit}: {'; '.join(node['errors'])}"]
        journal = seen[host].journals.get(unit, "") if host in seen else ""
        if journal:
            lines += ["  The last lines of its journal:", _indented(journal)]
        lines.append(f"  Next, on {host}: journalctl -u {unit} -n 100")
        found.append("\n".join(lines))
    named = {node["node"] for node in probe.get("bad", [])}
    # The nodes' own errors are already listed above.
    rest = [text for text in probe.get("errors", []) if text.split(":")[0] not in named]
    return [*found, *(f"workers: {text}" for text in rest)]


def remarks(
    app: str,
    seen: Mapping[str, HostFindings],
    schedule: Mapping[str, Mapping[str, Any]],
    policy: str = ADD,
) -> list[str]:
    """Return remarks that are not errors; the arguments are those of `errors`.

    A release's note contains the schedule in its code at build time. In another environment the code may define another
    schedule, while the note stays the same.
    """
    found = []
    for host, what in seen.items():
        if what.serving.get("schedule", []) is None:
            found.append(f"{host}: beat holds too many entries to show or check them here")
        missing = _not_held(app, what.serving, schedule, policy)[1]
        if missing:
            found.append(
                f"{host}: beat does not hold {', '.join(missing)}, which the release's code had when it was built: "
                "either its environment or settings have changed since, or something took them out"
            )
    return found


def _not_held(
    app: str,
    serving: Mapping[str, Any],
    schedule: Mapping[str, Mapping[str, Any]],
    policy: str,
) -> tuple[list[str], list[str]]:
    """Return entries that beat has failed to load: from the inventory, and from its release's code at build time."""
    loaded = serving.get("schedule", [])
    if f"{app}-beat.service" not in serving.get("units", {}) or loaded is None:
        return [], []
    held = {entry["name"] for entry in loaded}
    ours, theirs = names_expected(serving.get("code", []), schedule, policy)
    return sorted(ours - held), sorted(theirs - held)


def _schedules(seen: Mapping[str, HostFindings]) -> list[Mapping[str, Any]]:
    """Return what is serving on hosts whose beat has a schedule. Of several beats, only the one that sends counts."""
    found = [what.serving for what in seen.values() if what.serving.get("schedule")]
    sending = [
        serving
        for serving in found
        if not any(
            state.get("StatusText", "").startswith(STANDING_BY)
            for state in serving.get("units", {}).values()
        )
    ]
    # While another beat takes over, all of them stand by.
    return sending or found[:1]


def _schedule(serving: Mapping[str, Any]) -> list[str]:
    """Return the table of entries that beat on one host has loaded."""
    zone = str(serving.get("zone") or "")
    local = [] if zone in ("", "UTC") else [f"NEXT DUE, {zone}"]
    entries: list[tuple[str, ...]] = [
        ("SCHEDULED", "IN", "TASK", "QUEUE", "WHEN", *local, "NEXT DUE, UTC")
    ]
    entries += [
        (
            entry["name"],
            entry.get("source") or "",
            entry["task"],
            entry["queue"] or "",
            entry["schedule"],
            *([entry.get("local") or ""] if local else []),
            entry["due"] or "",
        )
        for entry in serving["schedule"][:_SHOWN]
    ]
    more = len(serving["schedule"]) - _SHOWN
    rest = f"and {more} more: celery-fleet schedule, on the host of beat, lists all of them"
    return columns(entries) + ([rest] if more > 0 else [])


def _canary(node: Mapping[str, Any]) -> str:
    if node["state"] == "busy":
        return f"busy: all {node.get('slots')} slots run tasks"
    return (
        f"{node['seconds'] * 1000:.0f} ms"
        if node.get("seconds") is not None
        else str(node["state"])
    )


def table(seen: Mapping[str, HostFindings], probe: Mapping[str, Any], notes: Sequence[str]) -> str:
    """Return tables of hosts with services, workers with canaries, entries with next due times, and notes."""
    lines: list[str] = []
    services = [("HOST", "SERVICE", "STATE")]
    for host, what in seen.items():
        for unit, state in what.serving.get("units", {}).items():
            says = state.get("StatusText", "")
            services.append(
                (host, unit, state.get("ActiveState", "unknown") + (f": {says}" if says else ""))
            )
    lines += columns(services)
    if probe.get("nodes"):
        workers = [("WORKER", "QUEUES", "CANARY")]
        workers += [
            (name, ", ".join(node["queues"] or []), _canary(node))
            for name, node in sorted(probe["nodes"].items())
        ]
        lines += ["", *columns(workers)]
    for serving in _schedules(seen):
        lines += ["", *_schedule(serving)]
    if notes:
        lines += ["", *notes]
    return "\n".join(lines)
