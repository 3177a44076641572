"""What a run says at its end: a table of what serves, or of what does not and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Seen:
    """What was found on one host: the answer of `serving.py`, and the journals of workers that did not answer."""

    serving: Mapping[str, Any]
    journals: Mapping[str, str] = field(default_factory=dict)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table with aligned columns; its first row is the heading."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def errors(app: str, seen: Mapping[str, Seen], probe: Mapping[str, Any]) -> list[str]:
    """One paragraph for each thing that does not serve: host, unit, journal, next command."""
    found = []
    for host, what in seen.items():
        for name, text in what.serving.get("errors", {}).items():
            unit = name if "." in name else f"{app}-{name}.service"
            first, _, rest = text.partition("\n")
            lines = [f"{host}: {name}: {first}"]
            if rest:
                lines += ["  The last lines of its journal:", _indented(rest)]
            lines.append(f"  Next, on {host}: journalctl -u {unit} -n 100")
            found.append("\n".join(lines))
    for node in probe.get("bad", []):
        host, unit = node["host"], node["unit"]
        lines = [f"{host}: {unit}: {'; '.join(node['errors'])}"]
        journal = seen[host].journals.get(unit, "") if host in seen else ""
        if journal:
            lines += ["  The last lines of its journal:", _indented(journal)]
        lines.append(f"  Next, on {host}: journalctl -u {unit} -n 100")
        found.append("\n".join(lines))
    named = {node["node"] for node in probe.get("bad", [])}
    # The nodes' own errors stand above already.
    rest = [text for text in probe.get("errors", []) if text.split(":")[0] not in named]
    return [*found, *(f"workers: {text}" for text in rest)]


def _canary(node: Mapping[str, Any]) -> str:
    if node["state"] == "busy":
        return f"busy: all {node.get('slots')} slots run tasks"
    return (
        f"{node['seconds'] * 1000:.0f} ms"
        if node.get("seconds") is not None
        else str(node["state"])
    )


def table(seen: Mapping[str, Seen], probe: Mapping[str, Any], notes: Sequence[str]) -> str:
    """Hosts with their services, workers with their canaries, entries with their next due times, and notes."""
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
    schedule = [entry for what in seen.values() for entry in what.serving.get("schedule", [])]
    if schedule:
        entries = [("SCHEDULED", "TASK", "QUEUE", "WHEN", "NEXT DUE")]
        entries += [
            (
                entry["name"],
                entry["task"],
                entry["queue"] or "",
                entry["schedule"],
                entry["due"] or "",
            )
            for entry in schedule
        ]
        lines += ["", *columns(entries)]
    if notes:
        lines += ["", *notes]
    return "\n".join(lines)
