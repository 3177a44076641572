"""The scripts that move messages, in kombu's own formats, and how redis-py runs them.

``unacked`` is a hash from tag to ``[message, exchange, routing key]``. ``unacked_index`` is a sorted set of the same
tags by when they were taken (Unix time). The head of a list, from which consumers pop, is its right end.

Each script is atomic for other clients, but an error does not undo what came before it. A Redis at its memory limit
refuses none of them: their first command frees memory, and once a script has written, Redis lets it go on. Such a
Redis refuses to queue commands in MULTI, so none may be used there.

The hand-back has its own client, and imports this file with the standard library only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Script:
    """A Lua script and its name in Redis (EVALSHA)."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)


#: Takes the first message of some lists and records it as held, by Redis's clock, since a host's clock may be wrong.
#: The exchange is recorded as "" and the routing key as the queue, so kombu also puts it back where it was. If the
#: record fails, the message goes back at once.
#:
#: Client tracking watches a list once a script has read it, with or without messages; popping is not reading. Each
#: list that was empty at the end is watched. ``unacked`` must not be: every take and acknowledgement writes to it. So
#: its name and that of its index are arguments: before 7.2, Redis watches all KEYS of a script that reads any key.
#:
#: KEYS: lists: all queues with the first priority, all with the second, and so on. ARGV: tag; unacked; unacked_index;
#: queues as JSON strings: one for each list, or as many as come again and again.
#: Returns the number of the list, from 0, the message, and 1 if no list has any more; nil if all were empty.
TAKE = Script("""
local queues = #ARGV - 3
for i = 1, #KEYS do
  local item = redis.call('RPOP', KEYS[i])
  if item then
    local now = redis.call('TIME')
    local queue = ARGV[4 + (i - 1) % queues]
    local done = redis.pcall('HSET', ARGV[2], ARGV[1], '[' .. item .. ', "", ' .. queue .. ']')
    if type(done) ~= 'table' or not done.err then
      done = redis.pcall('ZADD', ARGV[3], now[1] .. '.' .. string.format('%06d', now[2]), ARGV[1])
      if type(done) == 'table' and done.err then redis.call('HDEL', ARGV[2], ARGV[1]) end
    end
    if type(done) == 'table' and done.err then
      redis.call('RPUSH', KEYS[i], item)
      return done
    end
    if i > 1 then redis.call('EXISTS', unpack(KEYS, 1, i - 1)) end
    -- A cheap look whether this list has more; Redis 6.2 answers nil for any list.
    if not redis.call('RPOP', KEYS[i], 0) and redis.call('EXISTS', unpack(KEYS, i)) == 0 then
      return {i - 1, item, 1}
    end
    return {i - 1, item}
  end
end
redis.call('EXISTS', unpack(KEYS))
return false
""")

#: Forgets a message for good. KEYS: unacked, unacked_index. ARGV: tag.
#: Returns 1, or 0 if it was no longer held under this tag.
ACK = Script("""
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
""")


#: The ends of a list: consumers pop at the head, and messages arrive at the tail.
HEAD, TAIL = "RPUSH", "LPUSH"

#: Puts a message back into its list if it is still held under its tag; a stock worker's may belong to several lists.
#: The push comes first, since an error undoes nothing. A list that Redis refuses to write to (wrong type, no right)
#: leaves the message where it is. The first ZREM is for a Redis at its memory limit. HGET because workers had no
#: right to HEXISTS before the atomic take, and a fleet that goes back gets those rights before its workers drain.
#: KEYS: unacked, unacked_index, lists. ARGV: tag; message; `HEAD` or `TAIL`; a Unix time, or "". If the message was
#: taken or renewed after that time it stays: then a tag that is not unique to its delivery is another worker's by now.
#: Returns 1, or 0 if the message was no longer held.
PUT_BACK = Script("""
if ARGV[4] ~= '' then
  local taken = redis.call('ZSCORE', KEYS[2], ARGV[1])
  if not taken or tonumber(taken) > tonumber(ARGV[4]) then return 0 end
end
redis.call('ZREM', KEYS[2], '')
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held then
  local done, refused = false, redis.error_reply('ERR there is no list for it')
  for i = 3, #KEYS do
    local answer = redis.pcall(ARGV[3], KEYS[i], ARGV[2])
    if type(answer) == 'number' then done = true else refused = answer end
  end
  if not done then return refused end
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
return held and 1 or 0
""")

#: Moves an item that can't be read to another list. KEYS: unacked, unacked_index, list. ARGV: tag, item, how many
#: items to keep.
#: Returns 1, or 0 if it was no longer held under this tag.
PUT_ASIDE = Script("""
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[3], ARGV[2])
redis.call('LTRIM', KEYS[3], 0, ARGV[3] - 1)
return 1
""")


def run(client: Any, script: Script, names: Sequence[str], args: Sequence[Any]) -> Any:
    """Run a script: one round trip, unless Redis has forgotten the script.

    Raises:
        redis.exceptions.RedisError, OSError: The script failed, or no answer came.
    """
    from redis.exceptions import NoScriptError  # the hand-back runs without redis-py

    try:
        return client.evalsha(script.sha, len(names), *names, *args)
    except NoScriptError:
        client.script_load(script.text)
        return client.evalsha(script.sha, len(names), *names, *args)


def run_each(
    client: Any, script: Script, calls: Iterable[tuple[Sequence[str], Sequence[Any]]]
) -> list[Any]:
    """Run a script once for each pair of keys and arguments, in one round trip.

    Returns:
        For each call its answer, or Redis's error as an exception.

    Raises:
        redis.exceptions.RedisError, OSError: The connection failed, so it is not known what ran.
    """
    with client.pipeline(transaction=False) as pipe:
        pipe.script_load(script.text)
        for names, args in calls:
            pipe.evalsha(script.sha, len(names), *names, *args)
        answers: list[Any] = pipe.execute(raise_on_error=False)
    return answers[1:]
