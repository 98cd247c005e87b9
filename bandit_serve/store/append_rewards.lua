-- Appends the rewards that are neither late nor already in the log, as one entry.
-- KEYS: the log, then the bitmaps
-- ARGV: rows | bytes in a row | per row: bitmap u16, bit u16, deadline_ms u64 | grace_ms
-- Returns one letter a row: (a)ccepted, (d)uplicate, (l)ate.
-- A script does not roll back: every check comes before the first write.
local rows, width, checks, grace = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local n = #checks / 12
local verdicts, kept, fresh, expiry = {}, {}, {}, {}
for i = 0, n - 1 do
  local bitmap, bit, deadline = struct.unpack('<I2I2I8', checks, i * 12 + 1)
  local id = bitmap * 65536 + bit
  if deadline < now then
    verdicts[i + 1] = 'l'
  elseif fresh[id] or redis.call('GETBIT', KEYS[bitmap + 2], bit) == 1 then
    verdicts[i + 1] = 'd'
  else
    verdicts[i + 1] = 'a'
    fresh[id] = true
    kept[#kept + 1] = i
    if deadline > (expiry[bitmap] or 0) then expiry[bitmap] = deadline end
  end
end
if #kept > 0 then
  local payload = rows
  if #kept < n then
    local parts = {}
    for j, i in ipairs(kept) do parts[j] = string.sub(rows, i * width + 1, (i + 1) * width) end
    payload = table.concat(parts)
  end
  redis.call('XADD', KEYS[1], '*', 'r', payload)
  for id in pairs(fresh) do
    redis.call('SETBIT', KEYS[math.floor(id / 65536) + 2], id % 65536, 1)
  end
  for bitmap, deadline in pairs(expiry) do
    local key = KEYS[bitmap + 2]
    if redis.call('PTTL', key) < deadline + grace - now then
      redis.call('PEXPIREAT', key, deadline + grace)
    end
  end
end
return table.concat(verdicts)
