-- Appends the rewards that are neither late nor already in the log, as one entry.
-- KEYS: the log, the expiries, then the bitmaps
-- ARGV: shift | the caller's time | tolerance | rows | bytes in a row |
--       per row: bitmap u16, bit u16, deadline_ms u64 | grace_ms
-- Returns one letter a row: (a)ccepted, (d)uplicate, (l)ate.
-- A script does not roll back: every check comes before the first write.
local now = log_time()
if not now then return 'clock' end
local rows, width, checks, grace = ARGV[4], tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local n = #checks / 12
local verdicts, kept, fresh, expiry = {}, {}, {}, {}
for i = 0, n - 1 do
  local bitmap, bit, deadline = struct.unpack('<I2I2I8', checks, i * 12 + 1)
  local id = bitmap * 65536 + bit
  if deadline < now then
    verdicts[i + 1] = 'l'
  elseif fresh[id] or redis.call('GETBIT', KEYS[bitmap + 3], bit) == 1 then
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
  append(KEYS[1], now, 'r', payload)
  for id in pairs(fresh) do
    redis.call('SETBIT', KEYS[math.floor(id / 65536) + 3], id % 65536, 1)
  end
  for bitmap, deadline in pairs(expiry) do
    local key = KEYS[bitmap + 3]
    -- Keys of earlier versions expire by the store's clock: end that.
    if redis.call('ZADD', KEYS[2], 'GT', string.format('%.0f', deadline + grace), key) == 1 then
      redis.call('PERSIST', key)
    end
  end
end
return table.concat(verdicts)
