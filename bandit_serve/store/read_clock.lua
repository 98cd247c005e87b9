-- What time it is: in the store, and in its logs. KEYS: the clock, a hash of `shift` and `mark` | the workers
-- ARGV: the log's time by the caller's own clock | 1 if the caller has known it for long enough to be believed |
--       by how much clocks may differ, in ms
-- Returns the store's time and the shift, in ms, which together are the log's time; and 1 if that holds.
-- `mark` is the log's time when somebody last looked, seconds ago while workers live. If it is as long ago as that by the
-- store's clock, this clock has run evenly. Otherwise the store was away, or its clock has jumped, and the caller's own
-- clock says which. Where nobody is left who knows, the store's clock is believed, but not to before the mark; a caller
-- that has just come, while a worker lived at the mark and took no leave, is to ask again.
local expected, established, tolerance = tonumber(ARGV[1]), ARGV[2] == '1', tonumber(ARGV[3])
local found = redis.call('HMGET', KEYS[1], 'shift', 'mark')
local shift, mark = tonumber(found[1] or 0), tonumber(found[2] or 0)
local time = redis.call('TIME')
time = time[1] * 1000 + math.floor(time[2] / 1000)
local holds = true
if math.abs(time + shift - mark) > tolerance then
  if established then
    if math.abs(time + shift - expected) > tolerance then shift = expected - time end
    -- A jump that was taken back, as well as other clocks can tell.
    if math.abs(shift) <= tolerance / 10 then shift = 0 end
  else
    holds = redis.call('ZCOUNT', KEYS[2], string.format('%.0f', mark), '+inf') == 0
    shift = math.max(0, mark - time)
  end
end
if holds then
  -- A store that is full or read-only tells the time all the same.
  redis.pcall('HSET', KEYS[1], 'shift', string.format('%.0f', shift), 'mark', string.format('%.0f', time + shift))
end
return {time, shift, holds and 1 or 0}
