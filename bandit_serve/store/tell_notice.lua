-- Keeps a notice until it is delivered, unless it was told before. KEYS: the notices, what was told
-- ARGV: the time | under what it was told | until when it is not told again, or +inf | the most notices | its id | the notice
-- Returns 1 if it is kept, 0 if it was told, and -1 where there is no room.
local told = redis.call('ZSCORE', KEYS[2], ARGV[2])
if told and (told == 'inf' or tonumber(told) >= tonumber(ARGV[1])) then
  redis.call('ZADD', KEYS[2], 'GT', ARGV[3], ARGV[2])
  return 0
end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then return -1 end
redis.call('HSET', KEYS[1], ARGV[5], ARGV[6])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2])
return 1
