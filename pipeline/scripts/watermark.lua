#!lua flags=no-writes
-- Find how far units have come in one partition: the broker's time of the oldest entry that each has not committed.
-- Keeps: an entry's body stays in the server; its id says all that is asked.
-- KEYS  1 stream  2.. cursors
-- Answers  {now in ms, then for each cursor: ms of the oldest entry that it has not committed, now where there is none,
--           '' where there is no cursor}

local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
local answer = { now }
for i = 2, #KEYS do
  local cursor = redis.call('HMGET', KEYS[i], 'id', 'index')
  if not cursor[1] then
    answer[i] = ''
  else
    -- A cursor inside an entry has not committed all of it.
    local from = cursor[2] == '0' and '(' .. cursor[1] or cursor[1]
    local oldest = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 1)[1]
    answer[i] = oldest and string.match(oldest[1], '^%d+') or now
  end
end
return answer
