-- Finds the logs that have lost the entry at an offset and were not trimmed through it.
-- KEYS: log, trimmed mark; log, trimmed mark; ... ARGV: an offset for each log
-- Returns their numbers, from 1.
local function parts(offset)
  local ms, sequence = string.match(offset, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(sequence)
end
local lost = {}
for i, offset in ipairs(ARGV) do
  if #redis.call('XRANGE', KEYS[2 * i - 1], offset, offset) == 0 then
    local trimmed = redis.call('GET', KEYS[2 * i])
    local ms, sequence = parts(offset)
    local trimmed_ms, trimmed_sequence = parts(trimmed or '0-0')
    if trimmed_ms < ms or (trimmed_ms == ms and trimmed_sequence < sequence) then lost[#lost + 1] = i end
  end
end
return lost
