-- Gives a file that has arrived whole its final key. KEYS: the unfinished file, the file. ARGV: how many chunks it has
redis.call('HSET', KEYS[1], 'chunks', ARGV[1])
redis.call('PERSIST', KEYS[1])
redis.call('RENAME', KEYS[1], KEYS[2])
return 1
