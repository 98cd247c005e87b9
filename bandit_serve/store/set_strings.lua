-- Sets strings of one experiment. KEYS: theirs. ARGV: their lifetime in ms | the value of each
for i, key in ipairs(KEYS) do redis.call('SET', key, ARGV[i + 1], 'PX', ARGV[1]) end
return #KEYS
