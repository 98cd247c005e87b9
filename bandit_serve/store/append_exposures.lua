-- Appends a worker's exposures, and the rewards that the service measured with them, unless an earlier try already did.
-- KEYS: the log, the worker's mark, the expiries
-- ARGV: shift | the caller's time | tolerance | number of the first decision | how many | event |
--       how long the mark is kept, in ms | for how long a try may be repeated, in ms, which is less |
--       when these were first tried, in the log's time, or -1 | rows of rewards, an entry each, or none
-- Returns 1 if they were appended, 0 if an earlier try did so, -1 if that can not be known any more.
local now = log_time()
if not now then return 'clock' end
local first, count, tried = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[9])
local mark = redis.call('GET', KEYS[2])
if not mark and tried >= 0 and tried + ARGV[8] < now then return -1 end
if first < tonumber(mark or '0') then return 0 end
append(KEYS[1], now, 'x', ARGV[6])
for i = 10, #ARGV do append(KEYS[1], now, 'r', ARGV[i]) end
redis.call('SET', KEYS[2], string.format('%.0f', first + count))
redis.call('ZADD', KEYS[3], 'GT', string.format('%.0f', now + ARGV[7]), KEYS[2])
return 1
