-- Appends a configuration change if nobody else changed anything since the caller looked.
-- KEYS: the log, its head
-- ARGV: shift | the caller's time | tolerance | the revision that the caller saw | kind | event
-- Returns the entry's id, or false when the revision has moved on.
local now = log_time()
if not now then return 'clock' end
if (redis.call('GET', KEYS[2]) or '0') ~= ARGV[4] then return false end
local id = append(KEYS[1], now, ARGV[5], ARGV[6])
redis.call('INCR', KEYS[2])
return id
