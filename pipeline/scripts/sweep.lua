#!lua flags=allow-oom
-- Delete keys of the state of a unit that has been retired.
-- Keeps: the state of a unit that has a cursor is left alone: cursor and state live and die together.
-- KEYS  1 cursor  2.. keys of the state
-- Answers  {OK, keys deleted} | {DECLARED}: somebody has begun anew

if redis.call('EXISTS', KEYS[1]) == 1 then
  return { 'DECLARED' }
end
local gone = 0
for i = 2, #KEYS do
  gone = gone + redis.call('UNLINK', KEYS[i])
end
return { 'OK', gone }
