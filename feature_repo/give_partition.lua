-- Notes that an owner has finished in order (feature_repo/partition_owners.py).
--
-- KEYS   [row] the hash of the topic's fences
-- ARGV   [1] owner; then per row: partition
-- returns a number per row: 1 if it still was the owner
--
-- Deaths are forgotten once the fence has moved on. Where it has not, whatever they died of is still to be read.

local told = {}
for row = 1, #KEYS do
  local partition = ARGV[1 + row]
  local function field(name)
    return partition .. ':' .. name
  end
  local stored = redis.call('HMGET', KEYS[row], field('next_offset'), field('owner'), field('died_at'))
  told[row] = 0
  if stored[2] == ARGV[1] then
    redis.call('HDEL', KEYS[row], field('owner'))
    if stored[3] and stored[1] and less(stored[3], stored[1]) then
      redis.call('HDEL', KEYS[row], field('died_at'), field('deaths'))
    end
    told[row] = 1
  end
end
return told
