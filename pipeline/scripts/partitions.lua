#!lua flags=allow-oom
-- Agree on the number of partitions of a namespace: the larger of what stands and what is asked for.
-- Keeps: the number never shrinks, whoever asks, in whatever order.
-- KEYS  1 meta
-- ARGV  1 number asked for
-- Answers  the number that holds

local stored = tonumber(redis.call('HGET', KEYS[1], 'partitions') or '0')
if stored < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'partitions', ARGV[1])
  return tonumber(ARGV[1])
end
return stored
