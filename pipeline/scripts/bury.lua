#!lua flags=allow-oom
-- End a unit of a version: it holds the stream no more, and nobody can begin it again, however late.
-- Keeps: what stays of the cursor is a gravestone; a worker that has not heard of the end is answered DROPPED by it.
-- KEYS  1 stream  2 handlers  3 cursor
-- ARGV  1 unit name, which its group has too  2 ms that the gravestone stays
-- Answers  1 where it was there, else 0

-- Reading a key of another type fails here, before anything is written.
redis.call('HLEN', KEYS[2])
local there = redis.call('HLEN', KEYS[3]) > 0 and 1 or 0
redis.pcall('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3])
redis.call('HSET', KEYS[3], 'id', '0-0', 'index', '0', 'done', '0-0', 'token', 'dropped', 'recipe', 'dropped')
redis.call('PEXPIRE', KEYS[3], ARGV[2])
return there
