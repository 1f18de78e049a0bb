#!lua flags=allow-oom
-- Hand the days that a base still answers for over to the replay that takes its place, and end the base.
-- Keeps:
--   both stand at the same place, in the states that were looked at: no event is in neither, none is in both;
--   neither has dead letters: one that is retried later would count where it has counted already;
--   windows keep their expiry; the totals since the beginning belong to a version, and go with the base.
-- KEYS  1 handlers  2 stream  3 and 4 cursors of base and heir  5 and 6 their dead letters  7 and 8 their recipes
--       9.. windows, catalogues and rankings, by twos: that of the base, that of the heir
-- ARGV  1 and 2 tokens of base and heir  3 and 4 their names  5 token of the heir to be  6 ms that the gravestone stays
-- Answers  {OK, keys handed over} | {DONE}: it has been done | {APART} | {LETTERS, of base, of heir} | {BAD, what}

local base = redis.call('HMGET', KEYS[3], 'id', 'index', 'token', 'recipe', 'since')
local heir = redis.call('HMGET', KEYS[4], 'id', 'index', 'token', 'days_from', 'days_until', 'since')
if heir[4] == '0' and heir[5] == '0' and (base[4] == 'dropped' or not base[4]) then
  return { 'DONE' }
end
if base[3] ~= ARGV[1] or heir[3] ~= ARGV[2] or base[1] ~= heir[1] or base[2] ~= heir[2] then
  return { 'APART' }
end
local letters = { redis.call('XLEN', KEYS[5]), redis.call('XLEN', KEYS[6]) }
if letters[1] + letters[2] > 0 then
  return { 'LETTERS', letters[1], letters[2] }
end
if #KEYS % 2 ~= 0 or #ARGV[5] ~= 32 then
  return { 'BAD', 'arguments' }
end
-- Reading keys of another type fails here, before anything is written.
redis.call('HLEN', KEYS[1])
local older = redis.call('LRANGE', KEYS[7], 0, -1)
redis.call('LLEN', KEYS[8])
for i = 9, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[i + 1]) == 1 then
    return { 'BAD', KEYS[i + 1] }
  end
end

local moved = 0
for i = 9, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('RENAME', KEYS[i], KEYS[i + 1])
    moved = moved + 1
  end
end
for i = #older, 1, -1 do
  redis.call('LPUSH', KEYS[8], older[i])
end
local since = tonumber(base[5] or '0') > tonumber(heir[6] or '0') and base[5] or heir[6]
redis.call('HSET', KEYS[4], 'days_from', '0', 'days_until', '0', 'token', ARGV[5], 'since', since or '0',
  'inherited', '1')
redis.pcall('XGROUP', 'DESTROY', KEYS[2], ARGV[3])
redis.call('HDEL', KEYS[1], ARGV[3])
redis.call('HSET', KEYS[1], ARGV[4], 'fold')
redis.call('DEL', KEYS[3], KEYS[7])
redis.call('HSET', KEYS[3], 'id', '0-0', 'index', '0', 'done', '0-0', 'token', 'dropped', 'recipe', 'dropped')
redis.call('PEXPIRE', KEYS[3], ARGV[6])
return { 'OK', moved }
