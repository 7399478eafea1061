-- Moves the fence of one partition (feature_repo/fence.py).
--
-- KEYS   [1] the hash of a topic's fences
-- ARGV   [1] verb: place, advance, status, hold or replace; [2] partition; [3] epoch; [4] next offset; [5] status;
--        [6] since_ms, or the end of the hold
-- returns "1" if something was changed, "0" if not, "none" if there is no fence to change the status of

local verb, partition = ARGV[1], ARGV[2]
local function field(name)
  return partition .. ':' .. name
end

local stored = redis.call('HMGET', KEYS[1], field('epoch'), field('next_offset'), field('status'))
local epoch, next_offset, status = stored[1], stored[2], stored[3]

if verb == 'status' then
  if not epoch then
    return 'none'
  end
  if status == ARGV[5] then
    return '0'
  end
  redis.call('HSET', KEYS[1], field('status'), ARGV[5], field('since_ms'), ARGV[6])
  return '1'
end

if verb == 'hold' then
  if not epoch then
    return 'none'
  end
  redis.call('HSET', KEYS[1], field('hold_until_ms'), ARGV[6])
  return '1'
end

if verb == 'place' and epoch then
  return '0'
end

if verb == 'advance' and epoch == ARGV[3] then
  if not less(next_offset, ARGV[4]) then
    return '0'
  end
  redis.call('HSET', KEYS[1], field('next_offset'), ARGV[4])
  return '1'
end

-- a partition that joins a halted topic is halted; one that was halted stays so
if not epoch then
  local all = redis.call('HGETALL', KEYS[1])
  for at = 1, #all, 2 do
    if string.sub(all[at], -16) == ':halted_since_ms' then
      redis.call('HSET', KEYS[1], field('halted_since_ms'), all[at + 1])
      break
    end
  end
end

redis.call('HDEL', KEYS[1], field('hold_until_ms'))
redis.call('HSET', KEYS[1], field('epoch'), ARGV[3], field('next_offset'), ARGV[4],
  field('status'), ARGV[5], field('since_ms'), ARGV[6])
return '1'
