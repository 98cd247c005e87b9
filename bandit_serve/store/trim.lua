-- Forgets the log up to and with an offset, and says so to readers that are behind it.
-- KEYS: the log, its trimmed mark, then the snapshots of each fold that must go on from there
-- ARGV: the offset to forget | the first offset to keep
-- Returns how many entries went. The first write of the script frees memory, and after it a full store takes the mark,
-- too. Nothing happens where the mark is there already or further (a keeper that slept must
-- not move it back), or where a fold has no snapshot at the offset or after it (its state would be lost).
local function parts(offset)
  local ms, sequence = string.match(offset, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(sequence)
end
local through_ms, through_sequence = parts(ARGV[1])
local function reaches(offset)
  local ms, sequence = parts(offset)
  return ms > through_ms or (ms == through_ms and sequence >= through_sequence)
end
local trimmed = redis.call('GET', KEYS[2])
if trimmed and reaches(trimmed) then return 0 end
for i = 3, #KEYS do
  local found = false
  for _, offset in ipairs(redis.call('HKEYS', KEYS[i])) do found = found or reaches(offset) end
  if not found then return 0 end
end
local gone = redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2])
redis.call('SET', KEYS[2], ARGV[1])
return gone
