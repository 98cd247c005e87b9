-- Reads marks of a log. KEYS: the expiries, then the marks. ARGV: the prefix of their keys | the most bytes
-- Returns the first marks of those asked for, as reading_marks.lua has them, until they are of so many bytes.
local marks, size = {}, 0
for i = 2, #KEYS do
  local mark, bytes = mark_at(KEYS[i], ARGV[1], KEYS[1], false)
  marks[i - 1], size = mark, size + bytes
  if size > tonumber(ARGV[2]) then break end
end
return marks
