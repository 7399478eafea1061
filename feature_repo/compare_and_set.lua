-- Writes states into the online store, each only if it was built from what is stored (DESIGN section 5).
--
-- KEYS   one hash per row: the entity's
-- ARGV   [1] field of the state, [2] field of its timestamp, then per row: value, timestamp
-- returns one letter per row: W written, A already included, C conflict, U what is stored is not a state
--
-- A value is a protobuf message of one bytes field: tag, length, state. A state ends in a trailer of 18 bytes,
-- big-endian: generation (2), version that it was built from (8), version (8). Versions are compared byte by byte:
-- a Lua number is exact only up to 2^53, and its string comparison follows the server's locale.

local BYTES_TAG = 10
local GENERATION, BUILT_FROM, VERSION = 1, 3, 11

local function trailer_of(value)
  if string.byte(value, 1) ~= BYTES_TAG then
    return nil
  end
  local length, scale, at = 0, 1, 2
  repeat
    local byte = string.byte(value, at)
    if not byte or at > 6 then
      return nil
    end
    length = length + (byte % 128) * scale
    scale = scale * 128
    at = at + 1
  until byte < 128
  if length < 18 or #value ~= at - 1 + length then
    return nil
  end
  return string.sub(value, -18)
end

-- -1, 0 or 1 as `width` bytes of `a` from `i` are less than, equal to or greater than those of `b` from `j`
local function compare(a, i, b, j, width)
  for step = 0, width - 1 do
    local left, right = string.byte(a, i + step), string.byte(b, j + step)
    if left ~= right then
      return left < right and -1 or 1
    end
  end
  return 0
end

local NONE = string.rep('\0', 8)

local function decide(stored, new)
  local from_none = compare(new, BUILT_FROM, NONE, 1, 8) == 0
  if not stored then
    return from_none and 'W' or 'C'
  end
  local generations = compare(stored, GENERATION, new, GENERATION, 2)
  local versions = compare(stored, VERSION, new, VERSION, 8)
  if generations == 0 then
    if compare(stored, VERSION, new, BUILT_FROM, 8) == 0 then
      return 'W'
    end
    return versions >= 0 and 'A' or 'C'
  end
  return from_none and generations < 0 and versions <= 0 and 'W' or 'C'
end

local outcomes = {}
for row = 1, #KEYS do
  local value = ARGV[1 + 2 * row]
  local stored = redis.call('HGET', KEYS[row], ARGV[1])
  local trailer = stored and trailer_of(stored)
  if stored and not trailer then
    outcomes[row] = 'U'
  else
    outcomes[row] = decide(trailer, trailer_of(value))
    if outcomes[row] == 'W' then
      redis.call('HSET', KEYS[row], ARGV[1], value, ARGV[2], ARGV[2 + 2 * row])
    end
  end
end
return table.concat(outcomes)
