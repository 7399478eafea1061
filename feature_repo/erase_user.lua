-- Erases the states of one user, and notes in the same instant how far they had come (feature_repo/erasing.py).
--
-- KEYS   [1] the user's hash, [2] the project's marks
-- ARGV   [1] `all` where nothing of the user is to stay; then four per view: field of the state, field of its
--        timestamp, field of the mark, greatest version to erase
-- returns per view: the version that was erased (8 bytes, big-endian), or an empty string where nothing was
--
-- A stored value ends in the trailer of the state, and that in the version; versions are compared byte by byte.

local VERSION_BYTES = 8

local function less(a, b)
  for i = 1, VERSION_BYTES do
    local left, right = string.byte(a, i), string.byte(b, i)
    if left ~= right then
      return left < right
    end
  end
  return false
end

local told = {}
for at = 2, #ARGV, 4 do
  local state, timestamp, mark, limit = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local stored = redis.call('HGET', KEYS[1], state)
  -- what is too short to be a state is erased, too
  local version = stored and string.sub(stored, -VERSION_BYTES)
  if version and #version < VERSION_BYTES then
    version = string.rep('\0', VERSION_BYTES)
  end
  if version and not less(limit, version) then
    local marked = redis.call('HGET', KEYS[2], mark)
    if not marked or less(marked, version) then
      redis.call('HSET', KEYS[2], mark, version)
    end
    redis.call('HDEL', KEYS[1], state, timestamp)
    told[#told + 1] = version
  else
    told[#told + 1] = ''
  end
end
if ARGV[1] == 'all' then
  redis.call('DEL', KEYS[1])  -- with it, what views of other versions keep of the user
end
return told
