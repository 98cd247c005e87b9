-- Forgets the log up to and with an offset, and says so to readers that are behind it.
-- KEYS: the log, its trimmed mark
-- ARGV: the offset to forget | the first offset to keep
redis.call('SET', KEYS[2], ARGV[1])
return redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2])
