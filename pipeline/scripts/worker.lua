#!lua flags=allow-oom
-- Say that a worker is alive (or leaves), and learn who else is.
-- KEYS  1 index of workers  2 this worker's record
-- ARGV  1 worker  2 TTL in ms (0: it leaves)  3.. field, value, ... of its record
-- Answers  the workers alive, this one included unless it leaves, sorted by name

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('DEL', KEYS[2])
else
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
  local record = { 'at', string.format('%.0f', now) }
  for i = 3, #ARGV do
    record[#record + 1] = ARGV[i]
  end
  redis.call('HSET', KEYS[2], unpack(record))
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now))
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('PEXPIRE', KEYS[1], 86400000)
end
local alive = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(alive)
return alive
