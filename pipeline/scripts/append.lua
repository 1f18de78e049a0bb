#!lua
-- Append one frame behind its producer's fence.
-- Keeps: sequences of a producer in this partition have no hole that is not counted as lost, and no event twice.
-- KEYS  1 stream  2 fence  3 counters
-- ARGV  1 producer  2 first_seq  3 events  4 lost  5 fence TTL in ms  6 codec  7 body
-- Answers  {OK, next, entry id} | {DUP, next} | {GAP, next} | {REFUSED, next} | {BAD, what}
-- Sequences stay below 2^53, where a double counts exactly; '%.0f' writes them without an exponent.

local function whole(text)
  return string.match(text, '^%d+$') and #text <= 16 and tonumber(text) or nil
end

local first, events, lost = whole(ARGV[2]), whole(ARGV[3]), whole(ARGV[4])
if not first or not events or not lost or events < 1 or first + events > 9007199254740992 then
  return { 'BAD', 'sequence' }
end
if not string.match(ARGV[1], '^%x+$') or #ARGV[1] ~= 32 then
  return { 'BAD', 'producer' }
end

local next_seq = tonumber(redis.call('HGET', KEYS[2], 'next') or '0')
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

-- Read what the writes below will touch: a wrong type must fail here, before anything is written.
redis.call('HMGET', KEYS[3], 'appended', 'frames', 'lost')

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
