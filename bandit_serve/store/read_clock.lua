-- What time it is: in the store, and in the logs of it. KEYS: the clock, a hash of `shift` and `mark`
-- ARGV: the log's time by the caller's own clock | 1 if the caller has known it for long enough to be believed |
--       by how much clocks may differ, in ms
-- Returns the store's time and the shift, in ms: together they are the log's time.
-- `mark` is the log's time when somebody last looked, seconds ago while workers live. If it is as long ago as that by the
-- store's clock, this clock has run evenly. Otherwise the store was away, or its clock has jumped, and the caller's own
-- clock says which. Where nobody knows, the store's clock is believed, but not to before the mark.
local expected, established, tolerance = tonumber(ARGV[1]), ARGV[2] == '1', tonumber(ARGV[3])
local found = redis.call('HMGET', KEYS[1], 'shift', 'mark')
local shift, mark = tonumber(found[1] or 0), tonumber(found[2] or 0)
local time = redis.call('TIME')
time = time[1] * 1000 + math.floor(time[2] / 1000)
local even = math.abs(time + shift - mark) <= tolerance
if not even and established then
  if math.abs(time + shift - expected) > tolerance then shift = expected - time end
  -- A jump that was taken back, as well as other clocks can tell.
  if math.abs(shift) <= tolerance / 10 then shift = 0 end
elseif not even then
  shift = math.max(0, mark - time)
end
if even or established then
  mark = string.format('%.0f', time + shift)
  -- A store that is full or read-only tells the time all the same.
  redis.pcall('HSET', KEYS[1], 'shift', string.format('%.0f', shift), 'mark', mark)
end
return {time, shift}
