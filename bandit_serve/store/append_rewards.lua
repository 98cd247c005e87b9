-- Appends the rewards that are neither late nor already in the log, as one entry.
-- KEYS and ARGV: of counting.lua
-- Returns one letter a row: (a)ccepted, (d)uplicate, (x) for a conflict, (l)ate; or (e) for a decision whose value is a sum
-- of events or was counted by a former build: append_events.lua takes that row.
-- A script does not roll back: every check comes before the first write.
local now = log_time()
if not now then return 'clock' end
local verdicts, kept = {}, {}
for i = 0, n - 1 do
  local bitmap, bit, values, mark, deadline = struct.unpack(CHECK, checks, i * CHECK_BYTES + 1)
  if deadline < now then
    verdicts[i + 1] = 'l'
  elseif has_value(bitmap, bit) then
    local before = plain_before(i, bitmap, bit, values, mark)
    verdicts[i + 1] = not before and 'e' or before == plain_in(i, mark) and 'd' or 'x'
  else
    verdicts[i + 1] = 'a'
    kept[#kept + 1] = i
    set_value(bitmap, bit, deadline)
    count_plain(i, bitmap, bit, values, mark, deadline)
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
  write_counted()
end
return table.concat(verdicts)
