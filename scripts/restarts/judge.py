"""Judge what became of the tasks of one run: which were lost or ran twice, and why. Plain functions over a record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .record import HeldUp, LoadRecord, RecordMark, Send, TaskRun

SLACK = 1.0  # seconds by which marks and the processes' own times may differ
#: Seconds from the end of a task until Redis has its acknowledgement, on a machine that has much else to do.
UNDER_WAY = 2.0
#: Seconds after which something that was done to Redis, or to the way to it, still has effects.
LASTING = 15.0
UNEXPLAINED = "unexplained"
#: What ran again although that is excluded: no fault is an excuse, unless its sender may have sent two messages.
AT_MOST_ONCE = "begun again, of at_most_once"
#: What was sent twice, by a task that ran again: that one has a cause of its own, which a test allows or not.
SENT_BY_RERUN = "sent again by a task that ran again"
#: Of how many tasks, those of the numbers before its own, one sends a task of some kind.
SENDERS: Mapping[str, int] = {"relayed": 1, "chain": 1, "gather": 4}
STARTING = 5.0  # seconds before a worker consumes in which it has asked the others what is revoked, and hears no more


@dataclass(frozen=True)
class Fate:
    """A task that was lost, or an attempt that was begun again.

    Attributes:
        at: When it went wrong, as far as can be told: for the picture.
    """

    task: str
    at: float
    cause: str


def lost(record: LoadRecord) -> list[Fate]:
    """Tasks that were sent and never came to the end of their last attempt, where that is promised.

    To be asked once nothing waits or runs any more: until then every running task looks lost.
    """
    return _not_ended(record, lambda send: send.queue not in record.at_most_once)


def dropped(record: LoadRecord) -> list[Fate]:
    """The same of those that may be lost, since they are run at most once."""
    return _not_ended(record, lambda send: send.queue in record.at_most_once)


def _not_ended(record: LoadRecord, wanted: Callable[[Send], bool]) -> list[Fate]:
    found = []
    for send in record.sends:
        if send.refused or not wanted(send):
            continue
        attempts = record.by_attempt.get(send.task, {})
        # At least: an attempt whose process died may be retried as the next one.
        last = [run for n, runs in attempts.items() if n >= send.attempts - 1 for run in runs]
        if any(run.ended is not None for run in last) or send.task in record.left:
            continue
        found.append(_lost(record, send, attempts))
    return found


def _lost(record: LoadRecord, send: Send, attempts: Mapping[int, Sequence[TaskRun]]) -> Fate:
    if not attempts:
        ready = send.sent if send.ready is None else send.ready
        return Fate(
            send.task, ready, _because("never begun", _around(record, send.sent, _may_have_taken))
        )
    runs = attempts[max(attempts)]
    ended = [run for run in runs if run.ended is not None]
    if ended:
        at = ended[0].retry_at or ended[0].ended or ended[0].started
        why = _around(record, at, _may_have_taken)
        return Fate(send.task, at, _because("its retry never began", why))
    at, why = _cut(record, runs[-1], send.seconds)
    return Fate(send.task, at, f"cut off while it ran: {why}")


def doubled(record: LoadRecord) -> list[Fate]:
    """Each time that an attempt was begun again, also of tasks that the sender was told are refused.

    That is each start of an attempt after its first, and an attempt that the one before did not ask for: so Celery
    retries a task whose process died.
    """
    found = []
    for send in record.sends:
        before: Sequence[TaskRun] = ()
        for _, runs in sorted(record.by_attempt.get(send.task, {}).items()):
            asked = not before or any(run.retry_at is not None for run in before)
            starts = runs if asked else [before[-1], *runs]
            for first, second in pairwise(starts):
                cause = _doubled(record, send, first, second)
                found.append(Fate(send.task, second.started, cause))
            before = runs
    return found


def _senders(record: LoadRecord, send: Send, attempt: int) -> list[Sequence[TaskRun]]:
    """The runs of each attempt that may have sent an attempt: its own before, a chain's link, a chord's members."""
    if attempt:
        return [record.by_attempt[send.task].get(attempt - 1, ())]
    # The first link of a chain comes from whoever sends the load.
    number = 0 if send.ready is not None else SENDERS.get(send.kind, 0)
    before = [beside(send.task, -distance) for distance in range(1, number + 1)]
    return [runs for task in before for runs in record.by_attempt.get(task, {}).values()]


def revoked(record: LoadRecord) -> int:
    """Tasks that were revoked, were left by a worker for that, and never began."""
    return sum(
        send.kind == "revoked" and send.task in record.left and send.task not in record.by_attempt
        for send in record.sends
    )


def unheeded(record: LoadRecord) -> list[Fate]:
    """Tasks that began although they had been revoked.

    The task that revokes one is that of the next number. Workers keep in memory what is revoked, and one that starts is
    told by another what that one knows: what is revoked just in that moment can pass it by, in every Celery.
    """
    found = []
    ends = {run.task: run.ended for run in record.runs}
    for send in record.sends:
        if send.kind != "revoked":
            continue
        told = ends.get(beside(send.task, 1))
        for runs in record.by_attempt.get(send.task, {}).values():
            for run in runs:
                if told is not None and told + SLACK < run.started:
                    cause = "it began though it was revoked" + _starting(record, run.node, told)
                    found.append(Fate(send.task, run.started, cause))
    return found


def beside(task: str, distance: int) -> str:
    """Return the task whose number is so much greater."""
    name, _, number = task.rpartition(".")
    return f"{name}.{int(number) + distance:06d}"


def _starting(record: LoadRecord, node: str, at: float) -> str:
    """In words, that a worker was about to consume at a moment."""
    for event in record.workers:
        is_near = at - SLACK <= event.at <= at + STARTING
        if event.node == node and event.event == "ready" and is_near:
            return ", as its worker started"
    return ""


def _doubled(record: LoadRecord, send: Send, first: TaskRun, second: TaskRun) -> str:
    sender = record.waited_for.get((send.task, first.attempt))
    is_same = first.message == second.message
    if send.queue in record.at_most_once and (is_same or sender is None):
        return AT_MOST_ONCE
    if first.ended is None:
        return was_cut_off(_cut(record, first, send.seconds)[1])
    if first.attempt == second.attempt and not is_same:
        why = ""
        if sender is not None:
            why = _around(record, sender.at, lambda mark: _holds_up(mark, sender))
        if not why and any(len(runs) > 1 for runs in _senders(record, send, first.attempt)):
            return SENT_BY_RERUN
        if sender is not None:
            return was_sent_twice(why)
    # Who is cut off may run what it had taken after another has run it.
    late = _around(record, second.started, lambda mark: not mark.fatal and mark.concerns(second))
    if first.ended <= second.started:
        return had_ended(_around(record, first.ended, lambda mark: mark.concerns(first)) or late)
    return ran_at_once(_around(record, second.started, lambda mark: mark.concerns(first)) or late)


# The causes of what ran again, in words: for the tests, which name those that they allow. Without a reason it is one
# that nothing explains, and no test allows it.


def was_cut_off(reason: str) -> str:
    """Say that a task had not ended."""
    return f"run again after it was cut off: {reason}"


def had_ended(reason: str) -> str:
    """Say that a task had ended, and its acknowledgement had not arrived."""
    return _because("run again though it had ended", reason)


def ran_at_once(reason: str) -> str:
    """Say that a task was begun again while it ran."""
    return _because("run twice at once", reason)


def was_sent_twice(reason: str) -> str:
    """Say that a sender was not told that the broker has a task, and sent it again."""
    return _because("sent twice", reason)


def _because(what: str, reason: str) -> str:
    return f"{what}, as {reason}" if reason else what


def _cut(record: LoadRecord, run: TaskRun, seconds: float) -> tuple[float, str]:
    """When and why a run that has no end was cut off: by a mark, or else by its worker's stop."""
    until = run.started + seconds + SLACK
    for mark in record.marks:
        # What was cut off from its host, or ended with it, can only have begun before the mark.
        is_near = run.started <= mark.at + SLACK and mark.at <= until
        if mark.fatal and mark.concerns(run) and is_near:
            return mark.at, mark.what
    for event in record.workers:
        if (
            event.node == run.node
            and event.event == "leaving"
            and run.started - SLACK <= event.at <= until
        ):
            return event.at, "its worker was stopped"
    return run.started, UNEXPLAINED


def _around(record: LoadRecord, at: float, concerned: Callable[[RecordMark], bool]) -> str:
    """What was done at the time to whatever is concerned, in words; empty if nothing was."""
    for mark in record.marks:
        # Who is killed can't be the cause of anything later: another process has taken its place.
        after = SLACK if mark.fatal and mark.host else LASTING
        if concerned(mark) and mark.covers(at, UNDER_WAY, after):
            return mark.what
    return ""


def _holds_up(mark: RecordMark, sender: HeldUp) -> bool:
    """Check whether something was done to the broker, or to the way of a sender to it."""
    return not mark.fatal and mark.concerns_node(sender.node)


def _may_have_taken(mark: RecordMark) -> bool:
    """Check whether a message that no task began may have gone by it: with whoever had taken it, or with the broker."""
    return mark.fatal or not mark.host


def causes(fates: Iterable[Fate]) -> dict[str, int]:
    """How many by cause, most first."""
    return dict(Counter(fate.cause for fate in fates).most_common())
