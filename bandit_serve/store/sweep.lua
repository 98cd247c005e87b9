-- Deletes keys whose time is over. KEYS: the expiries, then keys that are among them. ARGV: log time in ms
-- Returns how many were deleted; a key whose time was extended meanwhile stays.
local gone = 0
for i = 2, #KEYS do
  local until_ms = redis.call('ZSCORE', KEYS[1], KEYS[i])
  if until_ms and tonumber(until_ms) < tonumber(ARGV[1]) then
    redis.call('UNLINK', KEYS[i])
    redis.call('ZREM', KEYS[1], KEYS[i])
    gone = gone + 1
  end
end
return gone
