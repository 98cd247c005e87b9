-- Appends one entry. KEYS: the log
-- ARGV: shift | the caller's time | tolerance | kind | event
-- Returns the entry's id.
local now = log_time()
if not now then return 'clock' end
return append(KEYS[1], now, ARGV[4], ARGV[5])
