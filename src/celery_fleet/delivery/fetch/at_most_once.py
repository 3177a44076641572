"""Acknowledge a task before it starts, so that it starts at most once.

With early acknowledgement, Celery only acknowledges a task when a process of its pool has accepted it. By then the task
is running. If the worker is killed in between, the message stays behind and the task runs again. Here the worker
removes the message first, and starts the task only if the message was still there.

If Redis's answer is lost, Redis may have removed the message. So it also keeps a claim, by which this process
recognises its own removal: it asks again, or puts the message back on the next connection. With the next task it
deletes the claims that it no longer needs.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any

from celery_fleet.common.errors import error_text
from celery_fleet.compat import tasks
from celery_fleet.delivery import keys
from celery_fleet.delivery.dead_letters import internals as letters
from celery_fleet.delivery.options import AT_MOST_ONCE, Options
from celery_fleet.delivery.outage.give_back import claim_of
from celery_fleet.delivery.scripts import BEGIN, run

logger = logging.getLogger("celery_fleet.delivery")

#: Seconds for which Redis keeps a claim: a process asks again as soon as Redis answers, also after a long outage.
KEPT = 86400

#: Claims that this process no longer needs.
_known: set[str] = set()


def install(options: Options) -> None:
    """Have an ``at_most_once`` worker acknowledge tasks first, except those that set ``acks_late`` themselves."""
    if options.profile == AT_MOST_ONCE:
        tasks.before_each_task(may_begin)


def may_begin(request: Any) -> bool:
    """Acknowledge a request's message; return whether its task may start."""
    message = request.message
    if request.task.acks_late or request.acknowledged or not letters.in_unacked(message):
        return True
    try:
        ours = _claim(message)
    except Exception as exc:  # noqa: BLE001  # the task must not start without an acknowledgement
        logger.warning(
            "task %s[%s] does not start now, because its message can't be acknowledged (%s); the worker tries again",
            request.name,
            request.id,
            error_text(exc),
        )
        return False
    request.acknowledged = True
    if not ours:
        logger.info(
            "task %s[%s] does not start here: its message has been put back in the meantime",
            request.name,
            request.id,
        )
    return ours


def _claim(message: Any) -> bool:
    """Acknowledge a message; return whether it was held by this process, now or in an attempt without an answer.

    Raises:
        redis.exceptions.RedisError, OSError: Redis did not confirm it.
    """
    channel, tag = message.channel, message.delivery_tag
    known = tuple(_known)
    # It stays until there is an answer. A tag is no name for it: with the stock fetch, a message that was put back
    # keeps its tag, and this process may fetch it again.
    message.claim = claim = claim_of(message) or f"{keys.CLAIM}{secrets.token_hex(8)}"
    with letters.client(channel) as client:
        names = [channel.unacked_key, channel.unacked_index_key, claim, *known]
        ours = bool(run(client, BEGIN, names, [tag, KEPT]))
    message.claim = None
    _known.difference_update(known)
    if ours:
        _known.add(claim)
    letters.mark_acknowledged(message)
    return ours
