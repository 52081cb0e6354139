-- What [ZFS.Change] runs, as a channel program: see there what it does. All it is about comes in its arguments: counts,
-- then so many of what is counted. GUIDs are signed here. What it returns holds no text but its own: zfs cuts off an answer
-- at the first character that is not ASCII.
local argv, at = (...)["argv"], 0

local function word()
  at = at + 1
  return argv[at]
end

local function list(read)
  local l = {}
  for i = 1, tonumber(word()) do
    l[i] = read()
  end
  return l
end

local function pair()
  local name = word()
  return {name, word()}
end

local function marking()
  local props = list(pair)
  return {props = props, refs = list(pair)}
end

local function spare()
  local name = word()
  local guid = word()
  return {name, guid, word()}
end

local function volume()
  local v = {name = word()}
  v.guid = word()
  v.readonly = word()
  v.own = list(pair)
  v.need = list(pair)
  v.markings = list(marking)
  v.marks = list(word)
  v.destroy = list(spare)
  return v
end

local function change()
  local c = {take = word()}
  c.props = list(pair)
  c.volumes = list(volume)
  return c
end

local function guid(name)
  local n = zfs.get_prop(name, "guid")
  return tostring(n)
end

local function is(name, want)
  return zfs.exists(name) and guid(name) == want
end

-- own is a user property that was set on the thing itself, or received with it.
local function own(name, prop)
  local value, source = zfs.get_prop(name, prop)
  if source == name or source == "$recvd" then
    return value
  end
end

-- wrong tells what keeps a change from being made: what it is about, and why.
local function wrong(c)
  for _, v in ipairs(c.volumes) do
    if not zfs.exists(v.name) then
      return v.name, "gone"
    elseif v.guid ~= "0" and guid(v.name) ~= v.guid then
      return v.name, "other"
    elseif v.readonly == "1" and zfs.get_prop(v.name, "readonly") ~= "on" then
      return v.name, "writable"
    end
    for _, p in ipairs(v.own) do
      if own(v.name, p[1]) ~= p[2] then
        return v.name, "property " .. p[1]
      end
    end
    for _, s in ipairs(v.need) do
      if not is(v.name .. "@" .. s[1], s[2]) then
        return v.name .. "@" .. s[1], "gone"
      end
    end
    if c.take ~= "" then
      local full = v.name .. "@" .. c.take
      local err = zfs.exists(full) and EEXIST or zfs.check.snapshot(full)
      if err ~= 0 then
        return full, tostring(err)
      end
    end
  end
end

local function set(full, props)
  for _, p in ipairs(props) do
    local err = zfs.sync.set_prop(full, p[1], p[2])
    if err ~= 0 then
      return err
    end
  end
  return 0
end

-- take makes the snapshots of all volumes, or of none: checked before, a failure is not to be expected.
local function take(c)
  for i, v in ipairs(c.volumes) do
    local full = v.name .. "@" .. c.take
    local before = zfs.get_prop(v.name, "prevsnap")
    local err = zfs.sync.snapshot(full)
    if err == 0 then
      err = set(full, c.props)
    end
    if err ~= 0 then
      for k = 1, i do
        local taken = c.volumes[k].name .. "@" .. c.take
        if zfs.exists(taken) then
          zfs.sync.destroy(taken)
        end
      end
      return full, tostring(err)
    end
    v.done.before = before and zfs.get_prop(before, "guid") or 0
    v.done.guid = zfs.get_prop(full, "guid")
    v.done.txg = zfs.get_prop(full, "createtxg")
    v.done.creation = zfs.get_prop(full, "creation")
    v.done.written = zfs.get_prop(full, "written")
  end
end

local function mark(v)
  for _, m in ipairs(v.markings) do
    for _, s in ipairs(m.refs) do
      local full = v.name .. "@" .. s[1]
      if is(full, s[2]) then
        local err = set(full, m.props)
        if err ~= 0 then
          return full, tostring(err)
        end
      end
    end
  end
end

local function marked(full, marks)
  for _, p in ipairs(marks) do
    if own(full, p) then
      return true
    end
  end
  return false
end

-- destroy returns why the snapshot stays, or nothing.
local function destroy(v, s)
  local full = v.name .. "@" .. s[1]
  if not is(full, s[2]) then
    return "gone"
  elseif not marked(full, v.marks) then
    return "unmarked"
  elseif zfs.get_prop(full, "userrefs") > 0 then
    return "held"
  end
  local err = zfs.check.destroy(full)
  if err == 0 and s[3] ~= "" then
    err = zfs.sync.bookmark(full, v.name .. "#" .. s[3])
    if err ~= 0 then
      return "bookmark " .. tostring(err)
    end
  end
  if err == 0 then
    err = zfs.sync.destroy(full)
  end
  if err == EEXIST then
    return "clones"
  elseif err ~= 0 then
    return tostring(err)
  end
end

local function run(c)
  local name, why = wrong(c)
  if why then
    return {at = name, why = why}
  end
  local out = {}
  for i, v in ipairs(c.volumes) do
    v.done = {left = {}}
    out[i] = v.done
  end
  if c.take ~= "" then
    name, why = take(c)
  end
  for _, v in ipairs(c.volumes) do
    if not why then
      name, why = mark(v)
    end
  end
  if why then
    return {at = name, why = why}
  end
  for _, v in ipairs(c.volumes) do
    for i, s in ipairs(v.destroy) do
      v.done.left[i] = destroy(v, s)
    end
  end
  return {volumes = out}
end

local answers = {}
for i, c in ipairs(list(change)) do
  answers[i] = run(c)
end
return answers
