-- Takes or renews a lease, also in a full store: there, writes are allowed after a first one that frees memory.
-- KEYS: the lease. ARGV: holder | lifetime in ms. Returns 1 to its holder.
-- A lease with more than twice its lifetime left is from before the store's clock was set back, and is taken over. A
-- smaller correction of the clock takes no lease from its holder.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] and redis.call('PTTL', KEYS[1]) <= 2 * tonumber(ARGV[2]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
