-- Reads the store's time and log time. KEYS: the clock, a hash of `shift` and `mark` | the workers
-- ARGV: log time by the caller's own clock | 1 if the caller has known log time for long enough to be trusted |
--       the largest difference of clocks that is no jump, in ms
-- Returns the store's time and the shift, in ms, whose sum is log time; and 1 if that is sure.
-- `mark` is log time at the last reading, which was seconds ago while workers are live. If the store's clock agrees, it
-- has run evenly. Otherwise the store was away, or its clock has jumped, and the clock of a trusted caller says which.
-- Without one, the store's clock is believed, but never to a time before the mark. If a worker was live at the mark and
-- did not retire, a caller that is not trusted has to ask again: that worker may still know.
local expected, established, tolerance = tonumber(ARGV[1]), ARGV[2] == '1', tonumber(ARGV[3])
local known = redis.call('HMGET', KEYS[1], 'shift', 'mark')
local shift, mark = tonumber(known[1] or 0), tonumber(known[2] or 0)
local time = redis.call('TIME')
time = time[1] * 1000 + math.floor(time[2] / 1000)
local holds = true
if math.abs(time + shift - mark) > tolerance then
  if established then
    if math.abs(time + shift - expected) > tolerance then shift = expected - time end
    -- The jump was taken back, as far as other clocks can measure it.
    if math.abs(shift) <= tolerance / 10 then shift = 0 end
  else
    holds = redis.call('ZCOUNT', KEYS[2], string.format('%.0f', mark), '+inf') == 0
    shift = math.max(0, mark - time)
  end
end
if holds then
  -- A store that is full or read-only still answers.
  redis.pcall('HSET', KEYS[1], 'shift', string.format('%.0f', shift), 'mark', string.format('%.0f', time + shift))
end
return {time, shift, holds and 1 or 0}
