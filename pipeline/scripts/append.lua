#!lua
-- Append one frame behind its producer's fence.
-- Keeps: sequences of a producer in this partition have no hole that is not counted as lost, and no event twice.
-- KEYS  1 stream  2 fence  3 counters
-- ARGV  1 producer  2 first_seq  3 events (1-500)  4 lost  5 fence TTL in ms  6 codec  7 body
-- Answers  {OK, next, entry id} | {DUP, next} | {GAP, next} | {REFUSED, next} | {BAD, what}
-- Sequences stay below 2^53, where a double counts exactly; '%.0f' writes them without an exponent.

-- A number as HINCRBY takes it: no sign, no leading zero, no exponent; nil for anything else.
local function whole(text, digits)
  return text and #text <= digits and (text == '0' or string.match(text, '^[1-9]%d*$')) and tonumber(text) or nil
end

local first, events, lost, ttl = whole(ARGV[2], 16), whole(ARGV[3], 16), whole(ARGV[4], 16), whole(ARGV[5], 16)
if not first or not events or not lost or events < 1 or events > 500 or first + events > 9007199254740992 then
  return { 'BAD', 'sequence' }
end
if #ARGV[1] ~= 32 or not string.match(ARGV[1], '^[0-9a-f]+$') or string.sub(KEYS[2], -32) ~= ARGV[1] then
  return { 'BAD', 'producer' }
end
if not ttl or ttl < 1000 or #ARGV ~= 7 then
  return { 'BAD', 'arguments' }
end

-- Read all that the writes below add to: what cannot be added to must fail here, before anything is written.
local fence = redis.call('HMGET', KEYS[2], 'next', 'accepted', 'lost')
local sums = redis.call('HMGET', KEYS[3], 'appended', 'frames', 'lost')
local next_seq = whole(fence[1] or '0', 16)
if not next_seq or not whole(fence[2] or '0', 18) or not whole(fence[3] or '0', 18) then
  return redis.error_reply('STATE the fence holds what is no number')
end
if not whole(sums[1] or '0', 18) or not whole(sums[2] or '0', 18) or not whole(sums[3] or '0', 18) then
  return redis.error_reply('STATE the counters hold what is no number')
end
local next_text = string.format('%.0f', next_seq)

if first + events <= next_seq then
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
  return { 'DUP', next_text }
end
if first < next_seq then
  return { 'REFUSED', next_text }
end
if first > next_seq and lost ~= first - next_seq then
  return { 'GAP', next_text }
end

-- The same commands as below with values that change nothing: a command that the server refuses to this user
-- (ACL, rename-command) is met before the entry is written, not behind it.
redis.call('HINCRBY', KEYS[3], 'lost', '0')
redis.call('HSET', KEYS[2], 'next', next_text)
redis.call('PEXPIRE', KEYS[2], ARGV[5])

local entry = { 'p', ARGV[1], 's', ARGV[2], 'n', ARGV[3] }
if first > next_seq then
  entry[#entry + 1] = 'l'
  entry[#entry + 1] = ARGV[4]
end
entry[#entry + 1] = 'c'
entry[#entry + 1] = ARGV[6]
entry[#entry + 1] = 'b'
entry[#entry + 1] = ARGV[7]
local id = redis.call('XADD', KEYS[1], '*', unpack(entry))

if first > next_seq then
  redis.call('HINCRBY', KEYS[2], 'lost', ARGV[4])
  redis.call('HINCRBY', KEYS[3], 'lost', ARGV[4])
end
next_text = string.format('%.0f', first + events)
redis.call('HSET', KEYS[2], 'next', next_text)
redis.call('HINCRBY', KEYS[2], 'accepted', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call('HINCRBY', KEYS[3], 'appended', ARGV[3])
redis.call('HINCRBY', KEYS[3], 'frames', '1')
return { 'OK', next_text, id }
