-- Replaces states whatever their versions, each only if it is the very one that was read (feature_repo/replacing.py).
--
-- KEYS   one hash per row: the entity's
-- ARGV   [1] field of the state, [2] field of its timestamp, then per row: trailer of the state that was read, empty
--        for none; value, empty to remove the state; timestamp
-- returns one letter per row: W done, C another state is stored

local TRAILER_BYTES = 18

local told = {}
for row = 1, #KEYS do
  local at = 3 * row
  local read, value, timestamp = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local stored = redis.call('HGET', KEYS[row], ARGV[1])
  if (stored and string.sub(stored, -TRAILER_BYTES) or '') ~= read then
    told[row] = 'C'
  else
    told[row] = 'W'
    if value == '' then
      redis.call('HDEL', KEYS[row], ARGV[1], ARGV[2])
    else
      redis.call('HSET', KEYS[row], ARGV[1], value, ARGV[2], timestamp)
    end
  end
end
return table.concat(told)
