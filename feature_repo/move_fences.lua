-- Moves the fences of some partitions forward, each only if it stands where the worker left it (feature_repo/fence.py).
--
-- KEYS   [row] the hash of the topic's fences
-- ARGV   four per row: partition; epoch; the offset that it must have reached already; next offset
-- returns a letter per row: M moved, A already there, H halted, so that it stays where it is, L lost (none, of another
-- epoch, or further back than it was)

local told = {}
for row = 1, #KEYS do
  local at = 4 * (row - 1)
  local partition, epoch, reached, next_offset = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local stored = redis.call('HMGET', KEYS[row], partition .. ':epoch', partition .. ':next_offset',
    partition .. ':halted_since_ms')
  if not stored[1] or stored[1] ~= epoch or less(stored[2], reached) then
    told[row] = 'L'
  elseif stored[3] then
    told[row] = 'H'
  elseif less(stored[2], next_offset) then
    redis.call('HSET', KEYS[row], partition .. ':next_offset', next_offset)
    told[row] = 'M'
  else
    told[row] = 'A'
  end
end
return table.concat(told)
