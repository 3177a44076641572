"""Let only one of several beats send: the leader.

The broker has the leader's token, with a time limit that the leader renews. Each of its messages is sent by a script
that compares the token. So a beat that was frozen or cut off can't send anything after another one has become the
leader, however late it returns. The same script stores when the entry was sent. The next leader continues from there,
and a message whose answer was lost is not sent twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from redis.exceptions import RedisError

from celery_fleet.common.periodic import Periodic
from celery_fleet.compat import primary
from celery_fleet.compat.redbeat import KEYS, RunToSave
from celery_fleet.delivery.keys import BEAT_LAST_LEADER, BEAT_LEADER, BEAT_SENT

logger = logging.getLogger("celery_fleet.beat")

#: Seconds without a renewal after which another beat may become the leader.
LEASE = 20.0
#: Seconds between two renewals, and between two attempts of a beat that stands by.
RENEWAL = 4.0
ATTEMPT = 1.0

#: How keys begin that beat may write and that are no queues. An application may choose an entry's queue.
RESERVED = ("fleet:", KEYS)

#: At least so many bytes are kept about the latest messages of an entry's run; at most twice as many.
REMEMBERED = 4000

# Become the leader if there is none, or stay it. To stay, another one must not have been the leader in between.
_TAKE = """
local now = redis.call('get', KEYS[1])
if now and now ~= ARGV[1] then return 0 end
if ARGV[3] == '1' and redis.call('get', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[1], 'px', ARGV[2])
redis.call('set', KEYS[2], ARGV[1])
return 1
"""

_GIVE_UP = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('del', KEYS[1])
"""

# Write the run into a schedule that is on the broker, unless its entry has been deleted meanwhile.
_SAVE_RUN = """
local function save(entry, schedule, meta, due)
  if redis.call('exists', entry) == 0 then return end
  redis.call('hset', entry, 'meta', meta)
  redis.call('zadd', schedule, due, entry)
end
"""

_SAVE = f"""{_SAVE_RUN}
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
save(KEYS[2], KEYS[3], ARGV[2], ARGV[3])
return 1
"""

# 0: not the leader. 1: sent, now or by an earlier attempt. What is stored is the time of the last run, and the lists
# that have its messages: an exchange may have several queues, and a task may send itself several times. There may be
# thousands, and only the latest can come again.
_SEND = f"""{_SAVE_RUN}
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
if KEYS[4] then save(KEYS[4], KEYS[5], ARGV[6], ARGV[7]) end
local last = redis.call('hget', KEYS[2], ARGV[2]) or ''
local run = ARGV[3] .. '\\0'
if string.sub(last, 1, #run) ~= run then last = run end
local pushed = '\\0' .. KEYS[3] .. '\\0' .. ARGV[4] .. '\\0'
if string.find(last, pushed, 1, true) then return 1 end
if #last > {2 * REMEMBERED} then last = run .. string.sub(last, -{REMEMBERED}) end
redis.call('lpush', KEYS[3], ARGV[5])
redis.call('hset', KEYS[2], ARGV[2], last .. pushed)
return 1
"""

_NOTE = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
for at = 2, #ARGV, 2 do redis.call('hset', KEYS[2], ARGV[at], ARGV[at + 1] .. '\\0') end
return 1
"""

_FORGET = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
for at = 2, #ARGV do redis.call('hdel', KEYS[2], ARGV[at]) end
return 1
"""


class Leadership:
    """A beat's part in the election of the leader.

    Args:
        client: A client of the broker, which may be used by several threads.
        token: A text that no other process has.
        replicas: How many replicas must have a message before it counts as sent.
    """

    def __init__(self, client: Any, token: str, replicas: int = 0) -> None:
        self._client = client
        self._token = token
        self._replicas = replicas

    def take(self) -> bool:
        """Become the leader if there is none; return whether this beat is the leader.

        Raises:
            redis.exceptions.RedisError: The broker does not answer.
        """
        return self._take(stay=False)

    def stay(self) -> bool:
        """Renew the leader's lease; return whether this beat still is the leader.

        A lease that has ended is renewed only if no other beat was the leader since. That one has sent entries, which
        this one would send again.

        Raises:
            redis.exceptions.RedisError: The broker does not answer.
        """
        return self._take(stay=True)

    def _take(self, *, stay: bool) -> bool:
        keys, milliseconds = (BEAT_LEADER, BEAT_LAST_LEADER), int(LEASE * 1000)
        return bool(self._client.eval(_TAKE, 2, *keys, self._token, milliseconds, int(stay)))

    def give_up(self) -> None:
        """Let another beat become the leader at once; if the broker does not answer, it waits for the lease."""
        try:
            self._client.eval(_GIVE_UP, 1, BEAT_LEADER, self._token)
        except RedisError as exc:
            logger.warning("another beat takes over in %.0f s: %s", LEASE, exc)

    def send(
        self,
        entry: str,
        time: str,
        queue: str,
        identity: str,
        message: str,
        run: RunToSave | None = None,
    ) -> bool:
        """Push an entry's message, unless this beat is no longer the leader.

        Args:
            entry: The entry's name.
            time: The time of this run, which differs from that of any other.
            queue: The list to push to.
            identity: What tells the message from others of this run, also when it is sent again.
            message: The message as kombu writes it.
            run: What is written in the same step, if the schedule is on the broker.

        Returns:
            Whether it was sent, by this call or by an earlier one with the same entry, time, queue and identity.

        Raises:
            redis.exceptions.RedisError: The broker does not answer, or refuses; or too few replicas have the message,
                and then another call with the same arguments only waits for them.
            ValueError: The queue has the key of something else.
        """
        if queue.startswith(RESERVED):
            raise ValueError(f"no queue may begin with {' or '.join(RESERVED)}: {queue}")
        keys: tuple[str, ...] = (BEAT_LEADER, BEAT_SENT, queue)
        arguments: tuple[Any, ...] = (self._token, entry, time, identity, message)
        if run is not None:
            keys += (run.entry, run.schedule)
            arguments += (run.meta, run.due)
        if not self._replicas:
            return bool(self._client.eval(_SEND, len(keys), *keys, *arguments))
        with self._client.pipeline(transaction=False) as pipe:
            pipe.eval(_SEND, len(keys), *keys, *arguments)
            pipe.wait(self._replicas, primary.WAIT)
            # redis-py would add the arguments to the error.
            is_sent, copies = answers = pipe.execute(raise_on_error=False)
        for error in (one for one in answers if isinstance(one, Exception)):
            raise error
        if is_sent:
            primary.require_copies(copies, self._replicas)
        return bool(is_sent)

    def save(self, run: RunToSave) -> bool:
        """Write a run that was not sent into a schedule that is on the broker, unless this beat is not the leader.

        Raises:
            redis.exceptions.RedisError: The broker does not answer, or refuses.
        """
        keys = (BEAT_LEADER, run.entry, run.schedule)
        return bool(self._client.eval(_SAVE, len(keys), *keys, self._token, run.meta, run.due))

    def sent(self) -> dict[str, float]:
        """Return the time of each entry's last run, in Unix time, as far as it is known.

        Raises:
            redis.exceptions.RedisError: The broker does not answer.
        """
        found = self._client.hgetall(BEAT_SENT)
        return {name.decode(): float(run.partition(b"\0")[0]) for name, run in found.items()}

    def note(self, runs: Mapping[str, float]) -> None:
        """Note when entries ran last, in Unix time, unless this beat is no longer the leader.

        Raises:
            redis.exceptions.RedisError: The broker does not answer.
        """
        pairs = [text for name, time in runs.items() for text in (name, f"{time:.6f}")]
        if pairs:
            self._client.eval(_NOTE, 2, BEAT_LEADER, BEAT_SENT, self._token, *pairs)

    def forget(self, names: Iterable[str]) -> None:
        """Forget when entries ran that no longer exist, unless this beat is no longer the leader.

        Raises:
            redis.exceptions.RedisError: The broker does not answer.
        """
        if gone := tuple(names):
            self._client.eval(_FORGET, 2, BEAT_LEADER, BEAT_SENT, self._token, *gone)


class Renewal(Periodic):
    """Renews a leader's lease until it is stopped, or until another beat has become the leader.

    Args:
        leadership: The leader's.
        lost: Called once another beat has become the leader.
    """

    def __init__(self, leadership: Leadership, lost: Callable[[], None]) -> None:
        super().__init__("beat-leadership")
        self._leadership = leadership
        self._lost = lost

    def turn(self) -> float:
        """Renew the lease; return the seconds until the next time."""
        try:
            is_leader = self._leadership.stay()
        except RedisError as exc:
            # Without the broker no beat can send, and none can become the leader.
            logger.debug("the leader's lease can't be renewed now: %s", exc)
            return RENEWAL
        if not is_leader and not self._stop.is_set():
            self._lost()
            self.stop()
        return RENEWAL
