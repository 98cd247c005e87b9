-- Writes entries of a log at the offsets that they had. KEYS: the log. ARGV: offset, kind and data of each, in their order
-- Those that are there already are left as they are, so that a restore may begin again.
for i = 1, #ARGV, 3 do
  local tried = redis.pcall('XADD', KEYS[1], ARGV[i], ARGV[i + 1], ARGV[i + 2])
  if tried.err and not string.find(tried.err, 'equal or smaller', 1, true) then return tried end
end
return #ARGV / 3
