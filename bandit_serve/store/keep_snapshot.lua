-- Keeps a snapshot, once all of its pieces have arrived where it has some.
-- KEYS: the snapshots, its pieces. ARGV: its offset | how many pieces | the state, or a description of the pieces
-- Returns 1, or 0 where pieces are missing. The first write frees memory, and after it a full store takes the second:
-- without a snapshot no log could be trimmed.
local pieces = tonumber(ARGV[2])
if pieces == 0 then
  redis.call('DEL', KEYS[2])
elseif redis.call('HLEN', KEYS[2]) ~= pieces then
  return 0
else
  redis.call('PERSIST', KEYS[2])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
