#!lua flags=allow-oom
-- Trim one partition's stream: its oldest entries that nobody needs any more, a bounded number a call.
-- Keeps:
--   no entry goes that a declared fold handler, of whatever version, has not taken whole;
--   an entry that a sink has not taken goes only beyond the sink's budget: then the sink's cursor moves behind it, and its
--   events are counted as skipped, so that every event of every unit still has its place; an archive likewise, by a
--   budget of its own;
--   a replay that answers for nothing yet holds the stream like a fold handler, but while memory is short it is passed;
--   everything that can fail is checked before the first write, for Lua does not roll back.
-- KEYS  1 stream  2 counters  3 handlers  4.. cursors of all declared units
-- ARGV  1 ms that an entry is kept, whoever has taken it  2 ms and 3 bytes of the stream that a sink may hold
--       4 ms and 5 bytes that an archive may hold
--       6 whether memory is short (1)  7 most entries  8 most bytes of entries to look through
--       9.. names of the declared units, as their cursors
-- Answers  {OK, entries, events, of these foreign, 1 where a bound ended the call else 0, unit, events it was passed, ...}
--          | {CHANGED}: other units are declared by now  | {BAD, what}
-- Counters: `trimmed` are events that were appended, `trimmed_foreign` the others.

-- Entries of one read: the largest have 1 MiB, and a script holds what it has read.
local AT_ONCE = 8
local FIXED_KEYS, FIXED_ARGS = 3, 8

local match = string.match

-- A number as HINCRBY takes it, below 10^`digits`; nil for anything else.
local function whole(text, digits)
  return type(text) == 'string' and #text <= digits and (text == '0' or match(text, '^[1-9]%d*$')) and tonumber(text) or nil
end

local function decimal(number)
  return string.format('%.0f', number)
end

-- Whether entry id `left` stands behind `right`; as text, for a part of an id may pass 2^53.
local function behind(left, right)
  local left_ms, left_seq = match(left, '^(%d+)%-(%d+)$')
  local right_ms, right_seq = match(right, '^(%d+)%-(%d+)$')
  if #left_ms ~= #right_ms then return #left_ms > #right_ms end
  if left_ms ~= right_ms then return left_ms > right_ms end
  if #left_seq ~= #right_seq then return #left_seq > #right_seq end
  return left_seq > right_seq
end

local function flat_of(list)
  local fields = {}
  for i = 1, #list, 2 do
    fields[list[i]] = list[i + 1]
  end
  return fields
end

-- Events that an entry stands for, and whether it is foreign: as pipeline.wire.entry_count and entry_producer have it.
local function events_of(fields)
  local count = fields['n'] or '1'
  local events = #count <= 3 and match(count, '^[1-9]%d*$') and tonumber(count) or 1
  local producer = fields['p'] or ''
  local fenced = #producer == 32 and match(producer, '^[0-9a-f]+$')
  return events > 500 and 1 or events, not fenced
end

-- Look at everything that the writes below touch.
for i = 1, FIXED_ARGS do
  if not whole(ARGV[i], 15) then
    return { 'BAD', 'argument ' .. i }
  end
end
if #KEYS < FIXED_KEYS or #KEYS - FIXED_KEYS ~= #ARGV - FIXED_ARGS then
  return { 'BAD', 'arguments' }
end
for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= (i == 1 and 'stream' or 'hash') then
    return { 'BAD', KEYS[i] }
  end
end
local counters = redis.call('HMGET', KEYS[2], 'trimmed', 'trimmed_foreign')
if not whole(counters[1] or '0', 18) or not whole(counters[2] or '0', 18) then
  return { 'BAD', KEYS[2] }
end
local kinds = flat_of(redis.call('HGETALL', KEYS[3]))
if redis.call('HLEN', KEYS[3]) ~= #ARGV - FIXED_ARGS then
  return { 'CHANGED' }
end

-- Whoever delivers holds entries for so many ms, and so many bytes of the stream.
local BUDGETS = {
  sink = { ms = tonumber(ARGV[2]), bytes = tonumber(ARGV[3]) },
  archive = { ms = tonumber(ARGV[4]), bytes = tonumber(ARGV[5]) },
  replay = ARGV[6] == '1' and { ms = 0, bytes = 0 } or nil,
}

-- The last id that no fold handler needs (nil: there is none), and the sinks, each with what a pass would change.
local last, sinks = nil, {}
for i = FIXED_KEYS + 1, #KEYS do
  local name = ARGV[i - FIXED_KEYS + FIXED_ARGS]
  local kind = kinds[name]
  if not kind then
    return { 'CHANGED' }
  end
  local cursor = redis.call('HMGET', KEYS[i], 'id', 'index', 'done', 'entries', 'skipped', 'foreign')
  local declared = cursor[1] or cursor[3]
  if declared then
    if not match(cursor[1] or '', '^%d+%-%d+$') or not match(cursor[3] or '', '^%d+%-%d+$') or not whole(cursor[2], 9)
      or not whole(cursor[4] or '0', 15) or not whole(cursor[5] or '0', 18) or not whole(cursor[6] or '0', 18) then
      return { 'BAD', KEYS[i] }
    end
  end
  if not BUDGETS[kind] then
    -- Without its cursor it will begin anew, with the oldest entry.
    local done = declared and cursor[3] or '0-0'
    if not last or behind(last, done) then
      last = done
    end
  elseif declared then
    sinks[#sinks + 1] = { key = KEYS[i], name = name, id = cursor[1], index = tonumber(cursor[2]), done = cursor[3],
      entries = tonumber(cursor[4] or '0'), passed = 0, events = 0, foreign = 0, budget = BUDGETS[kind] }
  end
end
if #KEYS == FIXED_KEYS or redis.call('EXISTS', KEYS[1]) == 0 then
  return { 'OK', 0, 0, 0, 0 }
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
-- An id of milliseconds alone stands behind all entries of them.
local upto = decimal(math.max(0, now - tonumber(ARGV[1])))
if last and not behind(last, upto .. '-18446744073709551615') then
  upto = last
end

-- Entries that a sink may leave unread: as many as take its bytes of the server's memory, by their mean.
local added, length, used

local function weigh()
  local facts = flat_of(redis.call('XINFO', 'STREAM', KEYS[1]))
  added, length, used = facts['entries-added'], facts['length'], redis.pcall('MEMORY', 'USAGE', KEYS[1])
end

local function may_leave(sink)
  -- Where the server keeps its memory to itself, age alone is the budget.
  return type(used) == 'number' and used > 0 and math.floor(sink.budget.bytes * length / used) or added
end

local function beyond_budget(sink, id)
  if not added then
    weigh()
  end
  return tonumber(match(id, '^%d+')) <= now - sink.budget.ms or added - sink.entries - sink.passed > may_leave(sink)
end

-- The sinks that would be passed if an entry went; nil where one of them may still hold it.
local function passed_with(id)
  local unread = {}
  for _, sink in ipairs(sinks) do
    if behind(id, sink.done) then
      if not beyond_budget(sink, id) then
        return nil
      end
      unread[#unread + 1] = sink
    end
  end
  return unread
end

-- Plan: walk the oldest entries up to one that must stay.
local most_entries, most_bytes = tonumber(ARGV[7]), tonumber(ARGV[8])
local entries, events, foreign, bytes, more, trimmed_to = 0, 0, 0, 0, 0, nil
local from, ended = '-', false
repeat
  local rows = redis.call('XRANGE', KEYS[1], from, upto, 'COUNT', AT_ONCE)
  ended = #rows < AT_ONCE
  for _, row in ipairs(rows) do
    local id = row[1]
    local unread = passed_with(id)
    if not unread or entries >= most_entries or bytes >= most_bytes then
      more, ended = unread and 1 or 0, true
      break
    end
    local count, is_foreign = events_of(flat_of(row[2]))
    for _, sink in ipairs(unread) do
      -- A cursor inside the entry has taken the first `index` events of it.
      local left = id == sink.id and math.max(0, count - sink.index) or count
      sink.passed, sink.events, sink.done = sink.passed + 1, sink.events + left, id
      sink.foreign = sink.foreign + (is_foreign and left or 0)
    end
    entries, events, foreign = entries + 1, events + count, foreign + (is_foreign and count or 0)
    for i = 2, #row[2], 2 do
      bytes = bytes + #row[2][i]
    end
    trimmed_to, from = id, '(' .. id
  end
until ended
if not trimmed_to then
  return { 'OK', 0, 0, 0, more }
end
local kept = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 1)[1]

-- The same commands as below with values that change nothing: a command that the server refuses to this user
-- (ACL, rename-command) is met before anything is trimmed, not behind it.
redis.call('HINCRBY', KEYS[2], 'trimmed', '0')
for _, sink in ipairs(sinks) do
  if sink.passed > 0 then
    redis.call('HSET', sink.key, 'id', sink.id)
  end
end

-- Write. Nothing below can fail.
redis.call('XTRIM', KEYS[1], 'MINID', '=', kept and kept[1] or match(trimmed_to, '^%d+%-') .. '18446744073709551615')
redis.call('HINCRBY', KEYS[2], 'trimmed', decimal(events - foreign))
redis.call('HINCRBY', KEYS[2], 'trimmed_foreign', decimal(foreign))
local answer = { 'OK', entries, events, foreign, more }
for _, sink in ipairs(sinks) do
  if sink.passed > 0 then
    redis.call('HSET', sink.key, 'id', sink.done, 'index', '0', 'done', sink.done)
    redis.call('HINCRBY', sink.key, 'skipped', decimal(sink.events))
    redis.call('HINCRBY', sink.key, 'foreign', decimal(sink.foreign))
    local read = redis.call('HINCRBY', sink.key, 'entries', decimal(sink.passed))
    -- The group only mirrors the cursor for other people's tools: where it cannot, the pass stands all the same.
    local mirrored = redis.pcall('XGROUP', 'SETID', KEYS[1], sink.name, sink.done, 'ENTRIESREAD', read)
    if type(mirrored) == 'table' and mirrored.err then
      redis.pcall('XGROUP', 'CREATE', KEYS[1], sink.name, sink.done, 'ENTRIESREAD', read)
    end
    answer[#answer + 1] = sink.name
    answer[#answer + 1] = sink.events
  end
end
return answer
