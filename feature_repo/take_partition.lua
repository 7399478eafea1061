-- Notes who owns partitions, and counts owners that died at the same place (feature_repo/partition_owners.py).
--
-- KEYS   [row] the hash of the topic's fences
-- ARGV   [1] owner; [2] within; then per row: partition
-- returns a number per row: how many owners in a row have died with the fence at about the same offset
--
-- The fields lie beside the fence's own, which releases that do not know them ignore. The distance of two offsets may
-- be a Lua number: one that is off by a little only decides how carefully records are read.

local told = {}
for row = 1, #KEYS do
  local partition = ARGV[2 + row]
  local function field(name)
    return partition .. ':' .. name
  end
  local stored = redis.call('HMGET', KEYS[row], field('next_offset'), field('owner'), field('died_at'), field('deaths'))
  local at, owner, died_at, deaths = stored[1], stored[2], stored[3], stored[4]
  local count = 0
  if at then
    if died_at then
      local moved = tonumber(at) - tonumber(died_at)
      if moved >= 0 and moved < tonumber(ARGV[2]) then
        count = tonumber(deaths)
      end
    end
    if owner and owner ~= ARGV[1] then
      count = count + 1
      redis.call('HSET', KEYS[row], field('died_at'), at, field('deaths'), count)
    end
    redis.call('HSET', KEYS[row], field('owner'), ARGV[1])
  end
  told[row] = count
end
return told
