"""Lua scripts of the sweep."""

from __future__ import annotations

from celery_fleet.delivery.scripts import Script

#: What has expired, newest first, so that messages of several rounds get back in order; and what is ours.
#: KEYS: unacked_index, unacked. ARGV: seconds of the lease, seconds of stock workers, messages, bytes, places to
#: look at, own prefix, seconds of own messages, places to look at for those, the newest first.
#: Returns {sizes of unacked and of unacked_index, expired as tag, score, message ..., own as tag, score ..., Redis'
#: time}.
LOOK = Script("""
local index, unacked = KEYS[1], KEYS[2]
local now = redis.call('TIME')
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

#: Puts messages back at the head of their lists, each only if its place is what it was; in the order given.
#: A list that can't be written to (of another type, or not this user's) leaves its message where it is, to be
#: tried again after a timeout. ZREM comes first as in the lease's script.
#: KEYS: unacked_index, unacked, lists. ARGV: for each message tag, score, payload, number of lists, their places
#: in KEYS.
#: Returns for each 1, 0 where it was not as it was, or an error's text.
RESTORE = Script("""
local index, unacked = KEYS[1], KEYS[2]
redis.call('ZREM', index, '')
local now = redis.call('TIME')
local answers = {}
local i = 1
while i <= #ARGV do
  local tag, score, payload, lists = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local answer = 0
  if redis.call('ZSCORE', index, tag) == score then
    if lists == 0 then
      answer = 'nowhere to put it'
    elseif redis.call('HEXISTS', unacked, tag) == 1 then
      for n = 1, lists do
        local done = redis.pcall('RPUSH', KEYS[tonumber(ARGV[i + 3 + n])], payload)
        if type(done) ~= 'table' then answer = 1 elseif answer ~= 1 then answer = done.err end
      end
    end
    if answer == 1 then
      redis.call('ZREM', index, tag)
      redis.call('HDEL', unacked, tag)
    elseif answer ~= 0 then
      redis.call('ZADD', index, 'XX', now[1], tag)
    end
  end
  answers[#answers + 1] = answer
  i = i + 4 + lists
end
return answers
""")

#: The entries of some tags. KEYS: unacked_index, unacked. ARGV: tags. A tag without an entry loses its place.
READ = Script("""
local entries = {}
for i = 1, #ARGV do
  entries[i] = redis.call('HGET', KEYS[2], ARGV[i])
  if not entries[i] then redis.call('ZREM', KEYS[1], ARGV[i]) end
end
return entries
""")

#: Gives the messages among some fields of ``unacked`` that have no place one, as if taken now.
#: KEYS: unacked_index, unacked. ARGV: cursor, number of fields. Returns {next cursor, how many}.
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
