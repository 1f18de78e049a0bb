#!lua flags=allow-oom
-- Take, keep or hand back a lease. A lease saves double work; nothing depends on it for being right.
-- KEYS  1 lease
-- ARGV  1 owner  2 TTL in ms (0: hand back)
-- Answers  the owner after the call, or '' when there is none

local owner = redis.call('GET', KEYS[1])
if ARGV[2] == '0' then
  if owner == ARGV[1] then
    redis.call('DEL', KEYS[1])
    return ''
  end
  return owner or ''
end
if owner and owner ~= ARGV[1] then
  return owner
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
