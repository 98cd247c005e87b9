-- Preamble of the scripts that take rewards: which decisions have a value, and the values of their plain rewards.
-- KEYS: the log, the expiries, the bitmaps of decisions with a value, then the values of plain rewards
-- ARGV: of appending.lua | rows | bytes in a row | per row: bitmap u16, bit u16, values u16, mark u32, deadline_ms u64 |
--       number of bitmaps | how long keys are kept after the deadline, in ms
-- A bit says that a decision has a value on a metric. Its plain reward's own value is, where the metric is two-valued, a
-- bit at `mark`: 2 × bit for the lower and 2 × bit + 1 for the higher value; otherwise a record of the counter's low 16
-- bits and the value, behind those that came before. Neither is there for values that are sums of events, and for
-- rewards that a former build counted. Writes are gathered here and made by `write_counted`.
local rows, width, checks = ARGV[4], tonumber(ARGV[5]), ARGV[6]
local n_bitmaps, grace_ms = tonumber(ARGV[7]), tonumber(ARGV[8])
local CHECK, CHECK_BYTES, NO_MARK = '<I2I2I2I4I8', 18, 4294967295
local call = redis.call
local bits, records, deadlines, whole, numbers, counted = {}, {}, {}, {}, {}, {}
local function entry(of, key)
  local list = of[key]
  if not list then
    list = {}
    of[key] = list
  end
  return list
end
-- Where many rows are of few bitmaps, one GET is quicker than a GETBIT for each.
local reads_whole = #checks / CHECK_BYTES >= 16 * n_bitmaps
local function has_value(bitmap, bit)
  if counted[bitmap * 65536 + bit] then return true end
  if not reads_whole then return call('GETBIT', KEYS[bitmap + 3], bit) == 1 end
  local bytes = whole[bitmap]
  if not bytes then
    bytes = call('GET', KEYS[bitmap + 3]) or ''
    whole[bitmap] = bytes
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
  local of = numbers[values]
  if not of then
    local stored = call('GET', key) or ''
    of = {stored = stored}
    for at = 1, #stored, 10 do of[string.sub(stored, at, at + 1)] = at + 2 end
    numbers[values] = of
  end
  local at = of[string.sub(rows, i * width + 9, i * width + 10)]
  return at and struct.unpack('<d', of.stored, at) or nil
end
local function set_bit(key, bit)
  local of = entry(bits, key)
  local k = #of
  of[k + 1], of[k + 2], of[k + 3], of[k + 4] = 'SET', 'u1', bit, 1
end
local function keep(key, deadline)
  if deadline > (deadlines[key] or 0) then deadlines[key] = deadline end
end
local function set_value(bitmap, bit, deadline)
  set_bit(bitmap + 3, bit)
  keep(bitmap + 3, deadline)
end
local function count_plain(i, bitmap, bit, values, mark, deadline)
  local key = n_bitmaps + values + 3
  counted[bitmap * 65536 + bit] = plain_in(i, mark)
  if mark < NO_MARK then
    set_bit(key, mark)
  else
    local of, at = entry(records, key), i * width
    local k = #of
    of[k + 1], of[k + 2] = string.sub(rows, at + 9, at + 10), string.sub(rows, at + 25, at + 32)
  end
  keep(key, deadline)
end
local function in_parts(command, key, list)
  -- Lua's unpack fails near 8,000 arguments.
  for first = 1, #list, 4000 do call(command, key, unpack(list, first, math.min(first + 3999, #list))) end
end
local function write_counted()
  for key, list in pairs(bits) do in_parts('BITFIELD', KEYS[key], list) end
  for key, list in pairs(records) do call('APPEND', KEYS[key], table.concat(list)) end
  for key, deadline in pairs(deadlines) do
    -- Keys of earlier versions expire by the store's clock: end that.
    if call('ZADD', KEYS[2], 'GT', string.format('%.0f', deadline + grace_ms), KEYS[key]) == 1 then
      call('PERSIST', KEYS[key])
    end
  end
end
