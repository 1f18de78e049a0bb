#!lua
-- Append one frame behind its producer's fence.
-- Keeps: sequences of a producer in this partition have no hole that is not counted as lost, and no event twice; an
--        event that is backfilled is new once, however often and from however many files it comes.
-- KEYS  1 stream  2 fence  3 counters
--       4 ledger, for backfill alone: of the day that all events of the frame are of
-- ARGV  1 producer  2 first_seq  3 events (1-500)  4 lost  5 fence TTL in ms  6 codec  7 body
--       8 when the ledger expires (s)  9 digests of the events, 10 bytes each, in order
-- Answers  {OK, next, entry id} | {DUP, next} | {GAP, next} | {REFUSED, next} | {BAD, what}
--          of backfill {OK, next, entry id, known} | {DUP, next, '', known} | {KNOWN, next}: all its events were here
--          before; nothing is stored, and the frame has taken no sequences
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
if not ttl or ttl < 1000 or #ARGV ~= (KEYS[4] and 9 or 7) then
  return { 'BAD', 'arguments' }
end
local ledger_until = KEYS[4] and whole(ARGV[8], 11)
if KEYS[4] and (not ledger_until or ledger_until <= tonumber(redis.call('TIME')[1]) or #ARGV[9] ~= 10 * events) then
  return { 'BAD', 'ledger' }
end

-- The ledger is a hash: the first two bytes of a digest are its field, the other eight stand in the value, packed.
local function holds(packed, digest)
  local at = string.find(packed, digest, 1, true)
  while at and at % 8 ~= 1 do
    at = string.find(packed, digest, at + 1, true)
  end
  return at
end

-- Indexes of the events that were here before, or stand earlier in the frame, as they are written ('0-4,7'), how many
-- they are, and what of the ledger changes: field, value, ...
local function look_up()
  local values, names, changed = {}, {}, {}
  for at = 1, #ARGV[9], 10 do
    local name = string.sub(ARGV[9], at, at + 1)
    if not values[name] then
      values[name], names[#names + 1] = '', name
    end
  end
  for i, packed in ipairs(redis.call('HMGET', KEYS[4], unpack(names))) do
    values[names[i]] = packed or ''
  end
  local runs, known, from = {}, 0, nil
  for index = 0, events do
    local name = string.sub(ARGV[9], 10 * index + 1, 10 * index + 2)
    local digest = string.sub(ARGV[9], 10 * index + 3, 10 * index + 10)
    if index < events and holds(values[name], digest) then
      known, from = known + 1, from or index
    else
      if from then
        runs[#runs + 1] = from == index - 1 and from or from .. '-' .. index - 1
        from = nil
      end
      if index < events then
        values[name], changed[name] = values[name] .. digest, true
      end
    end
  end
  local fields = {}
  for _, name in ipairs(names) do
    if changed[name] then
      fields[#fields + 1] = name
      fields[#fields + 1] = values[name]
    end
  end
  return table.concat(runs, ','), known, fields
end

-- Read all that the writes below add to: what cannot be added to must fail here, before anything is written.
local fence = redis.call('HMGET', KEYS[2], 'next', 'accepted', 'lost', 'known')
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
  return KEYS[4] and { 'DUP', next_text, '', fence[4] or '0' } or { 'DUP', next_text }
end
if first < next_seq then
  return { 'REFUSED', next_text }
end
-- Behind DUP: what the first try of a frame has written is not to make its events known to the second.
local known_text, known, ledger = '', 0, nil
if KEYS[4] then
  known_text, known, ledger = look_up()
  if known == events then
    return { 'KNOWN', next_text }
  end
end
if first > next_seq and lost ~= first - next_seq then
  return { 'GAP', next_text }
end

-- The same commands as below with values that change nothing: a command that the server refuses to this user
-- (ACL, rename-command) is met before the entry is written, not behind it.
redis.call('HINCRBY', KEYS[3], 'lost', '0')
redis.call('HSET', KEYS[2], 'next', next_text)
redis.call('PEXPIRE', KEYS[2], ARGV[5])
if ledger then
  redis.call('EXPIREAT', KEYS[4], ARGV[8])
end

local entry = { 'p', ARGV[1], 's', ARGV[2], 'n', ARGV[3] }
if first > next_seq then
  entry[#entry + 1] = 'l'
  entry[#entry + 1] = ARGV[4]
end
if known > 0 then
  entry[#entry + 1] = 'k'
  entry[#entry + 1] = known_text
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
if ledger then
  redis.call('HSET', KEYS[2], 'known', known)
  redis.call('HSET', KEYS[4], unpack(ledger))
  redis.call('EXPIREAT', KEYS[4], ARGV[8])
  return { 'OK', next_text, id, string.format('%.0f', known) }
end
return { 'OK', next_text, id }
