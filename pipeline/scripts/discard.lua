#!lua flags=allow-oom
-- Discard dead letters for good. Their events stay counted as dead-lettered: they were lost on purpose.
-- Keeps: what they are said to take is what is still there.
-- KEYS  1 cursor  2 dead letters
-- ARGV  ids, at most 1,000
-- Answers  {letters, events} that went, or an error of the server before anything did

local bytes = tonumber(redis.call('HGET', KEYS[1], 'dead_bytes') or '0') or 0
local letters, events = 0, 0
for i = 1, #ARGV do
  local found = redis.call('XRANGE', KEYS[2], ARGV[i], ARGV[i])[1]
  if found then
    for j = 1, #found[2], 2 do
      if found[2][j] == 'body' then bytes = bytes - #found[2][j + 1] end
      if found[2][j] == 'events' then events = events + tonumber(found[2][j + 1]) end
    end
    redis.call('XDEL', KEYS[2], ARGV[i])
    letters = letters + 1
  end
end
if letters > 0 and redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'dead_bytes', string.format('%.0f', math.max(0, bytes)))
end
return { letters, events }
