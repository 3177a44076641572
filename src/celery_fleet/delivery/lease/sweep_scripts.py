"""The Lua scripts of the sweep."""

from __future__ import annotations

from celery_fleet.delivery.scripts import Script

#: Finds expired messages, the newest first, so that messages of several rounds go back in order; and our own messages.
#: ZREM changes nothing, but fails if Redis refuses writes: then the owners of messages can't renew them either.
#: KEYS: unacked_index, unacked. ARGV: seconds of the lease; visibility timeout of stock workers; maximum number of
#: messages; maximum number of bytes; number of tags to examine; own prefix; age of own messages in seconds; number of
#: tags to examine for own messages, the newest first.
#: Returns {size of unacked, size of unacked_index, expired as tag, score, message ..., own as tag, score ..., Redis's
#: time}.
LOOK = Script("""
local index, unacked = KEYS[1], KEYS[2]
local now = redis.call('TIME')
redis.call('ZREM', index, '')
now = now[1] + now[2] / 1000000
local ours = '/%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x/%x+$'
local lease, stock = now - ARGV[1], now - ARGV[2]
local max, room, looks = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local expired, found = {}, 0
local function gather(highest, lowest, every)
  local places = redis.call(
    'ZRANGE', index, string.format('%.6f', highest), lowest, 'BYSCORE', 'REV', 'LIMIT', 0, looks, 'WITHSCORES')
  for i = 1, #places, 2 do
    if found >= max or room <= 0 then return end
    local tag = places[i]
    if every or string.find(tag, ours) then
      local message = redis.call('HGET', unacked, tag)
      if message then
        room = room - #message
        if room <= 0 and found > 0 then return end
        found = found + 1
        expired[#expired + 1] = tag
        expired[#expired + 1] = places[i + 1]
        expired[#expired + 1] = message
      else
        redis.call('ZREM', index, tag)
      end
    end
  end
end
if stock < lease then gather(lease, '(' .. string.format('%.6f', stock), false) end
gather(math.min(stock, lease), '-inf', true)
local own = {}
local length = #ARGV[6]
local old = string.format('%.6f', now - ARGV[7])
for _, tag in ipairs(redis.call('ZRANGE', index, old, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, ARGV[8])) do
  if string.sub(tag, 1, length) == ARGV[6] then
    own[#own + 1] = tag
    own[#own + 1] = redis.call('ZSCORE', index, tag)
  end
end
return {redis.call('HLEN', unacked), redis.call('ZCARD', index), expired, own, string.format('%.6f', now)}
""")

#: Returns the entries of some tags, and removes tags without an entry from the index.
#: KEYS: unacked_index, unacked. ARGV: tags.
READ = Script("""
local entries = {}
for i = 1, #ARGV do
  entries[i] = redis.call('HGET', KEYS[2], ARGV[i])
  if not entries[i] then redis.call('ZREM', KEYS[1], ARGV[i]) end
end
return entries
""")

#: Adds messages that are missing in the index, as if they had just been fetched. Examines some fields of ``unacked``.
#: KEYS: unacked_index, unacked. ARGV: cursor, number of fields. Returns {next cursor, number of new places}.
MEND = Script("""
redis.call('ZREM', KEYS[1], '')
local now = redis.call('TIME')
local page = redis.call('HSCAN', KEYS[2], ARGV[1], 'COUNT', ARGV[2])
local mended = 0
for i = 1, #page[2], 2 do
  if not redis.call('ZSCORE', KEYS[1], page[2][i]) then
    redis.call('ZADD', KEYS[1], now[1], page[2][i])
    mended = mended + 1
  end
end
return {page[1], mended}
""")
