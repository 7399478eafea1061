-- Halts all partitions of a topic that have a fence, or ends that (feature_repo/fence.py).
--
-- KEYS   [1] the hash of the topic's fences
-- ARGV   [1] since_ms; 0 to end the halt
-- returns how many partitions were changed; one that is halted already keeps its since
--
-- The field lies beside the fence's own, which releases that do not know it ignore.

local changed = 0
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(name, -6) == ':epoch' then
    local field = string.sub(name, 1, -7) .. ':halted_since_ms'
    if ARGV[1] == '0' then
      changed = changed + redis.call('HDEL', KEYS[1], field)
    else
      changed = changed + redis.call('HSETNX', KEYS[1], field, ARGV[1])
    end
  end
end
return changed
