"""Judge one run: find the tasks that were lost or ran twice, and the causes. These are pure functions of a record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .record import HeldUp, LoadRecord, RecordMark, Send, TaskRun

SLACK = 1.0  # seconds by which the times of marks and those of the processes may differ
#: Seconds that an acknowledgement may take to reach Redis after its task has ended, on a busy machine.
UNDER_WAY = 2.0
#: Seconds for which a fault of Redis, or of the network to it, may still have effects after it is over.
LASTING = 15.0
UNEXPLAINED = "unexplained"
#: The cause for a task that must not run twice but did. No fault excuses it, unless its sender may have sent it twice.
AT_MOST_ONCE = "started again despite at_most_once"
#: The cause for a task that was sent twice because its sender ran twice. Tests allow or refuse the sender's own cause.
SENT_BY_RERUN = "sent again by a task that ran again"
#: For each kind of task, how many of the tasks with the preceding numbers may have sent it.
SENDERS: Mapping[str, int] = {"relayed": 1, "chain": 1, "gather": 4}
#: Seconds before a worker consumes in which it may miss a revoke: it has already asked the others for their lists.
STARTING = 5.0


@dataclass(frozen=True)
class Fate:
    """A task that was lost, or an attempt that was started again.

    Attributes:
        at: When it went wrong, as far as is known, for the picture.
    """

    task: str
    at: float
    cause: str


def lost(record: LoadRecord) -> list[Fate]:
    """Return the tasks that were sent and never completed their last attempt, except those that may be lost.

    Call it only when no task is waiting or running any more. Until then, every running task looks lost.
    """
    return _not_ended(record, lambda send: send.queue not in record.at_most_once)


def dropped(record: LoadRecord) -> list[Fate]:
    """Return the lost tasks that run at most once, and therefore may be lost."""
    return _not_ended(record, lambda send: send.queue in record.at_most_once)


def _not_ended(record: LoadRecord, wanted: Callable[[Send], bool]) -> list[Fate]:
    found = []
    for send in record.sends:
        if send.refused or not wanted(send):
            continue
        attempts = record.by_attempt.get(send.task, {})
        # Later attempts count as well: if a process dies, its task may be retried in an additional attempt.
        last = [run for n, runs in attempts.items() if n >= send.attempts - 1 for run in runs]
        if any(run.ended is not None for run in last) or send.task in record.left:
            continue
        found.append(_lost(record, send, attempts))
    return found


def _lost(record: LoadRecord, send: Send, attempts: Mapping[int, Sequence[TaskRun]]) -> Fate:
    if not attempts:
        ready = send.sent if send.ready is None else send.ready
        return Fate(
            send.task, ready, _because("never begun", _around(record, send.sent, _may_have_fetched))
        )
    runs = attempts[max(attempts)]
    ended = [run for run in runs if run.ended is not None]
    if ended:
        at = ended[0].retry_at or ended[0].ended or ended[0].started
        why = _around(record, at, _may_have_fetched)
        return Fate(send.task, at, _because("its retry never began", why))
    at, why = _cut(record, runs[-1], send.seconds)
    return Fate(send.task, at, f"cut off while it ran: {why}")


def doubled(record: LoadRecord) -> list[Fate]:
    """Return each repeated start of an attempt, including those of tasks that the broker refused to the sender.

    An attempt that the previous attempt did not ask for also counts, because Celery sends one when a process dies.
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
    """Return the runs of each attempt that may have sent this attempt.

    The sender is the task's previous attempt, the previous link of a chain, or one of a chord's members.
    """
    if attempt:
        return [record.by_attempt[send.task].get(attempt - 1, ())]
    # The load's sender, which is not a task, sends the first link of a chain.
    number = 0 if send.ready is not None else SENDERS.get(send.kind, 0)
    before = [beside(send.task, -distance) for distance in range(1, number + 1)]
    return [runs for task in before for runs in record.by_attempt.get(task, {}).values()]


def revoked(record: LoadRecord) -> int:
    """Return the number of revoked tasks that a worker discarded and that never started."""
    return sum(
        send.kind == "revoked" and send.task in record.left and send.task not in record.by_attempt
        for send in record.sends
    )


def unheeded(record: LoadRecord) -> list[Fate]:
    """Return the tasks that started although they had been revoked.

    The task with the next number revokes each of them. Workers keep the revoked ids in memory, and a starting worker
    gets them from another worker. In every version of Celery it can miss a revoke that happens at that moment.
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
    """Return the name of the task that comes `distance` numbers after another."""
    name, _, number = task.rpartition(".")
    return f"{name}.{int(number) + distance:06d}"


def _starting(record: LoadRecord, node: str, at: float) -> str:
    """Return a phrase for the cause if a worker was about to consume at a moment, else an empty string."""
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
    # A worker that is cut off may run a task that it had fetched, even after another worker has run that task.
    late = _around(record, second.started, lambda mark: not mark.fatal and mark.concerns(second))
    if first.ended <= second.started:
        return had_ended(_around(record, first.ended, lambda mark: mark.concerns(first)) or late)
    return ran_at_once(_around(record, second.started, lambda mark: mark.concerns(first)) or late)


# The causes of repeated runs. Tests call these functions to name the causes that they allow. A cause without a reason
# is unexplained, and no test allows it.


def was_cut_off(reason: str) -> str:
    """Return the cause for a task that had not ended."""
    return f"run again after it was cut off: {reason}"


def had_ended(reason: str) -> str:
    """Return the cause for a task that had ended, but was not acknowledged yet."""
    return _because("run again though it had ended", reason)


def ran_at_once(reason: str) -> str:
    """Return the cause for a task that was started again while it was running."""
    return _because("run twice at once", reason)


def was_sent_twice(reason: str) -> str:
    """Return the cause for a task that was sent again because the broker's confirmation did not arrive."""
    return _because("sent twice", reason)


def _because(what: str, reason: str) -> str:
    return f"{what}, as {reason}" if reason else what


def _cut(record: LoadRecord, run: TaskRun, seconds: float) -> tuple[float, str]:
    """Return when and why a run that did not end was cut off: by a mark, or else because its worker stopped."""
    until = run.started + seconds + SLACK
    for mark in record.marks:
        # A mark can only have cut off a run that started before it.
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
    """Return the description of the first mark around a moment that `concerned` accepts; empty if there is none."""
    for mark in record.marks:
        # A process that was killed has no later effects, because another one has replaced it.
        after = SLACK if mark.fatal and mark.host else LASTING
        if concerned(mark) and mark.covers(at, UNDER_WAY, after):
            return mark.what
    return ""


def _holds_up(mark: RecordMark, sender: HeldUp) -> bool:
    """Return whether a mark concerns the broker, or a sender's connection to it."""
    return not mark.fatal and mark.concerns_node(sender.node)


def _may_have_fetched(mark: RecordMark) -> bool:
    """Return whether a mark may explain why a task never started: it hit the broker, or a worker that had the task."""
    return mark.fatal or not mark.host


def causes(fates: Iterable[Fate]) -> dict[str, int]:
    """Return the number of fates by cause, the most frequent cause first."""
    return dict(Counter(fate.cause for fate in fates).most_common())
