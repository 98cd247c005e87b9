-- Forgets the log up to and with an offset, and says so to readers that are behind it.
-- KEYS: the log, its trimmed mark
-- ARGV: the offset to forget | the first offset to keep
-- A holder of the lease that slept may come late: the mark never goes back.
local function parts(offset)
  local time, sequence = string.match(offset, '^(%d+)-(%d+)$')
  return tonumber(time), tonumber(sequence)
end
local time, sequence = parts(ARGV[1])
local marked_time, marked_sequence = parts(redis.call('GET', KEYS[2]) or '0-0')
if time > marked_time or (time == marked_time and sequence > marked_sequence) then
  redis.call('SET', KEYS[2], ARGV[1])
end
return redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2])
