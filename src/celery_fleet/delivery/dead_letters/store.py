"""Choose, read, replay and drop dead letters, for the operator's command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from celery_fleet.delivery import keys
from celery_fleet.delivery.dead_letters.letters import DeadLetter, text_of
from celery_fleet.delivery.scripts import Script, run, run_each

#: Returns whether a letter is still the one that was last seen at a given time. A letter that was replayed may come
#: back with the same id, but with a later time.
_UNCHANGED = """
local function unchanged(letters, id, last_seen)
  local document = redis.call('HGET', letters, id) or ''
  return tonumber(string.match(document, '"last_seen": ([%d%.]+)') or '') == tonumber(last_seen)
end
"""

#: Puts a letter back into its queue and removes its entry, so that it is sent only once even if several operators try.
#: If Redis refuses to write to the list, nothing changes.
#: KEYS: dead letters, their index, list. ARGV: id, when last seen, item.
REPLAY = Script(
    _UNCHANGED
    + """
if not unchanged(KEYS[1], ARGV[1], ARGV[2]) then return 0 end
redis.call('LPUSH', KEYS[3], ARGV[3])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
"""
)

#: Deletes a letter. KEYS: dead letters, their index. ARGV: id, when last seen.
DROP = Script(
    _UNCHANGED
    + """
if not unchanged(KEYS[1], ARGV[1], ARGV[2]) then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
"""
)

#: Returns documents by their ids, nil for one that is gone. It stops before a document that exceeds the limit, unless
#: that is the first. KEYS: dead letters. ARGV: 1 with the messages, 0 without; maximum number of bytes; ids.
READ = Script("""
local found, room = {}, tonumber(ARGV[2])
for number = 3, #ARGV do
  local document = redis.call('HGET', KEYS[1], ARGV[number])
  if document then
    room = room - #document
    if room <= 0 and number > 3 then break end
    -- The message is the last field. Inside a JSON string the quotation marks would be escaped.
    local start = ARGV[1] == '0' and string.find(document, ', "message": "', 1, true)
    document = start and string.sub(document, 1, start - 1) .. '}' or document
  end
  found[#found + 1] = document
end
return found
""")

#: Number of documents or changes in one round trip, and the size of the documents in bytes.
PAGE = 100

PAGE_BYTES = 2_000_000


@dataclass(frozen=True)
class Choice:
    """Selects the dead letters that meet all given conditions.

    Attributes:
        task: A task's name, or a pattern as in the shell.
        older: Minimum number of seconds since a letter was last seen; ``newer`` is the maximum.
        ids: Ids of the letters; empty for all.
    """

    queue: str | None = None
    task: str | None = None
    reason: str | None = None
    older: float | None = None
    newer: float | None = None
    ids: tuple[str, ...] = ()

    def takes(self, letter: DeadLetter, now: float) -> bool:
        """Return whether a letter is selected."""
        age = now - letter.last_seen
        return (
            (self.queue is None or letter.queue == self.queue)
            and (self.task is None or fnmatchcase(letter.task or "", self.task))
            and (self.reason is None or letter.reason == self.reason)
            and (self.older is None or age >= self.older)
            and (self.newer is None or age <= self.newer)
            and (not self.ids or letter.id in self.ids)
        )


class DeadLetterStore:
    """All dead letters of one broker, for an operator."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def count(self) -> int:
        """Return the number of letters."""
        return int(self._client.zcard(keys.DEAD_LETTERS_INDEX))

    def now(self) -> float:
        """Return the time by Redis's clock."""
        seconds, micro = self._client.time()
        return int(seconds) + int(micro) / 1e6

    def read(self, ids: Sequence[str], payload: bool = False) -> list[DeadLetter]:
        """Return the existing letters with these ids, without documents that are not dead letters."""
        return [letter for page in self.pages(ids, payload) for letter in page]

    def pages(self, ids: Sequence[str], payload: bool) -> Iterator[list[DeadLetter]]:
        """Yield the same as `read`, one round trip at a time."""
        start = 0
        while start < len(ids):
            arguments = ["1" if payload else "0", PAGE_BYTES, *ids[start : start + PAGE]]
            texts = run(self._client, READ, [keys.DEAD_LETTERS], arguments)
            start += len(texts)
            found = []
            for text in texts:
                with suppress(ValueError):
                    found.append(DeadLetter.parse(text))
            yield found

    def choose(self, choice: Choice, payload: bool = False) -> list[DeadLetter]:
        """Return the selected letters, the least recently seen first."""
        now = self.now()
        if choice.ids:
            found = self.read(list(dict.fromkeys(choice.ids)), payload)
            chosen = [letter for letter in found if choice.takes(letter, now)]
            return sorted(chosen, key=lambda letter: letter.last_seen)
        return [letter for letter in self._all(choice, now, payload) if choice.takes(letter, now)]

    def _all(self, choice: Choice, now: float, payload: bool) -> list[DeadLetter]:
        # Select a second more, because the score may be rounded. The choice itself is exact.
        first = "-inf" if choice.newer is None else repr(now - choice.newer - 1)
        last = "+inf" if choice.older is None else repr(now - choice.older + 1)
        ids = self._client.zrangebyscore(keys.DEAD_LETTERS_INDEX, first, last)
        return self.read([text_of(one) for one in ids], payload)

    def replay(self, letters: Sequence[DeadLetter]) -> list[int | Exception]:
        """Put letters, which were read with their messages, at the tail of their lists.

        Returns:
            For each letter 1 if it was put there, 0 if it is gone or was seen again since then, or Redis's error.
        """
        names = [keys.DEAD_LETTERS, keys.DEAD_LETTERS_INDEX]
        calls = (
            ([*names, letter.key], [letter.id, letter.last_seen, letter.item()])
            for letter in letters
        )
        return run_each(self._client, REPLAY, calls)

    def drop(self, letters: Sequence[DeadLetter]) -> list[int | Exception]:
        """Delete letters; return the same as `replay`."""
        names = [keys.DEAD_LETTERS, keys.DEAD_LETTERS_INDEX]
        return run_each(
            self._client, DROP, ((names, [letter.id, letter.last_seen]) for letter in letters)
        )
