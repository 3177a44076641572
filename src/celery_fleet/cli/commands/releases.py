"""``celery-fleet releases``: what was deployed, refused and rolled back, and what can be gone back to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from celery_fleet.cli import output
from celery_fleet.cli import releases as recorded
from celery_fleet.cli.options import Context, command


@command(
    timeout=False,
    examples=(
        "celery-fleet releases",
        "celery-fleet releases --json | jq -r .current",
    ),
)
def releases(context: Context) -> None:
    """Show which releases were deployed, refused or rolled back, the newest first.

    `kept` are those that this host keeps, which only root can see. To go back to one:
    ansible-playbook celery_fleet.core.rollback_app -e release=…
    """
    application = context.application
    record = recorded.record(application.name)
    kept = recorded.kept(application.root)
    if context.json:
        output.as_json({**record, "kept": kept})
        return
    history = list(reversed(record.get("history") or []))
    if not history:
        output.say("No deploy is recorded yet.")
    else:
        output.table(
            f"Releases of {application.name}",
            ("release", "result", "ago", "by", "kept", "what"),
            [
                (
                    entry["release"],
                    (entry["result"], entry["result"] != "refused"),
                    output.ago(datetime.fromtimestamp(float(entry["at"]), UTC)),
                    entry["by"],
                    "" if kept is None else "yes" if entry["release"] in kept else "no",
                    _words(entry),
                )
                for entry in history
            ],
        )
    if record.get("current"):
        output.say(f"Release {record['current']} serves.")
    recorded.say_hold(record.get("hold"))


def _words(entry: Mapping[str, Any]) -> str:
    """Return what was deployed and why, and what the canary showed."""
    # Why a canary was refused has its figures.
    canary = entry.get("canary") or {} if entry["result"] != "refused" else {}
    seen = (
        [f"canary {canary['node']}: {'; '.join(canary['figures'])}"]
        if canary.get("figures")
        else []
    )
    return "; ".join([word for word in (entry["what"], entry["why"]) if word] + seen)
