-- Appends a worker's exposures unless an earlier try already did.
-- KEYS: the log, the worker's mark
-- ARGV: number of the first decision | how many | event | lifetime of the mark in ms
local first, count = tonumber(ARGV[1]), tonumber(ARGV[2])
if first < tonumber(redis.call('GET', KEYS[2]) or '0') then return 0 end
redis.call('XADD', KEYS[1], '*', 'x', ARGV[3])
redis.call('SET', KEYS[2], string.format('%.0f', first + count), 'PX', ARGV[4])
return 1
