"""Find the slots of a schedule, which are the moments at which it is due, and compare them with an entry's runs."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any

#: The largest number of slots that are listed or counted.
MOST = 1000

#: Seconds that a run may be late without having been missed.
GRACE = 60.0

#: Beat sends a little before the slot.
_EARLY = timedelta(seconds=0.5)

#: How far to look back for the slot of a run.
_BACK = timedelta(days=3660)


def times(schedule: Any, start: datetime, first: datetime | None = None) -> Iterator[datetime]:
    """Yield the due times of a schedule after ``start``, in UTC.

    Args:
        schedule: One of Celery's schedules, of any class. It gets another clock.
        start: The first moment, with a time zone.
        first: The first due time, if it is already known.
    """
    moment = start
    if first is not None and first > start:
        yield first.astimezone(UTC)
        moment = first.astimezone(start.tzinfo)
    while True:
        at = moment
        # This is Celery's own way to make a schedule believe that it is another time.
        schedule.nowfun = lambda at=at: at
        # Add in UTC: on a day with a clock change the zone's own hours don't add up.
        following = moment.astimezone(UTC) + schedule.remaining_estimate(moment)
        if following <= moment.astimezone(UTC):
            return
        yield following
        moment = following.astimezone(start.tzinfo)


def slots(schedule: Any, last: datetime, now: datetime, most: int = MOST) -> list[datetime]:
    """Return when a schedule was due after its last run and until now, in UTC: at most the latest ``most`` times."""
    if last >= now:
        return []
    span = timedelta(hours=1)
    # Go back in growing steps: an entry of each minute may have missed a year.
    while True:
        start = max(last, now.astimezone(last.tzinfo) - span)
        found = deque(
            takewhile(lambda moment: moment <= now, _from(schedule, last, start)), maxlen=most
        )
        if len(found) == most or start == last:
            return list(found)
        span *= 2


def _from(schedule: Any, last: datetime, start: datetime) -> Iterator[datetime]:
    """Yield the due times after ``start`` of a schedule that ran last at ``last``."""
    made = copy.copy(schedule)
    made.app = schedule.app
    if is_interval(schedule):
        # An interval counts from the last run.
        every = schedule.run_every
        start = last.astimezone(UTC) + (start - last) // every * every
    return times(made, start)


def is_interval(schedule: Any) -> bool:
    """Return whether a schedule counts from its last run."""
    from celery.schedules import schedule as interval

    return isinstance(schedule, interval) and not schedule.relative


def compared(
    schedule: Any,
    zone: Any,
    last: datetime | None,
    counted: bool,
    now: datetime,
    begin: datetime | None = None,
) -> dict[str, Any]:
    """Compare an entry's last run with its slots.

    Args:
        schedule: The entry's schedule.
        zone: The time zone to show.
        last: Its last run, or since when it exists if it has not run; None if that is not known.
        counted: Whether it has run.
        now: The present.
        begin: Its slots count only from then on; None if all do.

    Returns:
        `last`, a time or None. `drift`, the seconds between the slot and the run; None for an interval, which has no
        slot without the run before. `missed`, the number of slots since then that are over for more than a minute, at
        most `MOST`.
    """
    if last is None:
        return {"last": None, "drift": None, "missed": None}
    last = last.astimezone(zone)
    since = max(last + _EARLY, (begin or last).astimezone(zone))
    over = (now - slot for slot in slots(schedule, since, now))
    missed = sum(late.total_seconds() > GRACE for late in over)
    drift = None
    if counted and not is_interval(schedule):
        slot = slots(schedule, last - _BACK, last + _EARLY, 1)
        drift = _drift(last, slot[-1]) if slot else None
    return {"last": moment(last, zone) if counted else None, "drift": drift, "missed": missed}


def sent_for(schedule: Any, zone: Any, sent: Sequence[float]) -> list[dict[str, Any]]:
    """Return for which slots an entry was sent.

    Args:
        schedule: Its schedule, as it is now.
        zone: The time zone to show.
        sent: When it was sent, in Unix time, the oldest first.

    Returns:
        For each time `sent`, `slot` and `drift`, with None for what is not known. `missed` is the number of slots since
        the run before for which it was not sent.
    """
    runs = [datetime.fromtimestamp(one, UTC).astimezone(zone) for one in sent]
    groups: list[tuple[list[datetime], list[datetime]]] = []
    for number, run in enumerate(runs):
        if number == 0:
            known = not is_interval(schedule)
            due = slots(schedule, run - _BACK, run + _EARLY, 1) if known else []
        else:
            before = runs[number - 1] + (timedelta() if is_interval(schedule) else _EARLY)
            due = slots(schedule, before, run + _EARLY)
        if due or not groups:
            groups.append(([run], due))
        else:
            # What was missed may be sent one by one.
            groups[-1][0].append(run)
    found = []
    for together, due in groups:
        missed = max(0, len(due) - len(together))
        own: list[datetime | None] = [*due[missed:]]
        own += [None] * (len(together) - len(own))
        for run, slot in zip(together, own, strict=True):
            found.append(
                {
                    "sent": moment(run, zone),
                    "slot": None if slot is None else moment(slot, zone),
                    "drift": None if slot is None else _drift(run, slot),
                    "missed": missed,
                }
            )
            missed = 0
    return found


def history(
    schedule_of: Callable[[str], Any], zone: Any, sent: Mapping[str, Sequence[float]]
) -> dict[str, list[dict[str, Any]]]:
    """Return `sent_for` of each entry; of one for which ``schedule_of`` raises an error only when it was sent."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, times_sent in sent.items():
        try:
            found[name] = sent_for(schedule_of(name), zone, times_sent)
        except Exception:  # noqa: BLE001  # it is gone or can't be used, or its class is the application's own
            unknown = {"slot": None, "drift": None, "missed": None}
            found[name] = [
                {"sent": moment(datetime.fromtimestamp(one, UTC), zone), **unknown}
                for one in times_sent
            ]
    return found


def moment(time: datetime, zone: Any) -> dict[str, str]:
    """Return a time in a zone and in UTC, in ISO 8601."""
    return {
        "local": time.astimezone(zone).isoformat(timespec="seconds"),
        "utc": time.astimezone(UTC).isoformat(timespec="seconds"),
    }


def _drift(run: datetime, slot: datetime) -> float:
    return round(max(0.0, (run - slot).total_seconds()), 1)
