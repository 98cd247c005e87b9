-- Preamble of the scripts that read the marks of a log: bitmaps, strings and hashes that say what was counted.
local MAX_FIELDS, FIELD_BYTES = 4096, 32
-- A mark as {name, when it may go or '', kind, content}; kind: `s` string, `h` hash, `l` large hash without its content, or
-- `n` none. The name is what stands behind `prefix`. The second value is its size in bytes, with the effort for each field.
local function mark_at(key, prefix, expiries, whole)
  local mark = {string.sub(key, #prefix + 1), redis.call('ZSCORE', expiries, key) or '', 'n', ''}
  local kind = redis.call('TYPE', key).ok
  if kind == 'string' then
    mark[3], mark[4] = 's', redis.call('GET', key)
    return mark, #mark[4]
  end
  if kind ~= 'hash' then return mark, 0 end
  if not whole and redis.call('HLEN', key) > MAX_FIELDS then
    mark[3] = 'l'
    return mark, 0
  end
  local fields, size = redis.call('HGETALL', key), 0
  for _, field in ipairs(fields) do size = size + #field + FIELD_BYTES end
  mark[3], mark[4] = 'h', fields
  return mark, size
end
