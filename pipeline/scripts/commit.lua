#!lua flags=allow-oom
-- Commit one batch of one unit: its new values, its dead letters and its cursor, or nothing at all. The batch is of the
-- stream or of an archive, or of dead letters that are taken back: then the cursor stays, and each letter goes as its
-- events are counted.
-- Keeps:
--   the cursor is the commit: from one cursor exactly one batch is ever applied;
--   the token names the state: values are written only over the state that they were made from;
--   everything that can fail is checked before the first write, for Lua does not roll back;
--   what an archive gives lies below the join, and is no more among the events before the unit;
--   values are opaque here, and counters travel as decimal strings from the worker to HINCRBY: no double holds them.
-- KEYS  1 stream  2 cursor  3 dead letters  4.. state keys, by position
-- ARGV  1 from id  2 from index  3 to id  4 to index  5 last whole entry
--       6 whole entries passed; where an archive ends, the events of other days that it has below the join
--       7 producer of entry `to id`  8 its first sequence  9 from: stream | archive | letters  10 recipe hash  11 group
--       12 committed  13 known  14 foreign  15 dead-lettered  16 token of the state  17 token of the state to be
--       18 most bytes of dead letters' bodies: above it they are cut
--       19 dead letters, how many, each: entry id, index, events, code, reason, producer, first sequence, codec, body
--       then dead letters taken back, how many, events they stand for, each: id
--       then hashes, how many, each: key, expire at (s; 0: never), fields, (field, value) ...
--       then sorted sets, how many, each: key, expire at, members to keep, members, (member, score) ...: the largest stay
-- Answers  {OK, values left out as expired, fields that are new} | {STALE, id, index} | {GONE} | {RECIPE, hash}
--          | {TAKEN, id of a dead letter that is no more there} | {BAD, what}

local MOST_DIGITS, MOST_DELTA_DIGITS = 18, 16
local AT_ONCE = 4000 -- arguments of one command: Lua's stack holds 8,000

local match = string.match

-- A number as HINCRBY takes it: no sign, no leading zero, no exponent, no number of Lua's.
local function whole(text, digits)
  return type(text) == 'string' and #text <= digits and (match(text, '^[1-9]%d*$') ~= nil or text == '0')
end

-- Whether entry id `left` stands behind `right`; as text, for a part of an id may pass 2^53.
local function behind(left, right)
  local left_ms, left_seq = string.match(left, '^(%d+)%-(%d+)$')
  local right_ms, right_seq = string.match(right, '^(%d+)%-(%d+)$')
  if #left_ms ~= #right_ms then return #left_ms > #right_ms end
  if left_ms ~= right_ms then return left_ms > right_ms end
  if #left_seq ~= #right_seq then return #left_seq > #right_seq end
  return left_seq > right_seq
end

local cursor = redis.call('HMGET', KEYS[2], 'id', 'index', 'recipe', 'committed', 'known', 'foreign', 'dead', 'expired',
  'entries', 'token', 'at', 'dead_bytes', 'base', 'join')
if cursor[1] ~= ARGV[1] or cursor[2] ~= ARGV[2] or cursor[10] ~= ARGV[16] then
  return { 'STALE', cursor[1] or '', cursor[2] or '' }
end
if cursor[3] ~= ARGV[10] then
  return { 'RECIPE', cursor[3] or '' }
end
for i = 4, 12 do
  if i ~= 10 and not whole(cursor[i] or '0', MOST_DIGITS) then
    return { 'BAD', KEYS[2] }
  end
end
for _, i in ipairs({ 2, 4, 6, 12, 13, 14, 15, 18 }) do
  if not whole(ARGV[i], MOST_DELTA_DIGITS) then
    return { 'BAD', 'argument ' .. i }
  end
end
for _, i in ipairs({ 1, 3, 5 }) do
  if not string.match(ARGV[i], '^%d+%-%d+$') then
    return { 'BAD', 'argument ' .. i }
  end
end
if #ARGV[17] ~= 32 or ARGV[17] == ARGV[16] or (ARGV[9] ~= 'stream' and ARGV[9] ~= 'archive' and ARGV[9] ~= 'letters') then
  return { 'BAD', 'arguments' }
end
-- Index 0 stands behind the whole entry, any other inside it.
local from_index, to_index = tonumber(ARGV[2]), tonumber(ARGV[4])
local inside = ARGV[3] == ARGV[1] and from_index > 0 and (to_index == 0 or to_index > from_index)
local of_letters = ARGV[9] == 'letters'
if of_letters and (ARGV[3] ~= ARGV[1] or from_index ~= to_index) then
  return { 'BAD', 'letters move no cursor' }
end
-- Who moves without an event has reached the archive's end: from there on the stream gives the entries.
local joins = ARGV[9] == 'archive' and ARGV[12] == '0' and ARGV[13] == '0' and ARGV[15] == '0' and to_index == 0
if not of_letters and not inside and not behind(ARGV[3], ARGV[1]) and not (joins and ARGV[3] == ARGV[1]) then
  return { 'BAD', 'the cursor would go back' }
end
if ARGV[9] == 'stream' then
  local found = redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[3])[1]
  if not found then
    return { 'GONE' }
  end
  local producer, first = '', '0'
  for i = 1, #found[2], 2 do
    if found[2][i] == 'p' then producer = found[2][i + 1] end
    if found[2][i] == 's' then first = found[2][i + 1] end
  end
  if producer ~= ARGV[7] or first ~= ARGV[8] then
    return { 'GONE' }
  end
end
local of_archive = ARGV[9] == 'archive'
if of_archive then
  if not match(cursor[13] or '', '^%-?%d+$') or #cursor[13] > MOST_DIGITS then
    return { 'BAD', KEYS[2] }
  end
  if not match(cursor[14] or '', '^%d+%-%d+$') or not behind(cursor[14], ARGV[3]) then
    return { 'BAD', 'at and behind the join entries come from the stream' }
  end
end

-- Plan: walk the arguments once, and look at everything that a write could fail for.
-- A clock that goes back brings no window back that was passed over.
local now = math.max(tonumber(redis.call('TIME')[1]), math.floor(tonumber(cursor[11] or '0') / 1000))
local expired = 0
local kinds = {}
local at = 19

local function number(digits)
  local text = ARGV[at]
  at = at + 1
  return whole(text, digits) and tonumber(text) or nil
end

-- The key at a position: a state key, free or of the wanted type; nil for anything else.
local function usable(position, wanted)
  local key = position and position >= 3 and KEYS[position]
  if not key then
    return nil
  end
  if not kinds[key] then
    local kind = redis.call('TYPE', key).ok
    kinds[key] = kind == 'none' and wanted or kind
  end
  return kinds[key] == wanted and key or nil
end

local function alive(expire_at, values)
  if expire_at ~= 0 and expire_at <= now then
    expired = expired + values
    return false
  end
  return true
end

local letters = number(6)
local letters_from = at
if not letters or not usable(3, 'stream') then
  return { 'BAD', 'dead letters' }
end
at = at + 9 * letters
local dead_bytes = tonumber(cursor[12] or '0')

local taken, taken_events = number(6), number(9)
local taken_from = at
if not taken or not taken_events or (taken > 0) ~= of_letters or at + taken - 1 > #ARGV then
  return { 'BAD', 'dead letters taken back' }
end
for i = at, at + taken - 1 do
  local found = match(ARGV[i], '^%d+%-%d+$') and redis.call('XRANGE', KEYS[3], ARGV[i], ARGV[i])[1]
  if not found then
    return { 'TAKEN', ARGV[i] }
  end
  for j = 1, #found[2], 2 do
    if found[2][j] == 'body' then dead_bytes = dead_bytes - #found[2][j + 1] end
  end
end
if #(cursor[7] or '0') < 16 and taken_events > tonumber(cursor[7] or '0') then
  return { 'BAD', 'more dead letters than there are' }
end
at = at + taken

local hashes, largest = {}, {}
local count = number(6)
if not count then
  return { 'BAD', 'hashes' }
end
for i = 1, count do
  local key, expire_at, fields = usable(number(6), 'hash'), number(11), number(7)
  if not key or not expire_at or not fields or fields < 1 or at + 2 * fields - 1 > #ARGV then
    return { 'BAD', 'hash ' .. i }
  end
  if alive(expire_at, fields) then
    hashes[#hashes + 1] = { key, expire_at, at, at + 2 * fields - 1 }
  end
  at = at + 2 * fields
end

count = number(6)
if not count then
  return { 'BAD', 'sorted sets' }
end
for i = 1, count do
  local key, expire_at, keep, members = usable(number(6), 'zset'), number(11), number(9), number(7)
  if not key or not expire_at or not keep or not members or members < 1 or at + 2 * members - 1 > #ARGV then
    return { 'BAD', 'sorted set ' .. i }
  end
  for j = at + 1, at + 2 * members - 1, 2 do
    if not whole(ARGV[j], MOST_DIGITS + 1) then
      return { 'BAD', 'sorted set ' .. i }
    end
  end
  if alive(expire_at, members) then
    largest[#largest + 1] = { key, expire_at, keep, at, at + 2 * members - 1 }
  end
  at = at + 2 * members
end
if at ~= #ARGV + 1 then
  return { 'BAD', 'arguments' }
end

-- Write. Nothing below can fail, except the first XADD (a stream whose ids are used up): so it comes first.
for i = letters_from, letters_from + 9 * letters - 1, 9 do
  local body = ARGV[i + 8]
  local cut = dead_bytes + #body > tonumber(ARGV[18])
  dead_bytes = dead_bytes + (cut and 0 or #body)
  redis.call('XADD', KEYS[3], '*', 'entry', ARGV[i], 'index', ARGV[i + 1], 'events', ARGV[i + 2], 'code', ARGV[i + 3],
    'reason', ARGV[i + 4], 'producer', ARGV[i + 5], 'first', ARGV[i + 6], 'codec', ARGV[i + 7], 'body', cut and '' or body)
end
for i = taken_from, taken_from + taken - 1 do
  redis.call('XDEL', KEYS[3], ARGV[i])
end
local created = 0
for _, op in ipairs(hashes) do
  for i = op[3], op[4], AT_ONCE do
    created = created + redis.call('HSET', op[1], unpack(ARGV, i, math.min(i + AT_ONCE - 1, op[4])))
  end
  if op[2] ~= 0 then
    redis.call('EXPIREAT', op[1], string.format('%.0f', op[2]))
  end
end
for _, op in ipairs(largest) do
  for i = op[4], op[5], 2 do
    redis.call('ZADD', op[1], 'GT', ARGV[i + 1], ARGV[i])
  end
  redis.call('ZREMRANGEBYRANK', op[1], 0, string.format('%.0f', -(op[3] + 1)))
  if op[2] ~= 0 then
    redis.call('EXPIREAT', op[1], string.format('%.0f', op[2]))
  end
end
redis.call('HSET', KEYS[2], 'token', ARGV[17], 'dead_bytes', string.format('%.0f', math.max(0, dead_bytes)))
redis.call('HINCRBY', KEYS[2], 'committed', ARGV[12])
redis.call('HINCRBY', KEYS[2], 'known', ARGV[13])
redis.call('HINCRBY', KEYS[2], 'foreign', ARGV[14])
redis.call('HINCRBY', KEYS[2], 'dead', ARGV[15])
redis.call('HINCRBY', KEYS[2], 'expired', string.format('%.0f', expired))
if of_letters then
  redis.call('HINCRBY', KEYS[2], 'dead', string.format('%.0f', -taken_events))
  return { 'OK', expired, created }
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[2], 'id', ARGV[3], 'index', ARGV[4], 'done', ARGV[5], 'starts', '0',
  'at', string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)))
if of_archive then
  -- They were among the events before it, and among the entries that the group counts as read.
  if joins then
    redis.call('HSET', KEYS[2], 'joined', cursor[14])
    redis.call('HDEL', KEYS[2], 'join')
    -- What is left before it and is not of other days was in no archive, or in a damaged part of it.
    local missing = math.max(0, tonumber(cursor[13]) - tonumber(ARGV[6]))
    if missing > 0 then
      redis.call('HINCRBY', KEYS[2], 'base', string.format('%.0f', -missing))
      redis.call('HINCRBY', KEYS[2], 'skipped', string.format('%.0f', missing))
      redis.call('HINCRBY', KEYS[2], 'lacks', string.format('%.0f', missing))
    end
    if missing == 0 and redis.call('HGET', KEYS[2], 'skipped') == '0' then
      redis.call('HSET', KEYS[2], 'since', '0')
    end
  end
  for _, i in ipairs({ 12, 13, 15 }) do
    if ARGV[i] ~= '0' then
      redis.call('HINCRBY', KEYS[2], 'base', '-' .. ARGV[i])
    end
  end
  redis.call('HINCRBY', KEYS[2], 'base', ARGV[14])
  return { 'OK', expired, created }
end
local entries = redis.call('HINCRBY', KEYS[2], 'entries', ARGV[6])

-- The group only mirrors the cursor for other people's tools: where it cannot, the commit stands all the same.
local mirrored = redis.pcall('XGROUP', 'SETID', KEYS[1], ARGV[11], ARGV[5], 'ENTRIESREAD', entries)
if type(mirrored) == 'table' and mirrored.err then
  redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[11], ARGV[5], 'ENTRIESREAD', entries)
end
return { 'OK', expired, created }
