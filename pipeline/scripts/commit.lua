#!lua flags=allow-oom
-- Commit one batch of one unit: its increments, its dead letters and its cursor, or nothing at all.
-- Keeps:
--   the cursor is the commit: from one cursor exactly one batch is ever applied;
--   everything that can fail is checked before the first write, for Lua does not roll back;
--   numbers that are added travel as decimal strings from the worker to HINCRBY; a double never holds them.
-- KEYS  1 stream  2 cursor  3 dead letters  4.. state keys, by position in the payload
-- ARGV  1 from id  2 from index  3 to id  4 to index  5 last whole entry  6 whole entries passed
--       7 producer of entry `to id`  8 its first sequence  9 from: stream | archive  10 recipe hash  11 group
--       12 committed  13 known  14 foreign  15 dead-lettered  16 payload
--       17.. dead letters: entry id, index, events, code, reason, raw (plain arguments, for cmsgpack knows no binary)
-- The payload is msgpack of nothing but arrays and strings, so no number passes through cmsgpack:
--   { {{key, expire_at_s, {field, delta, ...}}, ...},                               increments of hashes
--     {{key, ranking key, expire_at_s, cap, {{name, rank delta, {measure, delta, ...}}, ...}}, ...},   marginals
--     {{key, expire_at_s, keep, {member, score, ...}}, ...} }                       the largest of a window
-- Answers  {OK, deltas left out as expired} | {STALE, id, index} | {GONE} | {RECIPE, hash} | {OVERFLOW, field} | {BAD, what}

local OTHER = '__other__'
local MOST_DIGITS, MOST_DELTA_DIGITS = 18, 16
local AT_ONCE = 4000

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
  'entries')
if cursor[1] ~= ARGV[1] or cursor[2] ~= ARGV[2] then
  return { 'STALE', cursor[1] or '', cursor[2] or '' }
end
if cursor[3] ~= ARGV[10] then
  return { 'RECIPE', cursor[3] or '' }
end
for i = 4, 9 do
  if not whole(cursor[i] or '0', MOST_DIGITS) then
    return { 'BAD', KEYS[2] }
  end
end
for _, i in ipairs({ 2, 4, 6, 12, 13, 14, 15 }) do
  if not whole(ARGV[i], MOST_DELTA_DIGITS) then
    return { 'BAD', 'argument ' .. i }
  end
end
for _, i in ipairs({ 1, 3, 5 }) do
  if not string.match(ARGV[i], '^%d+%-%d+$') then
    return { 'BAD', 'argument ' .. i }
  end
end
if #ARGV < 16 or (#ARGV - 16) % 6 ~= 0 or (ARGV[9] ~= 'stream' and ARGV[9] ~= 'archive') then
  return { 'BAD', 'arguments' }
end
-- Index 0 stands behind the whole entry, any other inside it.
local from_index, to_index = tonumber(ARGV[2]), tonumber(ARGV[4])
local inside = ARGV[3] == ARGV[1] and from_index > 0 and (to_index == 0 or to_index > from_index)
if not inside and not behind(ARGV[3], ARGV[1]) then
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

local payload = cmsgpack.unpack(ARGV[16])
local now = tonumber(redis.call('TIME')[1])
local expired = 0
local kinds = {}

-- Whether the key of an operation may become what the operation needs: a state key, free or of that type.
local function usable(position, wanted)
  local key = whole(position, 5) and tonumber(position) >= 3 and KEYS[tonumber(position)]
  if not key then
    return false
  end
  if not kinds[key] then
    local kind = redis.call('TYPE', key).ok
    kinds[key] = kind == 'none' and wanted or kind
  end
  return kinds[key] == wanted
end

local function array(list)
  return type(list) == 'table' and (#list > 0 or next(list) == nil)
end

local function pairs_in(list)
  return array(list) and #list % 2 == 0
end

local function alive(expire_at, deltas)
  local at = tonumber(expire_at)
  if at ~= 0 and at <= now then
    expired = expired + deltas
    return false
  end
  return true
end

for part = 1, 3 do
  if type(payload) ~= 'table' or not array(payload[part]) then
    return { 'BAD', 'payload' }
  end
end

-- Plan: every hash increment as {key, expire_at, fields and deltas}, marginals included.
local hashes, ranks, largest = {}, {}, {}

for at, op in ipairs(payload[1]) do
  if not usable(op[1], 'hash') or not whole(op[2], 11) or not pairs_in(op[3]) then
    return { 'BAD', 'increments ' .. at }
  end
  if alive(op[2], #op[3] / 2) then
    hashes[#hashes + 1] = { KEYS[tonumber(op[1])], op[2], op[3] }
  end
end

for at, op in ipairs(payload[2]) do
  if not usable(op[1], 'hash') or not usable(op[2], 'zset') or not whole(op[3], 11) or not whole(op[4], 16)
    or not array(op[5]) then
    return { 'BAD', 'marginal ' .. at }
  end
  if alive(op[3], #op[5]) then
    local key, ranking = KEYS[tonumber(op[1])], KEYS[tonumber(op[2])]
    local cap, size, fields, rank = tonumber(op[4]), redis.call('ZCARD', ranking), {}, {}
    local admitted = {}
    for _, row in ipairs(op[5]) do
      local name = row[1]
      if type(name) ~= 'string' or not whole(row[2], 99) or not pairs_in(row[3]) then
        return { 'BAD', 'marginal ' .. at }
      end
      if #row[2] > MOST_DELTA_DIGITS then
        return { 'OVERFLOW', name }
      end
      if name ~= OTHER and not admitted[name] and not redis.call('ZSCORE', ranking, name) then
        if size >= cap then
          name = OTHER
        else
          size = size + 1
        end
      end
      if name ~= OTHER then
        admitted[name] = true
        rank[#rank + 1] = row[2]
        rank[#rank + 1] = name
      end
      for i = 1, #row[3], 2 do
        if type(row[3][i]) ~= 'string' then
          return { 'BAD', 'marginal ' .. at }
        end
        fields[#fields + 1] = name .. '\31' .. row[3][i]
        fields[#fields + 1] = row[3][i + 1]
      end
    end
    hashes[#hashes + 1] = { key, op[3], fields }
    ranks[#ranks + 1] = { ranking, op[3], rank }
  end
end

for at, op in ipairs(payload[3]) do
  if not usable(op[1], 'zset') or not whole(op[2], 11) or not whole(op[3], 9) or not pairs_in(op[4]) then
    return { 'BAD', 'largest ' .. at }
  end
  for i = 1, #op[4], 2 do
    if type(op[4][i]) ~= 'string' or not whole(op[4][i + 1], MOST_DELTA_DIGITS) then
      return { 'BAD', 'largest ' .. at }
    end
  end
  if alive(op[2], #op[4] / 2) then
    largest[#largest + 1] = { KEYS[tonumber(op[1])], op[2], op[3], op[4] }
  end
end

if not usable('3', 'stream') then
  return { 'BAD', KEYS[3] }
end

-- Validate the sums: a stored value is below 10^18 and all deltas of a commit together below 8 * 10^18,
-- so no field can pass 2^63, however often it comes (a double is good enough for this bound).
local total = 0
for _, op in ipairs(hashes) do
  local list = op[3]
  for from = 1, #list, 2 * AT_ONCE do
    local fields = {}
    for i = from, math.min(from + 2 * AT_ONCE - 1, #list), 2 do
      if type(list[i]) ~= 'string' then
        return { 'BAD', op[1] }
      end
      fields[#fields + 1] = list[i]
    end
    local values = redis.call('HMGET', op[1], unpack(fields))
    for i, value in ipairs(values) do
      local delta = list[from + 2 * i - 1]
      if not whole(delta, MOST_DELTA_DIGITS) or (value and not whole(value, MOST_DIGITS)) then
        local long = whole(delta, 99) and (not value or whole(value, 99))
        return { long and 'OVERFLOW' or 'BAD', fields[i] }
      end
      total = total + delta
      if total > 8e18 then
        return { 'OVERFLOW', fields[i] }
      end
    end
  end
end

-- Write. Nothing below can fail, except the first XADD (a stream whose ids are used up): so it comes first.
for i = 17, #ARGV, 6 do
  redis.call('XADD', KEYS[3], '*', 'entry', ARGV[i], 'index', ARGV[i + 1], 'events', ARGV[i + 2], 'code', ARGV[i + 3],
    'reason', ARGV[i + 4], 'raw', ARGV[i + 5])
end
for _, op in ipairs(hashes) do
  local key, list = op[1], op[3]
  for i = 1, #list, 2 do
    redis.call('HINCRBY', key, list[i], list[i + 1])
  end
  if op[2] ~= '0' then
    redis.call('EXPIREAT', key, op[2])
  end
end
for _, op in ipairs(ranks) do
  for i = 1, #op[3], 2 do
    redis.call('ZINCRBY', op[1], op[3][i], op[3][i + 1])
  end
  if op[2] ~= '0' then
    redis.call('EXPIREAT', op[1], op[2])
  end
end
for _, op in ipairs(largest) do
  for i = 1, #op[4], 2 do
    redis.call('ZADD', op[1], 'GT', op[4][i + 1], op[4][i])
  end
  redis.call('ZREMRANGEBYRANK', op[1], 0, -(tonumber(op[3]) + 1))
  if op[2] ~= '0' then
    redis.call('EXPIREAT', op[1], op[2])
  end
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[2], 'id', ARGV[3], 'index', ARGV[4], 'done', ARGV[5],
  'at', string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)))
redis.call('HINCRBY', KEYS[2], 'committed', ARGV[12])
redis.call('HINCRBY', KEYS[2], 'known', ARGV[13])
redis.call('HINCRBY', KEYS[2], 'foreign', ARGV[14])
redis.call('HINCRBY', KEYS[2], 'dead', ARGV[15])
redis.call('HINCRBY', KEYS[2], 'expired', string.format('%.0f', expired))
local entries = redis.call('HINCRBY', KEYS[2], 'entries', ARGV[6])

-- The group only mirrors the cursor for other people's tools: where it cannot, the commit stands all the same.
local mirrored = redis.pcall('XGROUP', 'SETID', KEYS[1], ARGV[11], ARGV[5], 'ENTRIESREAD', entries)
if type(mirrored) == 'table' and mirrored.err then
  redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[11], ARGV[5], 'ENTRIESREAD', entries)
end
return { 'OK', expired }
