-- Reads what a fold begins with: its newest snapshot, and the entries behind it. KEYS: log, trimmed mark, snapshots
-- ARGV: the most entries | the most bytes
-- Returns the trimmed mark, offset and state of the snapshot ('' for none), and the entries; nothing where they are too
-- many or too large, the snapshot is in pieces, or the log has lost the entry that it was made at.
local function before(one, other)
  local ms, sequence = string.match(one, '^(%d+)-(%d+)$')
  local other_ms, other_sequence = string.match(other, '^(%d+)-(%d+)$')
  if tonumber(ms) ~= tonumber(other_ms) then return tonumber(ms) < tonumber(other_ms) end
  return tonumber(sequence) < tonumber(other_sequence)
end
local most_entries, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local trimmed = redis.call('GET', KEYS[2]) or '0-0'
local newest = '0-0'
for _, offset in ipairs(redis.call('HKEYS', KEYS[3])) do
  if before(newest, offset) then newest = offset end
end
if before(newest, trimmed) then return {} end
local state = ''
if newest ~= '0-0' then
  if redis.call('HSTRLEN', KEYS[3], newest) > most_bytes then return {} end
  state = redis.call('HGET', KEYS[3], newest)
  if string.byte(state) == 193 then return {} end
  if before(trimmed, newest) and #redis.call('XRANGE', KEYS[1], newest, newest) == 0 then return {} end
end
-- A log that is large may have few entries after its snapshot: bytes are counted before any are sent.
local entries = redis.call('XRANGE', KEYS[1], '(' .. newest, '+', 'COUNT', most_entries)
if #entries == most_entries then return {} end
local nbytes = #state
for _, entry in ipairs(entries) do nbytes = nbytes + #entry[2][2] end
if nbytes > most_bytes then return {} end
return {trimmed, newest, state, entries}
