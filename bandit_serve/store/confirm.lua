-- Writes the head as it is. A repeated append writes nothing, and only after a write of its own is it known that replicas
-- have all that came before.
-- KEYS: the head. ARGV: none
redis.call('SET', KEYS[1], redis.call('GET', KEYS[1]) or '0')
return 1
