-- Drops snapshots of a fold, but never the newest: the log may reach back to that one only, and a keeper that slept may
-- not know of it.
-- KEYS: the snapshots, then the pieces of each. ARGV: their offsets
local newest, newest_ms, newest_sequence = nil, -1, -1
for _, offset in ipairs(redis.call('HKEYS', KEYS[1])) do
  local ms, sequence = string.match(offset, '^(%d+)-(%d+)$')
  ms, sequence = tonumber(ms), tonumber(sequence)
  if ms > newest_ms or (ms == newest_ms and sequence > newest_sequence) then
    newest, newest_ms, newest_sequence = offset, ms, sequence
  end
end
local dropped = 0
for i, offset in ipairs(ARGV) do
  if offset ~= newest then
    dropped = dropped + redis.call('HDEL', KEYS[1], offset)
    redis.call('DEL', KEYS[i + 1])
  end
end
return dropped
