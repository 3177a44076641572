"""The plan of a removal: what it would remove from which host, and whether it may begin.

Pure functions of the hosts' answers; `removal_report` calls them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.manifest import KEEP
from ansible_collections.celery_fleet.core.plugins.module_utils.text import count, shortened

from ..preflight.checks.names import APPLICATION
from ..preflight.hosts.reachability import left_out_remedy
from ..preflight.model.report import several

# A host's answers to `host_facts`, and to `remove_application: {do: look}`.
Facts = Mapping[str, Any]
Found = Mapping[str, Any]

# Longer lists are shortened in the text but not in the JSON.
_MOST = 12


def marked(app: str, facts: Facts) -> Mapping[str, Any] | None:
    """Return the application's own mark on a host, even if it can't be read; None if there is none."""
    for mark in facts.get("marks") or []:
        path = str(mark.get("path", ""))
        if mark.get("app") == app or os.path.basename(os.path.dirname(path)) == app:
            return dict(mark)
    return None


def refusals(
    app: str,
    owner: str,
    facts: Mapping[str, Facts],
    *,
    redis: Iterable[str],
    fleet: Iterable[str],
    keep: Any,
    without: bool,
) -> list[str]:
    """Return all reasons why a removal may not begin, each with what to do.

    Args:
        app: Name of the application.
        owner: Owner that the inventory names.
        facts: Facts by host, for all hosts of this run.
        redis: Hosts of the group redis.
        fleet: All hosts of the inventory, including those that `--limit` leaves out.
        keep: `fleet_remove_keep`.
        without: `fleet_remove_ignore_unreachable`: whether to go on without hosts that can't be reached.
    """
    if not isinstance(app, str) or not APPLICATION.fullmatch(app):
        name = f"celery_app_name: {app!r} is not a valid name of an application"
        return [f"{name}. Name the inventory that the application was deployed from"]
    words = _of_keep(keep)
    for host, known in facts.items():
        if not known.get("reachable"):
            if not without:
                remedy = left_out_remedy(known)
                words.append(
                    f"{host} can't be reached ({known.get('reason') or 'no reason was given'}). "
                    f"{remedy[0].upper()}{remedy[1:]}. Or take the application off the others now with "
                    "-e fleet_remove_ignore_unreachable=true, and off this one by the same command later"
                )
            continue
        if known.get("uid") != 0:
            words.append(f"{host}: privilege escalation does not make us root; see ansible_become")
        mark = marked(app, known)
        if mark is None:
            continue
        path = mark.get("path")
        if mark.get("error"):
            words.append(
                f"{host}: {path} can't be read ({mark['error']}), so the owner of this application is not known. "
                "Run site.yml, which writes it again, and then this again"
            )
        elif mark.get("owner") != owner:
            words.append(
                f"{host}: {app} is another inventory's there: {path} names {mark.get('owner')} as its owner, and this "
                f"inventory is {owner}. Run this with that inventory; or, if it is gone, with "
                f"-e celery_app_inventory_name={mark.get('owner')}"
            )
    left_out = [host for host in fleet if host not in facts]
    served = sorted(set(redis) & set(facts))
    if served and left_out and not set(redis) - set(served):
        words.append(
            f"--limit takes Redis off {', '.join(served)} and leaves {', '.join(left_out)}, which need it, as they "
            "are. Run without --limit; or leave Redis's host out of it"
        )
    return words


def _of_keep(keep: Any) -> list[str]:
    if isinstance(keep, str) or not isinstance(keep, Sequence):
        given = '{"fleet_remove_keep": ["redis_data"]}'
        words = f"fleet_remove_keep: must be a list, not {type(keep).__name__}"
        return [f"{words}. On the command line: -e '{given}'"]
    unknown = [str(name) for name in keep if name not in KEEP]
    if unknown:
        return [f"fleet_remove_keep: {', '.join(unknown)}: what can be kept is {', '.join(KEEP)}"]
    return []


def busy(found: Mapping[str, Found]) -> list[str]:
    """Return errors about running commands: ending them suddenly could leave anything behind."""
    return [
        f"{host}: {unit} runs: wait for its end, or stop it there (systemctl stop {unit})"
        for host, one in found.items()
        for unit in one.get("busy", [])
    ]


def uncopied(found: Mapping[str, Mapping[str, Any]], staying: Sequence[str]) -> list[str]:
    """Return errors about hosts with a primary that no other host could continue.

    Args:
        found: Content of the broker, by host.
        staying: Hosts of the group redis that are not in this run.
    """
    return [
        f"{host} has the primary of {' and '.join(messages['primaries'])}, and no other server has a copy, although "
        f"{', '.join(staying)} would stay: see `celery-fleet redis -- info replication` there"
        for host, messages in found.items()
        if staying and messages.get("primaries") and not messages.get("copied")
    ]


def unsettled(
    found: Mapping[str, Mapping[str, Any]], keep: Sequence[str], *, elsewhere: bool = False
) -> str:
    """Return which messages would be lost with the data of Redis although that was not allowed; empty if none would.

    Args:
        found: Content of the broker, by host.
        keep: `fleet_remove_keep`.
        elsewhere: Whether other Redis hosts stay, so that what they have as well is not lost.
    """
    if "redis_data" in keep:
        return ""
    words = []
    for host, messages in found.items():
        state = messages.get("state")
        # A replica's messages count as its primary's.
        if messages.get("copied") and (elsewhere or "broker" not in messages["primaries"]):
            continue
        if state == "unknown":
            words.append(
                f"how many messages Redis on {host} holds is not known: {messages['reason']}"
            )
        elif state == "counted" and number_of(messages):
            words.append(f"Redis on {host} holds {_counted(messages)}")
    return "; ".join(words)


def number_of(messages: Mapping[str, Any]) -> int:
    """Return the number of all messages in a broker."""
    return sum(int(messages.get(kind, 0)) for kind in ("waiting", "held", "dead"))


def _counted(messages: Mapping[str, Any]) -> str:
    parts = []
    if messages.get("waiting"):
        queues = ", ".join(f"{name} {number}" for name, number in messages["queues"].items())
        parts.append(
            f"{count(messages['waiting'], 'message')} that wait ({shortened(queues, 120)})"
        )
    if messages.get("held"):
        parts.append(f"{messages['held']} that workers hold")
    if messages.get("dead"):
        parts.append(count(messages["dead"], "dead letter"))
    return ", ".join(parts) or "no messages"


def remedy(words: str) -> str:
    """Return what to do about messages that would be lost."""
    return (
        f"{words}. With its data they are lost. Let the queues run empty first (stop what sends); or keep the data: "
        '-e \'{"fleet_remove_keep": ["redis_data"]}\'; or give them up: -e fleet_remove_discard_messages=true.'
    )


def changes(found: Mapping[str, Found]) -> bool:
    """Return whether there is anything to remove."""
    return any(one.get("present") for one in found.values())


def text(app: str, found: Mapping[str, Found], missing: Mapping[str, str]) -> str:
    """Return a text of what would be removed from each host and what would stay.

    Args:
        app: Name of the application.
        found: What is on each host, by host.
        missing: Hosts that can't be reached, each with the reason.
    """
    there = {host: one for host, one in found.items() if one.get("present")}
    lines = []
    if not there:
        lines.append(f"Removal: {app} is on none of {count(len(found), 'host')}.")
    else:
        last = [host for host, one in there.items() if not one["neighbours"]]
        whole = f"; all that is shared goes from {', '.join(last)}" if last else ""
        lines.append(f"Removal: {app} goes from {count(len(there), 'host')}{whole}.")
        lines += _of_state(there)
    for host, one in there.items():
        lines.append("")
        rows = _rows(one)
        width = max(len(head) for head, _ in rows)
        name = host
        for head, words in rows:
            lines.append(f"  {name.ljust(len(host))}  {head.ljust(width)}  {words}".rstrip())
            name = ""
    bare = [host for host in found if host not in there]
    if there and bare:
        lines += ["", f"  {', '.join(bare)}: {app} is not there."]
    if missing:
        lines.append("")
        lines += [f"  {host} is left out: {reason}" for host, reason in missing.items()]
    if there:
        lines += [
            "",
            "  Left as they are: the application's own database, the inventory with its secrets and certificates,",
            "  the journal, and everything listed above as kept.",
        ]
    return "\n".join(lines)


def _of_state(there: Mapping[str, Found]) -> list[str]:
    """Return a warning about directories with what the application wrote, which have no copy elsewhere."""
    places = [f"{path} on {host}" for host, one in there.items() for path in one["state"]]
    if not places:
        return []
    return [
        "",
        f"  DELETED for good, with all that the application wrote there: {several(places, _MOST)}.",
        '  Copy what you need first, or keep it: -e \'{"fleet_remove_keep": ["state"]}\'',
    ]


def _rows(one: Found) -> list[tuple[str, str]]:
    rows = [("stop", several(_short(one["units"]), _MOST))] if one["units"] else []
    messages = one.get("messages") or {}
    if messages.get("state") == "counted":
        rows.append(("messages", _counted(messages)))
    elif messages.get("state") == "unknown":
        rows.append(("messages", f"not known: {messages['reason']}"))
    folders: dict[str, int] = {}
    for path in one["files"]:
        folder = os.path.dirname(path)
        folders[folder] = folders.get(folder, 0) + 1
    if folders:
        words = [f"{folder} ({number})" for folder, number in folders.items()]
        rows.append(("delete files", f"{len(one['files'])}: {several(words, _MOST)}"))
    rows += [("delete", f"{path} ({size_of(size)})") for path, size in one["trees"].items()]
    if one["users"]:
        rows.append(("delete", ", ".join(one["users"])))
    rows += [("delete", f"nftables table {table}") for table in one["tables"]]
    rows += [("keep", f"{path} ({size_of(size)})") for path, size in one["kept"].items()]
    stay = list(one["stay"].items())
    rows += [("stays", f"{what}: {why}") for what, why in stay[:_MOST]]
    if len(stay) > _MOST:
        rows.append(("stays", f"{len(stay) - _MOST} more"))
    if one["purge"]:
        rows.append(("packages", f"stay; unless something else needs them: {one['purge']}"))
    if one["neighbours"]:
        rows.append(("untouched", ", ".join(one["neighbours"])))
    # An interrupted run has removed everything else.
    return rows or [("delete", "the owner's mark")]


def _short(names: Iterable[str]) -> list[str]:
    return [name.removesuffix(".service") for name in names]


def size_of(number: float) -> str:
    """Return a number of bytes as text."""
    for unit in ("bytes", "KB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def ended(
    app: str,
    found: Mapping[str, Found],
    removed: Mapping[str, Sequence[str]],
    missing: Mapping[str, str],
    left_out: Sequence[str],
) -> str:
    """Return a text of what was removed.

    Args:
        app: Name of the application.
        found: What was on each host, by host.
        removed: What was removed, by host.
        missing: Hosts that could not be reached, each with the reason.
        left_out: Hosts of the fleet that `--limit` left out.
    """
    gone = [host for host, one in found.items() if one.get("present")]
    lines = [f"{app} is gone from {', '.join(gone)}."] if gone else []
    lines += [f"  {host}: {count(len(removed.get(host, ())), 'item')} removed" for host in gone]
    for host in gone:
        one = found[host]
        kept = [*one["kept"], *one["stay"]]
        lines += [f"  {host}: {path} is still there" for path in kept[:_MOST]]
        if len(kept) > _MOST:
            lines.append(f"  {host}: {len(kept) - _MOST} more are still there")
    lines += [
        f"{host}: to purge the Debian packages that its runs have installed, unless something else needs them:\n"
        f"    {found[host]['purge']}"
        for host in gone
        if found[host]["purge"]
    ]
    if missing:
        lines.append(
            f"Not from {', '.join(missing)}, which can't be reached: run the same command again once that is back."
        )
    if left_out and gone:
        lines.append(
            f"{', '.join(gone)}: take {'it' if len(gone) == 1 else 'them'} out of the inventory as well, or the next "
            "site.yml deploys there again."
        )
    return "\n".join(lines)
