#!lua flags=no-writes
-- Read one unit's account at one moment: its cursor, its partition's counters, and the events it has yet to read.
-- KEYS  1 stream  2 cursor  3 counters
-- ARGV  1 entries to count at most
-- Answers  {cursor as flat list, counters as flat list, fenced events, foreign events, 1 where there are more entries}

local AT_ONCE = 50

local function field(entry, name)
  for i = 1, #entry, 2 do
    if entry[i] == name then
      return entry[i + 1]
    end
  end
end

-- The same rules as pipeline/wire.py: what is fenced, and how many events an entry stands for.
local function is_fenced(entry)
  local producer = field(entry, 'p')
  return producer and #producer == 32 and string.match(producer, '^[0-9a-f]+$') ~= nil
end

local function events_of(entry)
  local text = field(entry, 'n') or '1'
  local events = string.match(text, '^[1-9]%d?%d?$') and tonumber(text) or 1
  return events <= 500 and events or 1
end

local cursor = redis.call('HGETALL', KEYS[2])
local place = redis.call('HMGET', KEYS[2], 'id', 'index')
local fenced, foreign, seen, more = 0, 0, 0, 0
if place[1] then
  local index = tonumber(place[2])
  local from = index > 0 and place[1] or '(' .. place[1]
  while true do
    local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', AT_ONCE)
    for _, entry in ipairs(entries) do
      if seen == tonumber(ARGV[1]) then
        more = 1
        break
      end
      seen = seen + 1
      local events = events_of(entry[2])
      if entry[1] == place[1] then
        events = events - index
      end
      if is_fenced(entry[2]) then
        fenced = fenced + events
      else
        foreign = foreign + events
      end
    end
    if more == 1 or #entries < AT_ONCE then
      break
    end
    from = '(' .. entries[#entries][1]
  end
end
return { cursor, redis.call('HGETALL', KEYS[3]), fenced, foreign, more }
