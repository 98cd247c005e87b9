-- Appends what the values of decisions become by events, as one entry of revisions (`log/events.py`). A value is the sum of
-- a decision's events and of its plain reward, or their maximum. Rows without an event are plain rewards of such decisions.
-- KEYS: of counting.lua, then the hashes of events
-- ARGV: of counting.lua | per row: event u64, or 0 | per row: its key's number among KEYS u16, that of the
--       period before u16, of the period after u16 |
--       1 where events are known by unit | window_ms | per metric: by maximum u8, two-valued u8, lowest and highest value f64 |
--       number of events that a decision may have on a metric | of fields that a hash may have |
--       1 where events that are known stay as they are
-- Returns one letter a row: (a)ccepted, (d)uplicate, (c)orrected, (r)etracted, (x) for a conflict, (l)ate, (u)nmatched,
-- (i)nvalid.
-- Fields of a hash of events, with `tag` for the decision's place in it, or the metric where events are known by unit:
--   tag event         the event's value f64, NaN once it was taken back; then `decision`
--   tag decision      events u32, summands that are present u32, since_ms f64, then the exact sum of the summands
--   decision          the decision's row and features, where events are known by unit
-- `decision` is incarnation and counter where events are known by unit, and empty otherwise. A summand is a value, or for a
-- maximum 1 for the higher value and 0 for the lower. The exact sum is an expansion: numbers that do not overlap, smallest first
-- (J. R. Shewchuk, Adaptive precision floating-point arithmetic, 1997, Grow-Expansion), without zeros.
-- A script does not roll back: every check comes before the first write.
local now = log_time()
if not now then return 'clock' end
local events, places, by_unit, window_ms = ARGV[10], ARGV[11], ARGV[12] == '1', tonumber(ARGV[13])
local rules, max_events, max_fields, only_new = ARGV[14], tonumber(ARGV[15]), tonumber(ARGV[16]), ARGV[17] == '1'
local NO_EVENT, NONE, RULE_BYTES = string.rep('\0', 8), '\0\0\0\0\0\0\248\127', 18
local FIRST = struct.pack('<i8', -1)

local function grow(parts, x)
  local k = 0
  for j = 1, #parts do
    local y = parts[j]
    if math.abs(x) < math.abs(y) then x, y = y, x end
    local sum = x + y
    local rest = y - (sum - x)
    if rest ~= 0 then
      k = k + 1
      parts[k] = rest
    end
    x = sum
  end
  for j = #parts, k + 1, -1 do parts[j] = nil end
  if x ~= 0 then parts[k + 1] = x end
end

-- The double nearest to the sum; of two, the even one (as CPython's math.fsum).
local function rounded(parts)
  local k = #parts
  if k == 0 then return 0 end
  local sum, rest = parts[k], 0
  k = k - 1
  while k > 0 and rest == 0 do
    local x, y = sum, parts[k]
    sum = x + y
    rest = y - (sum - x)
    k = k - 1
  end
  if k > 0 and rest * parts[k] > 0 then
    local y = rest * 2
    local x = sum + y
    if y == x - sum then sum = x end
  end
  return sum
end

local function entry(of, key)
  local list = of[key]
  if not list then
    list = {}
    of[key] = list
  end
  return list
end
-- Fields of the hashes, as they are after the rows so far; a decision's state as a table once it was needed.
local known, sizes, changed = {}, {}, {}
local function read(key, field)
  local of = entry(known, key)
  if of[field] == nil then of[field] = call('HGET', KEYS[key], field) end
  return of[field]
end
local function size(key)
  sizes[key] = sizes[key] or call('HLEN', KEYS[key])
  return sizes[key]
end
local function write(key, field, value)
  if not read(key, field) then sizes[key] = size(key) + 1 end
  known[key][field] = value
  entry(changed, key)[field] = true
end

local function state_at(key, field)
  local stored = read(key, field)
  if type(stored) ~= 'string' then return stored end
  local state = {parts = {}}
  state.events, state.present, state.since = struct.unpack('<I4I4d', stored)
  for at = 17, #stored, 8 do state.parts[#state.parts + 1] = struct.unpack('<d', stored, at) end
  known[key][field] = state
  return state
end
local function packed(state)
  local parts = {struct.pack('<I4I4d', state.events, state.present, state.since)}
  for j, part in ipairs(state.parts) do parts[j + 1] = struct.pack('<d', part) end
  return table.concat(parts)
end

local function rule_of(metric)
  local by_max, two_valued, low, high = struct.unpack('<BBdd', rules, metric * RULE_BYTES + 1)
  local rule = {low = low, high = high}
  function rule.summand(value)
    if by_max == 0 then return value end
    return value == high and 1 or 0
  end
  function rule.of_mark(mark) return two_valued == 0 and mark or mark % 2 == 1 and high or low end
  -- The value, or nil without summands; and whether the metric takes it.
  function rule.value(state)
    if state.present == 0 then return nil, true end
    local value = rounded(state.parts)
    if by_max == 1 then value = value > 0 and high or low end
    return value, value >= low and value <= high and (two_valued == 0 or value == low or value == high)
  end
  return rule
end
local rule_by_metric = {}

local verdicts, revisions = {}, {}
-- The verdict on row i; everything that it changes is in the tables above, and written at the end.
local function take(i)
  local bitmap, bit, values, mark, deadline = struct.unpack(CHECK, checks, i * CHECK_BYTES + 1)
  local home, before, after = struct.unpack('<I2I2I2', places, i * 6 + 1)
  local row = string.sub(rows, i * width + 1, (i + 1) * width)
  local event, metric, value = string.sub(events, i * 8 + 1, i * 8 + 8), string.byte(row, 55), struct.unpack('<d', row, 25)
  local is_plain, takes_back = event == NO_EVENT, value ~= value
  local tag = by_unit and string.char(metric) or string.char(bit % 256)
  local rule = rule_by_metric[metric] or rule_of(metric)
  rule_by_metric[metric] = rule

  local decision, stored = by_unit and string.sub(row, 1, 16) or '', nil
  local own = decision
  if not is_plain then
    for _, key in ipairs(by_unit and {home, before, after} or {home}) do
      stored = read(key, tag .. event)
      if stored then
        home, decision = key, string.sub(stored, 9)
        break
      end
    end
  end
  if decision ~= own then
    row = read(home, decision)
    deadline = struct.unpack('<i8', row, 17) + window_ms
  end
  if deadline < now then return 'l' end

  local former = stored and struct.unpack('<d', stored)
  local state = state_at(home, tag .. decision)
  local plain = nil
  if state and is_plain or not state and has_value(bitmap, bit) then
    plain = plain_before(i, bitmap, bit, values, mark)
    if plain and is_plain then return plain == plain_in(i, mark) and 'd' or 'x' end
    -- A former build counted it, and did not keep its value: nothing can be added to that.
    if not plain and not state then return 'd' end
  end
  if not is_plain then
    if takes_back and not stored then return 'u' end
    if stored and (only_new or former == value or (takes_back and former ~= former)) then return 'd' end
  end

  local next_state = {events = 0, present = 0, parts = {}}
  if state then
    next_state.events, next_state.present, next_state.since = state.events, state.present, state.since
    for j, part in ipairs(state.parts) do next_state.parts[j] = part end
  elseif plain then
    -- When the plain reward came is not kept: not before its decision.
    next_state.present, next_state.since = 1, math.min(struct.unpack('<i8', row, 17), now)
    grow(next_state.parts, rule.summand(rule.of_mark(plain)))
  end
  local value_before = rule.value(next_state)
  if former and former == former then
    next_state.present = next_state.present - 1
    grow(next_state.parts, -rule.summand(former))
  end
  if not takes_back then
    next_state.present = next_state.present + 1
    grow(next_state.parts, rule.summand(value))
  end
  if not is_plain and not stored then next_state.events = next_state.events + 1 end
  local value_after, fits = rule.value(next_state)
  if not fits or next_state.events > max_events or (not stored and size(home) + 3 > max_fields) then return 'i' end

  local since = next_state.since and struct.pack('<i8', next_state.since) or FIRST
  next_state.since = next_state.since or now
  write(home, tag .. decision, next_state)
  if not is_plain then write(home, tag .. event, (takes_back and NONE or struct.pack('<d', value)) .. decision) end
  if by_unit and not read(home, decision) then write(home, decision, row) end
  keep(home, deadline)
  if not state then set_value(bitmap, bit, deadline) end
  if is_plain then count_plain(i, bitmap, bit, values, mark, deadline) end
  if value_after ~= value_before then
    revisions[#revisions + 1] = table.concat({
      string.sub(row, 1, 24), value_after and struct.pack('<d', value_after) or NONE, string.sub(row, 33, 54),
      string.char(metric), string.sub(row, 56, 56), value_before and struct.pack('<d', value_before) or NONE, since,
      string.sub(row, 57),
    })
  end
  if is_plain or not stored then return 'a' end
  return takes_back and 'r' or 'c'
end

for i = 0, n - 1 do verdicts[i + 1] = take(i) end
if #revisions > 0 then append(KEYS[1], now, 'v', table.concat(revisions)) end
for key, fields in pairs(changed) do
  local list = {}
  for field in pairs(fields) do
    local value, k = known[key][field], #list
    list[k + 1], list[k + 2] = field, type(value) == 'table' and packed(value) or value
  end
  write_hash(key, list)
end
write_counted()
return table.concat(verdicts)
