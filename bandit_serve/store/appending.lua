-- Preamble of each script that appends to a log: reads log time, and appends an entry at that time.
-- ARGV[1] is the shift between the store's clock and log time, ARGV[2] log time by the caller's own clock, and ARGV[3]
-- the largest difference that is allowed. A caller that does not know of a jump of the store's clock gets 'clock' before
-- anything is written, and reads log time again.
local shift = tonumber(ARGV[1])
local function log_time()
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000) + shift
  if math.abs(now - ARGV[2]) <= tonumber(ARGV[3]) then return now end
end
local function append(log, now, kind, event)
  if shift == 0 then return redis.call('XADD', log, '*', kind, event) end
  local id = string.format('%.0f-0', now)
  local tried = redis.pcall('XADD', log, id, kind, event)
  if not tried.err then return tried end
  if string.find(tried.err, 'equal or smaller', 1, true) then
    local about = redis.call('XINFO', 'STREAM', log)
    for i = 1, #about, 2 do
      if about[i] == 'last-generated-id' then
        local ms, sequence = string.match(about[i + 1], '^(%d+)-(%d+)$')
        id = ms .. '-' .. string.format('%.0f', sequence + 1)
      end
    end
  end
  return redis.call('XADD', log, id, kind, event)
end
