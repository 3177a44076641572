"""The Lua scripts that move messages, in kombu's own formats, and functions that run them with redis-py.

``unacked`` is a hash from tag to ``[message, exchange, routing key]``. ``unacked_index`` is a sorted set of the same
tags, scored by the time when they were fetched (Unix time). The head of a list, from which consumers pop, is its right
end.

Each script is atomic for other clients, but an error does not undo the commands before it. A Redis at its memory limit
accepts these scripts, because their first command frees memory, and a script may continue once it has written. It does
refuse MULTI, so use no transactions here.

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


#: Fetches the first message of some lists and records it as held. It uses Redis's clock, because a host's clock may be
#: wrong. It records the exchange as "" and the queue as the routing key, so kombu, too, would put the message back into
#: its queue. If the record fails, the message goes back at once.
#:
#: Client tracking watches a list once a script has read it, whether it is empty or not; popping is not reading. Each
#: list that is empty at the end is watched. ``unacked`` must not be watched, because every fetch and acknowledgement
#: writes to it. So its name and that of its index are arguments: before 7.2, Redis watches all KEYS of a script that
#: reads any key.
#:
#: KEYS: lists: all queues with the first priority, all with the second, and so on. ARGV: tag; unacked; unacked_index;
#: queues as JSON strings, either one for each list or one for each queue.
#: Returns the index of the list, the message, and 1 if no list has any more messages; nil if all were empty.
FETCH = Script("""
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
    -- A cheap check whether this list has more messages; Redis 6.2 returns nil for any list.
    if not redis.call('RPOP', KEYS[i], 0) and redis.call('EXISTS', unpack(KEYS, i)) == 0 then
      return {i - 1, item, 1}
    end
    return {i - 1, item}
  end
end
redis.call('EXISTS', unpack(KEYS))
return false
""")

#: Acknowledges a message. KEYS: unacked, unacked_index. ARGV: tag.
#: Returns 1, or 0 if it was no longer held under this tag.
ACK = Script("""
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
""")

#: Acknowledges a message whose task is about to begin, and notes that. So the script can be repeated if its reply was
#: lost. The note comes first, because an error undoes nothing; the first ZREM is for a Redis at its memory limit.
#: KEYS: unacked, unacked_index, claim, claims that are no longer needed. ARGV: tag, seconds to keep the claim.
#: Returns 1 if the message was held under this tag or is claimed already, otherwise 0.
BEGIN = Script("""
redis.call('ZREM', KEYS[2], '')
if #KEYS > 3 then redis.call('DEL', unpack(KEYS, 4)) end
if redis.call('GET', KEYS[3]) then return 1 end
if redis.call('HGET', KEYS[1], ARGV[1]) then
  redis.call('SET', KEYS[3], ARGV[1], 'EX', ARGV[2])
  redis.call('ZREM', KEYS[2], ARGV[1])
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
""")


#: The ends of a list: consumers pop at the head, and messages arrive at the tail.
HEAD, TAIL = "RPUSH", "LPUSH"

#: Puts a message back into its list if it is still held under its tag. The message of a stock worker may belong to
#: several lists. The push comes first, because an error undoes nothing. If Redis refuses to write to the list (wrong
#: type, no permission), the message stays in ``unacked``. The first ZREM is for a Redis at its memory limit. The script
#: uses HGET because workers had no permission for HEXISTS before the atomic fetch. A fleet that goes back to the stock
#: fetch gets its old permissions before its workers drain.
#: KEYS: unacked, unacked_index, lists. ARGV: tag; message; `HEAD` or `TAIL`; a Unix time, or "". A message that was
#: fetched or renewed after that time stays: if its tag is not unique to one delivery, another worker has it by now.
#: Optionally the claim of a `BEGIN` without an answer: if there is this claim, the message is put back instead.
#: Returns 1, or 0 if the message was no longer held.
PUT_BACK = Script("""
local claimed = ARGV[5] and redis.call('GET', ARGV[5])
if ARGV[4] ~= '' and not claimed then
  local taken = redis.call('ZSCORE', KEYS[2], ARGV[1])
  if not taken or tonumber(taken) > tonumber(ARGV[4]) then return 0 end
end
redis.call('ZREM', KEYS[2], '')
local held = claimed or redis.call('HGET', KEYS[1], ARGV[1])
if held then
  local done, refused = false, redis.error_reply('ERR there is no list for it')
  for i = 3, #KEYS do
    local answer = redis.pcall(ARGV[3], KEYS[i], ARGV[2])
    if type(answer) == 'number' then done = true else refused = answer end
  end
  if not done then return refused end
end
if claimed then
  redis.call('DEL', ARGV[5])
  return 1
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
