-- Puts the fences of a new log in place of those of the log that it follows (feature_repo/fence.py).
--
-- KEYS   [1] the hash of a topic's fences
-- ARGV   [1] epoch of the former log; [2] epoch of the new one; then four per partition: partition, next offset,
--        status, since_ms
-- returns "moved"; "done" if they are of the new log already; "other" if one is of neither
--
-- All at once: a worker that starts finds the fences of one log or of the other.

local stored = redis.call('HGETALL', KEYS[1])
local former, new, halted_since_ms = 0, 0, nil
for at = 1, #stored, 2 do
  if string.sub(stored[at], -6) == ':epoch' then
    if stored[at + 1] == ARGV[1] then
      former = former + 1
    elseif stored[at + 1] == ARGV[2] then
      new = new + 1
    else
      return 'other'
    end
  elseif string.sub(stored[at], -16) == ':halted_since_ms' then
    halted_since_ms = stored[at + 1]
  end
end
if new > 0 and former == 0 then
  return 'done'
end
redis.call('DEL', KEYS[1])
for at = 3, #ARGV, 4 do
  local partition = ARGV[at]
  redis.call('HSET', KEYS[1], partition .. ':epoch', ARGV[2], partition .. ':next_offset', ARGV[at + 1],
    partition .. ':status', ARGV[at + 2], partition .. ':since_ms', ARGV[at + 3])
  if halted_since_ms then
    redis.call('HSET', KEYS[1], partition .. ':halted_since_ms', halted_since_ms)
  end
end
return 'moved'
