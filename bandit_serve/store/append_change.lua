-- Appends a configuration change unless the revision has changed since the caller read it.
-- KEYS: the log, its head
-- ARGV: shift | the caller's time | tolerance | the revision that the caller read | kind | event
-- Returns the entry's id, or false when the revision is another.
local now = log_time()
if not now then return 'clock' end
if (redis.call('GET', KEYS[2]) or '0') ~= ARGV[4] then return false end
local id = append(KEYS[1], now, ARGV[5], ARGV[6])
redis.call('INCR', KEYS[2])
return id
