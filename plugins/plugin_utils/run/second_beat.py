"""Refuse a run after which two beats could send: a beat that takes no part in the election, and another one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .parts import parts_in
from .plan import PlanItem


def refusal(
    items: Iterable[PlanItem],
    left_out: Sequence[str],
    run: Iterable[str],
    skip: Iterable[str],
    missing: Iterable[str] = (),
) -> str:
    """Return why this run must not move beat to a new host, or leave one of several; empty if it may.

    Another beat may keep running, and then both send.

    Args:
        items: Items of the plan.
        left_out: Hosts of the fleet that `--limit` leaves out.
        run: Tags of the run.
        skip: Tags that it skips.
        missing: Hosts that could not be reached.
    """
    own = [item for item in items if item.part == "celery_beat"]
    new = [item for item in own if item.action == "start" and item.why == ("new",)]
    # It would no longer ask whether another one sends.
    alone = [item for item in own if any(map(_is_last_standby, item.why))]
    beats = new or alone
    ends = any(part.name == "celery_runtime_surplus" for part in parts_in(run, skip))
    down = list(missing)
    if not beats or (ends and not left_out and not down):
        return ""
    hosts = ", ".join(item.host for item in beats)
    where = (
        f"{hosts} would get its beat"
        if new
        else f"the beat of {hosts} would send without asking others"
    )
    other = "the old one" if new else "another one, if there was any,"
    if not ends:
        return (
            f"{where}, but --skip-tags leaves out the step that stops {other}: with two beats, each entry of the "
            "schedule is sent twice. Nothing was changed. Run the same command without --skip-tags."
        )
    if not left_out:
        unit = beats[0].subject.removesuffix(".service")
        return (
            f"{where}, but {other} may still run on {', '.join(down)}, which can't be reached: with two beats, "
            "each entry of the schedule is sent twice. Nothing was changed. Run the same command again once that host "
            "is back; or remove it from hosts.yml. If it comes back with a beat, stop the beat there: "
            f"systemctl disable --now {unit}."
        )
    return (
        f"{where}, but {other} may still run on {', '.join(left_out)}, which --limit leaves out: with two beats, "
        "each entry of the schedule is sent twice. Nothing was changed. Run the same command without --limit, or add "
        "these hosts to it."
    )


def _is_last_standby(why: str) -> bool:
    """Return whether a beat restarts because it is no longer one of several."""
    return "beat_standby" in why and why.endswith("removed")
