-- Appends a configuration change if nobody else changed anything since the caller looked.
-- KEYS: the log, its head
-- ARGV: the revision that the caller saw | kind | event
-- Returns the entry's id, or false when the revision has moved on.
if (redis.call('GET', KEYS[2]) or '0') ~= ARGV[1] then return false end
local id = redis.call('XADD', KEYS[1], '*', ARGV[2], ARGV[3])
redis.call('INCR', KEYS[2])
return id
