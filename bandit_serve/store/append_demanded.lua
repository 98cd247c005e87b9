-- Appends the exposures on demand that are neither late nor already in the log, an entry each.
-- KEYS: the log, the expiries, then the bitmaps
-- ARGV: shift | the caller's time | tolerance | grace_ms |
--       per decision: bitmap u16, bit u16, deadline_ms u64 | the event of each decision
-- Returns one letter a decision: (a)ccepted, (d)uplicate, (l)ate.
-- A script does not roll back: every check comes before the first write.
local now = log_time()
if not now then return 'clock' end
local grace, checks = tonumber(ARGV[4]), ARGV[5]
local verdicts, kept, fresh, expiry = {}, {}, {}, {}
for i = 0, #checks / 12 - 1 do
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
for _, i in ipairs(kept) do append(KEYS[1], now, 'x', ARGV[i + 6]) end
for id in pairs(fresh) do redis.call('SETBIT', KEYS[math.floor(id / 65536) + 3], id % 65536, 1) end
for bitmap, deadline in pairs(expiry) do
  redis.call('ZADD', KEYS[2], 'GT', string.format('%.0f', deadline + grace), KEYS[bitmap + 3])
end
return table.concat(verdicts)
