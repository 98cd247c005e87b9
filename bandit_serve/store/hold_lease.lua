-- Takes or renews a lease, also in a full store: it takes what follows a script's first write, if that frees memory.
-- KEYS: the lease. ARGV: holder | lifetime in ms. Returns 1 to its holder.
-- One that has twice as long to live as a lease can is from before the store's clock was set back. A clock that is
-- corrected by less takes no lease from its holder.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] and redis.call('PTTL', KEYS[1]) <= 2 * tonumber(ARGV[2]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
