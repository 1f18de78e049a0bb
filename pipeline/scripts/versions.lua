#!lua flags=allow-oom
-- Change the document of versions: compare, then set.
-- Keeps: of those who change it at once, one does.
-- KEYS  1 document
-- ARGV  1 what it is taken to be, '' where there is none  2 what it becomes
-- Answers  OK | CHANGED

if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
  return 'CHANGED'
end
redis.call('SET', KEYS[1], ARGV[2])
return 'OK'
