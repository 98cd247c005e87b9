-- Reads a log on, and with it the marks that its entries have left: both as they are at one moment.
-- KEYS: the log, its expiries, its trimmed mark, its head
-- ARGV: the offset to read behind | the most bytes of entries, of marks, or -1 for none of these | the prefix of the marks' keys |
--       bytes of a reward's row, of a revision's, 0 where neither is known | length of a period of events by unit, or 0 |
--       a character for each metric, 1 where it is two-valued | the metrics' names
-- Returns {entries, marks, names, whole, last, trimmed, head}. Entries are {offset, kind, data}. `whole` is 1 where all that
-- the log has was read, with all of its marks. Otherwise `names` are marks that are still to be read, and there may be more
-- entries. `last` is the offset that was given last. -1 in place of all: a row's metric is not among the names.
-- The marks of an entry are in slots that the log is in; which they are only its bytes say, so they are not among KEYS.
local log, expiries, prefix = KEYS[1], KEYS[2], ARGV[4]
local reward_bytes, revision_bytes, period_ms, two_valued = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local PIECE, ON_DEMAND = 16, 2199023255552
local floor, unpack_bytes = math.floor, struct.unpack
local most = tonumber(ARGV[3])
local touched, names, unknown = {}, {}, false

local function touch(name)
  if not touched[name] then
    touched[name] = true
    names[#names + 1] = name
  end
end
local function hex(bytes, big_endian)
  local digits = {}
  for i = 1, #bytes do digits[i] = string.format('%02x', string.byte(bytes, big_endian and i or #bytes + 1 - i)) end
  return string.rep('0', 16 - 2 * #bytes) .. table.concat(digits)
end
local function named(what, whose, number) return what .. ':' .. whose .. ':' .. string.format('%.0f', number) end

-- Rows of rewards, or of values that are sums of events, which lie in hashes of their own.
local function touch_rows(data, width, of_events)
  for at = 1, #data, width do
    local incarnation, counter = hex(string.sub(data, at, at + 7)), unpack_bytes('<I8', data, at + 8)
    local metric = string.byte(data, at + 54)
    local name = ARGV[9 + metric]
    if not name then
      unknown = true
      return
    end
    local whose, block = name .. ':' .. incarnation, floor(counter / 65536)
    touch(named('seen', whose, block))
    touch(named('plain', whose, string.sub(two_valued, metric + 1, metric + 1) == '1' and block or floor(counter / 512)))
    if of_events and period_ms > 0 then
      touch(named('events', hex(string.sub(data, at + 40, at + 47)), floor(unpack_bytes('<i8', data, at + 16) / period_ms)))
    elseif of_events then
      touch(named('events', whose, floor(counter / 256)))
    end
  end
end

-- An unsigned number of MessagePack at `at`: its bytes, big-endian, and where it ends.
local SIZES = {[204] = 1, [205] = 2, [206] = 4, [207] = 8}
local function number_at(data, at)
  local size = SIZES[string.byte(data, at)]
  if not size then return string.sub(data, at, at), at + 1 end
  return string.sub(data, at + 1, at + size), at + 1 + size
end
-- Decisions of one worker: an array that begins with its incarnation and the number of the first.
local function touch_exposures(data)
  local incarnation, at = number_at(data, string.byte(data, 1) == 220 and 4 or 2)
  local whose, first = hex(incarnation, true), number_at(data, at)
  local number = 0
  for i = 1, #first do number = number * 256 + string.byte(first, i) end
  if number >= ON_DEMAND then
    touch(named('demanded', whose, floor(number / 65536)))
  else
    touch('exposed:' .. whose)
  end
end

local entries, size, from, more = {}, 0, '(' .. ARGV[1], false
while true do
  local some = redis.call('XRANGE', log, from, '+', 'COUNT', PIECE)
  for _, item in ipairs(some) do
    local kind, data = item[2][1], item[2][2]
    entries[#entries + 1] = {item[1], kind, data}
    size = size + #data
    if most < 0 then
      -- Entries alone are asked for.
    elseif kind == 'x' then
      touch_exposures(data)
    elseif reward_bytes > 0 and kind == 'r' then
      touch_rows(data, reward_bytes, false)
    elseif reward_bytes > 0 and kind == 'v' then
      touch_rows(data, revision_bytes, true)
    elseif kind == 'r' or kind == 'v' then
      unknown = true
    end
    from = '(' .. item[1]
  end
  if #some < PIECE then break end
  if size > tonumber(ARGV[2]) then
    more = true
    break
  end
end
if unknown then return -1 end

local marks = {}
if not more then
  local bytes = 0
  while #names > 0 and bytes <= most do
    local mark, its_bytes = mark_at(prefix .. names[#names], prefix, expiries, true)
    marks[#marks + 1], bytes = mark, bytes + its_bytes
    names[#names] = nil
  end
end
local last = ''
if redis.call('EXISTS', log) == 1 then
  local about = redis.call('XINFO', 'STREAM', log)
  for i = 1, #about, 2 do
    if about[i] == 'last-generated-id' then last = about[i + 1] end
  end
end
local whole = (more or #names > 0) and 0 or 1
return {entries, marks, names, whole, last, redis.call('GET', KEYS[3]) or '', redis.call('GET', KEYS[4]) or ''}
