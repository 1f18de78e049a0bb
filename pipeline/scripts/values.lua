#!lua flags=no-writes
-- Read values of one unit's state, if it is still the state that a token names.
-- Keeps: what is returned is of one instant, and of the state that the token names: a server that is put back to an
--        older state between two reads cannot mix them.
-- KEYS  1 cursor  2.. hashes of the unit, one a look
-- ARGV  1 token  then for each look how many fields, and the fields; 'all' and 'size' stand for every field, and for how many
-- Answers  {OK, reply of each look ...} | {STALE} | {BAD, what}

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return { 'STALE' }
end
local answers, at = { 'OK' }, 2
for i = 2, #KEYS do
  local what = ARGV[at]
  if what == 'all' then
    answers[#answers + 1] = redis.call('HGETALL', KEYS[i])
    at = at + 1
  elseif what == 'size' then
    answers[#answers + 1] = redis.call('HLEN', KEYS[i])
    at = at + 1
  else
    local fields = tonumber(what)
    if not fields or fields < 1 or fields > 4000 or at + fields > #ARGV then
      return { 'BAD', 'look ' .. (i - 1) }
    end
    answers[#answers + 1] = redis.call('HMGET', KEYS[i], unpack(ARGV, at + 1, at + fields))
    at = at + fields + 1
  end
end
return answers
