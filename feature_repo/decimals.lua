-- Shared by the scripts of the fences: decimal numbers of any size; a Lua number is exact only up to 2^53.
local function less(a, b)
  if #a ~= #b then
    return #a < #b
  end
  for i = 1, #a do
    local left, right = string.byte(a, i), string.byte(b, i)
    if left ~= right then
      return left < right
    end
  end
  return false
end
