#!lua flags=allow-oom
-- Store a producer's last word, and add what it lost since the word before to the loss window of the hour.
-- Keeps: a loss is added once, however often a word is repeated; an older word never replaces a newer one; the window
-- is that of the server's hour, for no producer's clock is trusted.
-- KEYS  1 index  2 presence  3 loss window
-- ARGV  1 producer  2 revision  3 hour that KEYS[3] stands for (s)  4 presence TTL (ms)  5 window TTL (ms)
--       6 number of losses, then <name> <total> for each, then <field> <value> for the rest
-- Answers  {OK, ms} | {HOUR, ms}: nothing written, send it again with the key of that time's hour | {OLD, ms}

local time = redis.call('TIME')
local seconds = tonumber(time[1])
local now_ms = string.format('%.0f', seconds * 1000 + math.floor(tonumber(time[2]) / 1000))
if string.format('%.0f', seconds - seconds % 3600) ~= ARGV[3] then
  return { 'HOUR', now_ms }
end
if tonumber(redis.call('HGET', KEYS[2], 'revision') or '-1') >= tonumber(ARGV[2]) then
  return { 'OLD', now_ms }
end

-- Totals stay below 2^53, where a double subtracts exactly.
local losses = tonumber(ARGV[6])
local lost_more = false
for i = 7, 6 + 2 * losses, 2 do
  local field = 'loss:' .. ARGV[i]
  local more = tonumber(ARGV[i + 1]) - tonumber(redis.call('HGET', KEYS[2], field) or '0')
  if more > 0 then
    redis.call('HINCRBY', KEYS[3], ARGV[i], string.format('%.0f', more))
    lost_more = true
  end
  redis.call('HSET', KEYS[2], field, ARGV[i + 1])
end
if lost_more then
  redis.call('PEXPIRE', KEYS[3], ARGV[5])
end

for i = 7 + 2 * losses, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
redis.call('HSET', KEYS[2], 'producer', ARGV[1], 'revision', ARGV[2], 'at_ms', now_ms)
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('ZADD', KEYS[1], now_ms, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', tonumber(now_ms) - tonumber(ARGV[4])))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return { 'OK', now_ms }
