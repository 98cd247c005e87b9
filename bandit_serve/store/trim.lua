-- Deletes a log's entries up to and with an offset, and marks that for readers that are behind it.
-- KEYS: the log, its trimmed mark, then the snapshots of each fold that must go on from there
-- ARGV: the last offset to delete | the first offset to keep
-- Returns how many entries were deleted. The first write of the script frees memory, and after it a full store takes
-- the mark, too. Nothing happens where the log is trimmed as far already (a keeper that slept must not move the mark back),
-- or where a fold has no snapshot at the offset or after it (its state would be lost).
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
  local reached = false
  for _, offset in ipairs(redis.call('HKEYS', KEYS[i])) do reached = reached or reaches(offset) end
  if not reached then return 0 end
end
local gone = redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2])
redis.call('SET', KEYS[2], ARGV[1])
return gone
