-- Finishes a log that was written anew. KEYS: the log, its trimmed mark, its head
-- ARGV: the offset that was given last | the last that was trimmed, the first behind it | the head; each may be ''
if ARGV[1] ~= '' then
  -- An entry that goes at once: what is appended later has a higher offset.
  local tried = redis.pcall('XADD', KEYS[1], ARGV[1], 't', '')
  if type(tried) == 'string' then
    redis.call('XDEL', KEYS[1], tried)
  elseif not string.find(tried.err, 'equal or smaller', 1, true) then
    return tried
  end
end
if ARGV[2] ~= '' then
  redis.call('XTRIM', KEYS[1], 'MINID', ARGV[3])
  redis.call('SET', KEYS[2], ARGV[2])
end
if ARGV[4] ~= '' then redis.call('SET', KEYS[3], ARGV[4]) end
return 1
