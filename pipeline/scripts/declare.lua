#!lua flags=allow-oom
-- Declare a unit: make its cursor where there is none, and see that it goes on with one recipe at a time.
-- Keeps: a cursor is made once, with the days that it counts; a recipe that has been replaced never comes back by
--        itself; `starts` of the cursor counts
--        the owners that took it over while entries waited, one after another, since somebody brought it there.
-- KEYS  1 stream  2 cursor  3 recipes  4 handlers  5 counters
-- ARGV  1 unit name  2 kind  3 start: oldest | end | archive (then `join` is where the stream goes on)
--       4 recipe hash  5 recipe  6 group
--       7 what to do where another recipe has replaced this one: leave | adopt (an operator rolls back a deploy)
--       8 token of the state, where this makes it  9 owner: the worker that begins, once however often it asks
--       10 and 11 days of event time that are counted, from and until (s; 0: an open end)
--       12 with the start `archive`: ms of its first entry, '' where it has none  13 events that it was passed by
--       14 last entry that it has committed, '' where it never did  15 ms since when it archives this stream
--       16 which version this is, of all that ever had its number, '' where nobody asks
-- Answers  {OK | OLDER | DROPPED | OTHER, cursor hash as flat list}

local function now_ms()
  local time = redis.call('TIME')
  return string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
end

local function stream_facts()
  local facts = { ['entries-added'] = 0, ['length'] = 0, ['last-generated-id'] = '0-0' }
  if redis.call('EXISTS', KEYS[1]) == 1 then
    local raw = redis.call('XINFO', 'STREAM', KEYS[1])
    for i = 1, #raw, 2 do
      facts[raw[i]] = raw[i + 1]
    end
  end
  return facts
end

local function start_at(facts)
  if ARGV[3] == 'end' then
    local appended = redis.call('HGET', KEYS[5], 'appended') or '0'
    return facts['last-generated-id'], appended, facts['entries-added'], now_ms()
  end
  local trimmed = redis.call('HGET', KEYS[5], 'trimmed') or '0'
  local since, join = '0', nil
  if trimmed ~= '0' or facts['entries-added'] > facts['length'] then
    local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
    since = oldest[1] and string.match(oldest[1][1], '^%d+') or now_ms()
  end
  if ARGV[3] == 'archive' then
    local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
    if oldest then
      join = oldest[1]
    elseif facts['last-generated-id'] ~= '0-0' then
      local ms, seq = string.match(facts['last-generated-id'], '^(%d+)%-(%d+)$')
      local behind_it = ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
      join = #seq < 15 and behind_it or string.format('%.0f', tonumber(ms) + 1) .. '-0'
    else
      -- Made by a group alone, or not there: no entry was ever appended.
      join = now_ms() .. '-0'
    end
    local archived = tonumber(ARGV[12])
    since = archived and archived < tonumber(since) and ARGV[12] or since
    return '0-0', trimmed, facts['entries-added'] - facts['length'], since, join
  end
  -- Where nothing is left, the oldest is what comes next: it stands where everybody stands who has taken all.
  local id = facts['length'] > 0 and '0-0' or facts['last-generated-id']
  return id, trimmed, facts['entries-added'] - facts['length'], since
end

-- Read what is written below: a wrong type must fail here, before anything is.
redis.call('LLEN', KEYS[3])
redis.call('HLEN', KEYS[4])
local before = redis.call('HMGET', KEYS[2], 'id', 'index', 'starts', 'starter')
local is_new = redis.call('EXISTS', KEYS[2]) == 0
-- What is being dropped must not be declared again: it would hold the stream for ever.
if redis.call('HGET', KEYS[2], 'recipe') == 'dropped' then
  return { 'DROPPED', redis.call('HGETALL', KEYS[2]) }
end
-- The document of versions was lost, and has given the number anew.
local born = redis.call('HGET', KEYS[2], 'born')
if not is_new and ARGV[16] ~= '' and born ~= ARGV[16] then
  return { 'OTHER', redis.call('HGETALL', KEYS[2]) }
end
local id, base, entries, since, join = before[1], nil, nil, nil, nil
if is_new then
  id, base, entries, since, join = start_at(stream_facts())
end
local inside = (before[2] or '0') ~= '0'
local archived = join or redis.call('HEXISTS', KEYS[2], 'join') == 1
local waiting = inside or archived or (id and #redis.call('XRANGE', KEYS[1], '(' .. id, '+', 'COUNT', 1) > 0)

if is_new then
  redis.call('HSET', KEYS[2], 'id', id, 'index', '0', 'done', id, 'base', base, 'entries', entries, 'since', since,
    'declared', now_ms(), 'at', now_ms(), 'recipe', ARGV[4], 'committed', '0', 'known', '0', 'foreign', '0',
    'dead', '0', 'skipped', '0', 'expired', '0', 'token', ARGV[8], 'days_from', ARGV[10], 'days_until', ARGV[11])
  if join then
    redis.call('HSET', KEYS[2], 'join', join, 'archived', ARGV[14], 'archived_since', ARGV[15], 'skipped', ARGV[13],
      'lacks', ARGV[13])
    redis.call('HINCRBY', KEYS[2], 'base', ARGV[13] == '0' and '0' or '-' .. ARGV[13])
  end
  if ARGV[16] ~= '' then
    redis.call('HSET', KEYS[2], 'born', ARGV[16])
    -- A replay of the stream alone lacks what was trimmed, unless all of that is of before its days. An event may be dated
    -- an hour ahead of its entry.
    if not join and tonumber(ARGV[10]) * 1000 < tonumber(since) + 3600000 then
      redis.call('HSET', KEYS[2], 'base', '0', 'skipped', base, 'lacks', base)
    end
  end
  redis.call('RPUSH', KEYS[3], id .. ':0 ' .. ARGV[4] .. ' ' .. ARGV[5])
  redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[6], id, 'MKSTREAM', 'ENTRIESREAD', entries)
end
redis.call('HSET', KEYS[4], ARGV[1], ARGV[2])

local answer = 'OK'
local current = redis.call('HGET', KEYS[2], 'recipe')
if current ~= ARGV[4] and ARGV[7] ~= 'adopt' then
  for _, row in ipairs(redis.call('LRANGE', KEYS[3], 0, -1)) do
    if string.match(row, '^%S+ (%S+) ') == ARGV[4] then
      answer = 'OLDER'
    end
  end
end
if current ~= ARGV[4] and answer == 'OK' then
  local at = redis.call('HMGET', KEYS[2], 'id', 'index')
  redis.call('RPUSH', KEYS[3], at[1] .. ':' .. at[2] .. ' ' .. ARGV[4] .. ' ' .. ARGV[5])
  redis.call('HSET', KEYS[2], 'recipe', ARGV[4])
end
-- Where nothing waits nobody can have ended of it: an idle unit that moves between workers is none that stands still.
if answer == 'OK' and before[4] ~= ARGV[9] then
  local starts = (tonumber(before[3] or '0') or 0) + 1
  local counts = waiting and not is_new
  redis.call('HSET', KEYS[2], 'starts', counts and string.format('%.0f', starts) or '0', 'starter', ARGV[9])
end
return { answer, redis.call('HGETALL', KEYS[2]) }
