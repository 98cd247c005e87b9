-- Writes marks of a log. KEYS: the expiries, then the marks
-- ARGV: per mark `s` string or `h` hash | when it may go, or '' | how many words | the string, or fields and values of the hash
local at = 1
for i = 2, #KEYS do
  local first, n = at + 3, tonumber(ARGV[at + 2])
  if ARGV[at] == 's' then
    redis.call('SET', KEYS[i], ARGV[first])
  else
    -- Lua's unpack fails near 8,000 arguments.
    for from = first, first + n - 1, 4000 do
      redis.call('HSET', KEYS[i], unpack(ARGV, from, math.min(from + 3999, first + n - 1)))
    end
  end
  if ARGV[at + 1] ~= '' then redis.call('ZADD', KEYS[1], ARGV[at + 1], KEYS[i]) end
  at = first + n
end
return #KEYS - 1
