#!lua flags=allow-oom
-- Move one rule from one state to the next, and write down the incident that begins or ends with it.
-- Keeps: from one state exactly one move is made, and its incident is written with it or not at all, whatever workers
-- race; everything that can fail is checked before the first write, for Lua does not roll back.
-- KEYS  1 states  2 incidents
-- ARGV  1 rule  2 row it moves from ('' for none)  3 row it moves to ('' for none)  4 incidents kept
--       5.. field, value, ... of the incident, if there is one
-- Answers  OK | STALE

if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
  return 'STALE'
end
if #ARGV > 4 then
  -- Reading a stream of another type fails here, before anything is written.
  redis.call('XLEN', KEYS[2])
  redis.call('XADD', KEYS[2], 'MAXLEN', '=', ARGV[4], '*', unpack(ARGV, 5))
end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return 'OK'
