-- Measures a log and how much of it no snapshot has. KEYS: log, snapshots. ARGV: none
-- Returns its size in bytes, and the offsets of its first entry and of the first after the newest snapshot ('' for none).
local function before(one, other)
  local ms, sequence = string.match(one, '^(%d+)-(%d+)$')
  local other_ms, other_sequence = string.match(other, '^(%d+)-(%d+)$')
  if tonumber(ms) ~= tonumber(other_ms) then return tonumber(ms) < tonumber(other_ms) end
  return tonumber(sequence) < tonumber(other_sequence)
end
local newest = '0-0'
for _, offset in ipairs(redis.call('HKEYS', KEYS[2])) do
  if before(newest, offset) then newest = offset end
end
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
local uncovered = redis.call('XRANGE', KEYS[1], '(' .. newest, '+', 'COUNT', 1)
return {
  redis.call('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', 20) or 0,
  first[1] and first[1][1] or '',
  uncovered[1] and uncovered[1][1] or '',
}
