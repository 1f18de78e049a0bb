#!lua flags=allow-oom
-- End a unit's hold of the stream: its declaration, its cursor, its recipes and its group go at once.
-- Keeps:
--   a unit that a worker holds is left alone;
--   cursor and declaration go together, so that no trimming ever sees the one without the other.
-- KEYS  1 stream  2 handlers  3 cursor  4 recipes  5 lease
-- ARGV  1 unit name, which its group has too  2 who retires: holds the lease
-- Answers  {OK, keys deleted} | {HELD, by whom, '' where nobody holds the lease}

local owner = redis.call('GET', KEYS[5])
if owner ~= ARGV[2] then
  return { 'HELD', owner or '' }
end
-- Reading a key of another type fails here, before anything is written.
redis.call('HLEN', KEYS[2])
redis.pcall('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return { 'OK', redis.call('UNLINK', KEYS[3], KEYS[4]) }
