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

local cursor = redis.call('HMGET', KEYS[2], 'id', 'index', 'recipe')
if cursor[1] ~= ARGV[1] or cursor[2] ~= ARGV[2] then
  return { 'STALE', cursor[1] or '', cursor[2] or '' }
end
if cursor[3] ~= ARGV[10] then
  return { 'RECIPE', cursor[3] or '' }
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

local function wrong_type(key, wanted)
  local kind = redis.call('TYPE', key).ok
  return kind ~= 'none' and kind ~= wanted
end

local function alive(expire_at, deltas)
  local at = tonumber(expire_at)
  if at ~= 0 and at <= now then
    expired = expired + deltas
    return false
  end
  return true
end

-- Plan: every hash increment as {key, expire_at, fields and deltas}, marginals included.
local hashes, ranks, largest = {}, {}, {}

for _, op in ipairs(payload[1]) do
  if alive(op[2], #op[3] / 2) then
    hashes[#hashes + 1] = { KEYS[tonumber(op[1])], op[2], op[3] }
  end
end

for _, op in ipairs(payload[2]) do
  local key, ranking = KEYS[tonumber(op[1])], KEYS[tonumber(op[2])]
  if alive(op[3], #op[5]) then
    if wrong_type(ranking, 'zset') then
      return { 'BAD', ranking }
    end
    local cap, size, pairs_, rank = tonumber(op[4]), redis.call('ZCARD', ranking), {}, {}
    for _, row in ipairs(op[5]) do
      local name = row[1]
      if not redis.call('ZSCORE', ranking, name) then
        if size >= cap then
          name = OTHER
        else
          size = size + 1
        end
      end
      if name ~= OTHER then
        rank[#rank + 1] = row[2]
        rank[#rank + 1] = name
      end
      for i = 1, #row[3], 2 do
        pairs_[#pairs_ + 1] = name .. '\31' .. row[3][i]
        pairs_[#pairs_ + 1] = row[3][i + 1]
      end
    end
    hashes[#hashes + 1] = { key, op[3], pairs_ }
    ranks[#ranks + 1] = { ranking, op[3], rank }
  end
end

for _, op in ipairs(payload[3]) do
  if alive(op[2], #op[4] / 2) then
    largest[#largest + 1] = { KEYS[tonumber(op[1])], op[2], op[3], op[4] }
  end
end

-- Validate: types, then that no sum can pass 2^63.
if wrong_type(KEYS[3], 'stream') then
  return { 'BAD', KEYS[3] }
end
for _, op in ipairs(largest) do
  if wrong_type(op[1], 'zset') then
    return { 'BAD', op[1] }
  end
end
for _, op in ipairs(hashes) do
  if wrong_type(op[1], 'hash') then
    return { 'BAD', op[1] }
  end
  local list = op[3]
  for from = 1, #list, 2 * AT_ONCE do
    local fields = {}
    for i = from, math.min(from + 2 * AT_ONCE - 1, #list), 2 do
      fields[#fields + 1] = list[i]
    end
    local values = redis.call('HMGET', op[1], unpack(fields))
    for i, value in ipairs(values) do
      local delta = list[from + 2 * i - 1]
      if not string.match(delta, '^%d+$') or (value and not string.match(value, '^%d+$')) then
        return { 'BAD', fields[i] }
      end
      if #delta > MOST_DELTA_DIGITS or (value and #value > MOST_DIGITS) then
        return { 'OVERFLOW', fields[i] }
      end
    end
  end
end

-- Write. Nothing below can fail.
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
  redis.call('EXPIREAT', op[1], op[2])
end
for _, op in ipairs(largest) do
  for i = 1, #op[4], 2 do
    redis.call('ZADD', op[1], 'GT', op[4][i + 1], op[4][i])
  end
  redis.call('ZREMRANGEBYRANK', op[1], 0, -(tonumber(op[3]) + 1))
  redis.call('EXPIREAT', op[1], op[2])
end
for i = 17, #ARGV, 6 do
  redis.call('XADD', KEYS[3], '*', 'entry', ARGV[i], 'index', ARGV[i + 1], 'events', ARGV[i + 2], 'code', ARGV[i + 3],
    'reason', ARGV[i + 4], 'raw', ARGV[i + 5])
end

local time = redis.call('TIME')
redis.call('HSET', KEYS[2], 'id', ARGV[3], 'index', ARGV[4], 'done', ARGV[5],
  'at', string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)))
redis.call('HINCRBY', KEYS[2], 'committed', ARGV[12])
redis.call('HINCRBY', KEYS[2], 'known', ARGV[13])
redis.call('HINCRBY', KEYS[2], 'foreign', ARGV[14])
redis.call('HINCRBY', KEYS[2], 'dead', ARGV[15])
redis.call('HINCRBY', KEYS[2], 'expired', tostring(expired))
local entries = redis.call('HINCRBY', KEYS[2], 'entries', ARGV[6])

-- The group only mirrors the cursor for other people's tools: where it cannot, the commit stands all the same.
local mirrored = redis.pcall('XGROUP', 'SETID', KEYS[1], ARGV[11], ARGV[5], 'ENTRIESREAD', entries)
if type(mirrored) == 'table' and mirrored.err then
  redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[11], ARGV[5], 'ENTRIESREAD', entries)
end
return { 'OK', expired }
