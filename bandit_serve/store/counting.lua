-- Preamble of the scripts that take rewards: which decisions have a value, and the values of their plain rewards.
-- KEYS: the log, the expiries, the bitmaps of decisions with a value, then the values of plain rewards
-- ARGV: of appending.lua | rows | bytes in a row | per row: bitmap u16, bit u16, values u16, mark u32, deadline_ms u64 |
--       number of bitmaps | number of keys of values | how long keys are kept after the deadline, in ms
-- A bit says that a decision has a value on a metric. Its plain reward's own value is, where the metric is two-valued, a
-- bit at `mark`: 2 × bit for the lower and 2 × bit + 1 for the higher value; otherwise a field of a small hash, the
-- counter's low 16 bits. Neither is there for values that are sums of events, and for rewards that a former build counted.
-- Writes are gathered here and made by `write_counted`.
local rows, width, checks = ARGV[4], tonumber(ARGV[5]), ARGV[6]
local n_bitmaps, n_values, grace_ms = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local CHECK, CHECK_BYTES, NO_MARK = '<I2I2I2I4I8', 18, 4294967295
local n = #checks / CHECK_BYTES
local call, sub = redis.call, string.sub
local bits, fields, deadlines, whole, counted = {}, {}, {}, {}, {}
-- Where many rows are of few keys, one GET is quicker than a GETBIT for each, and one HGETALL than an HGET for each.
local reads_bitmaps, reads_hashes = n >= 16 * n_bitmaps, n >= 64 * n_values
local function has_value(bitmap, bit)
  if n > 1 and counted[bitmap * 65536 + bit] then return true end
  local key = KEYS[bitmap + 3]
  if not reads_bitmaps then return call('GETBIT', key, bit) == 1 end
  local bytes = whole[key]
  if not bytes then
    bytes = call('GET', key) or ''
    whole[key] = bytes
  end
  local byte = string.byte(bytes, math.floor(bit / 8) + 1)
  return byte and byte > 0 and math.floor(byte / 2 ^ (7 - bit % 8)) % 2 == 1
end
-- The plain reward of row i: its mark, or its value where it has none.
local function plain_in(i, mark) return mark < NO_MARK and mark or struct.unpack('<d', rows, i * width + 25) end
-- That of the same decision which was counted before; nil where there is none, or its value is not kept.
local function plain_before(i, bitmap, bit, values, mark)
  local here = counted[bitmap * 65536 + bit]
  if here then return here end
  local key = KEYS[n_bitmaps + values + 3]
  if mark < NO_MARK then
    local low = 2 * bit
    return call('GETBIT', key, low + 1) == 1 and low + 1 or call('GETBIT', key, low) == 1 and low or nil
  end
  local field, stored = sub(rows, i * width + 9, i * width + 10), nil
  if reads_hashes then
    local of = whole[key]
    if not of then
      local pairs_of = call('HGETALL', key)
      of = {}
      for at = 1, #pairs_of, 2 do of[pairs_of[at]] = pairs_of[at + 1] end
      whole[key] = of
    end
    stored = of[field]
  else
    stored = call('HGET', key, field)
  end
  return stored and struct.unpack('<d', stored) or nil
end
local function gather(of, key, first, second)
  local list = of[key]
  if list then
    local k = #list
    list[k + 1], list[k + 2] = first, second
  else
    of[key] = {first, second}
  end
end
local function keep(key, deadline)
  if deadline > (deadlines[key] or 0) then deadlines[key] = deadline end
end
local function set_value(bitmap, bit, deadline)
  gather(bits, bitmap + 3, bit, 1)
  keep(bitmap + 3, deadline)
end
local function count_plain(i, bitmap, bit, values, mark, deadline)
  local key = n_bitmaps + values + 3
  if n > 1 then counted[bitmap * 65536 + bit] = plain_in(i, mark) end
  if mark < NO_MARK then
    gather(bits, key, mark, 1)
  else
    local at = i * width
    gather(fields, key, sub(rows, at + 9, at + 10), sub(rows, at + 25, at + 32))
  end
  keep(key, deadline)
end
-- Lua's unpack fails near 8,000 arguments.
local function in_parts(list, take)
  for first = 1, #list, 4000 do take(unpack(list, first, math.min(first + 3999, #list))) end
end
local function write_hash(key, list)
  in_parts(list, function(...) call('HSET', KEYS[key], ...) end)
end
local function write_counted()
  for key, list in pairs(bits) do
    if #list == 2 then
      call('SETBIT', KEYS[key], list[1], 1)
    else
      local operations, k = {}, 0
      for at = 1, #list, 2 do
        operations[k + 1], operations[k + 2], operations[k + 3], operations[k + 4] = 'SET', 'u1', list[at], 1
        k = k + 4
      end
      in_parts(operations, function(...) call('BITFIELD', KEYS[key], ...) end)
    end
  end
  for key, list in pairs(fields) do write_hash(key, list) end
  local ends, k, n_new = {}, 0, 0
  for key, deadline in pairs(deadlines) do
    ends[k + 1], ends[k + 2] = string.format('%.0f', deadline + grace_ms), KEYS[key]
    k = k + 2
  end
  in_parts(ends, function(...) n_new = n_new + call('ZADD', KEYS[2], 'GT', ...) end)
  -- Bitmaps of earlier versions expire by the store's clock: end that.
  if n_new > 0 then
    for key in pairs(deadlines) do
      if key < n_bitmaps + 3 then call('PERSIST', KEYS[key]) end
    end
  end
end
