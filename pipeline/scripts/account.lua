#!lua flags=no-writes
-- Account for one unit: its cursor, its partition's counters and its unread events, all of one instant.
-- Keeps: unread events are counted from the entries themselves, never reckoned from the counters they are held against.
-- KEYS  1 stream  2 cursor  3 counters  4 dead letters
-- ARGV  1 group  2 most entries to count  3 most bytes of entries to look through
-- Answers  {now in ms, cursor as flat list, counters as flat list, dead letters, group lag or false,
--           unread entries, unread events, of these foreign, 1 where a bound ended the count else 0,
--           id of the oldest entry not wholly read, or ''}

-- Entries of one read: the largest have 1 MiB, and a script holds what it has read.
local AT_ONCE = 8

local function flat_of(list)
  local fields = {}
  for i = 1, #list, 2 do
    fields[list[i]] = list[i + 1]
  end
  return fields
end

-- Events that an entry stands for: as pipeline.wire.entry_count and entry_producer have it.
local function events_of(fields)
  local count = fields['n'] or '1'
  local events = #count <= 3 and string.match(count, '^[1-9]%d*$') and tonumber(count) or 1
  local producer = fields['p'] or ''
  local fenced = #producer == 32 and string.match(producer, '^[0-9a-f]+$')
  return events > 500 and 1 or events, not fenced
end

local function lag_of(group)
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
  for _, raw in ipairs(groups.err and {} or groups) do
    local facts = flat_of(raw)
    if facts['name'] == group then
      return facts['lag'] or false
    end
  end
  return false
end

local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
local cursor_flat = redis.call('HGETALL', KEYS[2])
local cursor = flat_of(cursor_flat)

-- A cursor inside an entry has taken the first `index` events of it.
local at, taken = cursor['id'] or '0-0', tonumber(cursor['index'] or '0')
local from = taken > 0 and at or '(' .. at
local entries, events, foreign, bytes, bounded, oldest = 0, 0, 0, 0, 0, ''
repeat
  local rows = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', AT_ONCE)
  for _, row in ipairs(rows) do
    if entries >= tonumber(ARGV[2]) or bytes >= tonumber(ARGV[3]) then
      bounded = 1
      break
    end
    local fields = flat_of(row[2])
    local count, is_foreign = events_of(fields)
    local left = row[1] == at and math.max(0, count - taken) or count
    entries, events = entries + 1, events + left
    foreign = foreign + (is_foreign and left or 0)
    bytes = bytes + #(fields['b'] or '')
    oldest = oldest == '' and row[1] or oldest
    from = '(' .. row[1]
  end
until bounded == 1 or #rows < AT_ONCE

return {
  now, cursor_flat, redis.call('HGETALL', KEYS[3]), redis.call('XLEN', KEYS[4]), lag_of(ARGV[1]),
  entries, events, foreign, bounded, oldest,
}
