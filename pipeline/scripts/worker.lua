#!lua flags=allow-oom
-- Say that a worker is alive (or leaves), and learn who else is, over all and by what each runs.
-- KEYS  1 this worker's record  2 index of all workers  3.. indexes of workers by what they run
-- ARGV  1 worker  2 TTL in ms (0: it leaves)  3 indexes that it stands in, the first of KEYS 2..; in no other
--       4.. field, value, ... of its record
-- Answers  for each index the workers alive, sorted by name

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local leaves = ARGV[2] == '0'
if leaves then
  redis.call('DEL', KEYS[1])
else
  local record = { 'at', string.format('%.0f', now) }
  for i = 4, #ARGV do
    record[#record + 1] = ARGV[i]
  end
  redis.call('HSET', KEYS[1], unpack(record))
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end

local alive = {}
for i = 2, #KEYS do
  if leaves or i - 1 > tonumber(ARGV[3]) then
    redis.call('ZREM', KEYS[i], ARGV[1])
  else
    redis.call('ZADD', KEYS[i], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', string.format('(%.0f', now))
  if redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('PEXPIRE', KEYS[i], 86400000)
  end
  alive[i - 1] = redis.call('ZRANGE', KEYS[i], 0, -1)
  table.sort(alive[i - 1])
end
return alive
