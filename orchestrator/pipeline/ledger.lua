-- All writes of the ledger. One call of this script is one write: it happens whole or not at all.
--
-- KEYS: head, groups, commits, workers, errors, counts, scaling (docs/ledger.md describes them).
-- ARGV: operation, run, epoch of the driver, number of the write, id of the request, arguments
-- as JSON. The answer is {status, epoch or number, JSON}.

local head, groups, commits, workers, errors, counts, scaling = unpack(KEYS)
local operation, run, epoch = ARGV[1], ARGV[2], tonumber(ARGV[3])
local number, request, given = tonumber(ARGV[4]), ARGV[5], cjson.decode(ARGV[6])
local now = tonumber(redis.call('TIME')[1])

local FORMAT = 1
local ERRORS_KEPT = 20
local WISHES_KEPT = 50
local HELD = {generating = true, scoring = true, ready = true}
local OPEN = {waiting = true, generating = true, scoring = true, ready = true}

local function of_head(name)
  return tonumber(redis.call('HGET', head, name) or 0)
end

local function group_at(step, place)
  local text = redis.call('HGET', groups, step .. ':' .. place)
  return text and cjson.decode(text)
end

local function put(step, place, group)
  redis.call('HSET', groups, step .. ':' .. place, cjson.encode(group))
end

local function waiting_group(attempt, reason)
  return {state = 'waiting', attempt = attempt, draw = 0, owner = '', deadline = 0,
          weight_version = -1, reason = reason}
end

-- Change every group whose claim is current: its attempt is the group's, and the group is in one of
-- the states `from`. All other claims came too late. They change nothing and are counted.
local function move(from, change)
  local moved = 0
  for _, claim in ipairs(given.claims) do
    local group = group_at(claim[1], claim[2])
    if group and group.attempt == claim[3] and from[group.state] then
      change(group)
      put(claim[1], claim[2], group)
      moved = moved + 1
    end
  end
  if moved < #given.claims then
    redis.call('HINCRBY', counts, 'late_refused', #given.claims - moved)
  end
  return moved
end

local operations = {}

function operations.admit()
  local fresh = cjson.encode(waiting_group(of_head('first_attempt'), ''))
  for place = 0, given.count - 1 do
    redis.call('HSETNX', groups, given.step .. ':' .. place, fresh)
  end
  redis.call('HSET', head, 'admitted', math.max(of_head('admitted'), given.step + 1))
end

function operations.lease()
  local leased = {}
  for index, place in ipairs(given.places) do
    local group = group_at(given.step, place)
    if group and group.state == 'waiting' then
      group.state, group.attempt, group.draw = 'generating', group.attempt + 1, given.draw
      group.owner, group.deadline, group.reason = given.owners[index], now + given.seconds, ''
      put(given.step, place, group)
      leased[#leased + 1] = {place, group.attempt}
    end
  end
  return leased
end

function operations.release()
  local released = move(HELD, function(group)
    group.state, group.owner, group.deadline = 'waiting', '', 0
    group.weight_version, group.reason = -1, given.reason
  end)
  redis.call('HINCRBY', counts, 'released_' .. given.kind, released)
  return released
end

function operations.sampled()
  return move({generating = true}, function(group)
    group.state, group.owner, group.deadline = 'scoring', '', 0
    group.weight_version = given.weight_version
  end)
end

function operations.scored()
  return move({scoring = true}, function(group) group.state = 'ready' end)
end

function operations.drop()
  local dropped = move(OPEN, function(group)
    group.state, group.owner, group.deadline = 'dropped', '', 0
    group.reason = given.reason
  end)
  redis.call('HINCRBY', counts, 'dropped_' .. given.kind, dropped)
  return dropped
end

function operations.commit()
  local step, committed = given.step, of_head('committed')
  if step < committed and redis.call('HGET', commits, step) == given.record then
    return committed
  end
  if step ~= committed then
    return {refused = 'step ' .. committed .. ' is the next to be committed'}
  end
  local claimed, problem, late = {}, nil, 0
  for _, claim in ipairs(given.claims) do
    claimed[claim[2]] = claim[3]
    local group = group_at(step, claim[2])
    if not (group and group.state == 'ready' and group.attempt == claim[3]) then
      problem = problem or 'group ' .. claim[2] .. ' is ' .. (group and group.state or 'unknown')
        .. (group and ', attempt ' .. group.attempt or '') .. '; the claim has attempt ' .. claim[3]
      late = late + 1
    end
  end
  local trained, place = {}, 0
  local group = group_at(step, place)
  while group do
    if claimed[place] then
      trained[place] = group
    elseif group.state ~= 'dropped' then
      problem = problem or 'group ' .. place .. ' is ' .. group.state .. ' and not in the commit'
    end
    place = place + 1
    group = group_at(step, place)
  end
  if place == 0 then problem = problem or 'the step was not admitted' end
  if problem then
    if late > 0 then redis.call('HINCRBY', counts, 'late_refused', late) end
    return {refused = problem}
  end
  for at, one in pairs(trained) do
    one.state = 'trained'
    put(step, at, one)
  end
  redis.call('HSET', commits, step, given.record)
  redis.call('HSET', head, 'committed', step + 1)
  return step + 1
end

function operations.checkpointed()
  if given.step > of_head('committed') then
    return {refused = 'only ' .. of_head('committed') .. ' steps are committed'}
  end
  redis.call('HSET', head, 'checkpoint', given.step)
end

function operations.fall_back()
  local committed = of_head('committed')
  if given.step > committed then return {behind = committed} end
  for step = given.step, of_head('admitted') - 1 do
    redis.call('HDEL', commits, step)
    local place = 0
    local group = group_at(step, place)
    while group do
      if group.state ~= 'waiting' then
        put(step, place, waiting_group(group.attempt, 'fell back to step ' .. given.step))
      end
      place = place + 1
      group = group_at(step, place)
    end
  end
  redis.call('HSET', head, 'committed', given.step)
  if of_head('checkpoint') > given.step then redis.call('HSET', head, 'checkpoint', given.step) end
  redis.call('HINCRBY', counts, 'steps_repeated', committed - given.step)
  return committed - given.step
end

function operations.note_workers()
  redis.call('DEL', workers)
  for _, worker in ipairs(given.workers) do
    local name = worker.name
    worker.name, worker.since = nil, now
    redis.call('HSET', workers, name, cjson.encode(worker))
  end
  local unanswered = {}
  for _, text in ipairs(redis.call('LRANGE', scaling, 0, -1)) do
    local wish = cjson.decode(text)
    if wish.answer == '' then unanswered[#unanswered + 1] = wish end
  end
  if #unanswered > 0 then return unanswered end
end

local function change_wish(id, change)
  for index, text in ipairs(redis.call('LRANGE', scaling, 0, -1)) do
    local wish = cjson.decode(text)
    if wish.id == id then
      change(wish)
      redis.call('LSET', scaling, index - 1, cjson.encode(wish))
    end
  end
end

function operations.take_up()
  change_wish(given.id, function(wish) wish.before = given.before end)
end

function operations.answer()
  change_wish(given.id, function(wish) wish.answer, wish.answered = given.answer, now end)
end

function operations.note_error()
  redis.call('LPUSH', errors, cjson.encode({time = now, epoch = epoch, text = given.text}))
  redis.call('LTRIM', errors, 0, ERRORS_KEPT - 1)
end

function operations.count()
  redis.call('HINCRBY', counts, given.name, given.by)
end

-- Anyone may wish for other numbers of workers. The driver finds the wish with its next notes.
local function wish()
  local sent = false
  change_wish(request, function() sent = true end)
  if not sent then
    redis.call('RPUSH', scaling, cjson.encode({id = request, asked_by = given.asked_by,
      wanted = given.wanted, asked = now, before = {}, answer = '', answered = 0}))
    -- What was granted decides how many workers a resumed run has: a wish that was not goes first.
    if redis.call('LLEN', scaling) > WISHES_KEPT then
      local spare
      for _, text in ipairs(redis.call('LRANGE', scaling, 0, -1)) do
        local answer = cjson.decode(text).answer
        if answer ~= '' and answer ~= 'done' then
          spare = text
          break
        end
      end
      if spare then
        redis.call('LREM', scaling, 1, spare)
      else
        redis.call('LPOP', scaling)
      end
    end
  end
  return {'ok', 0, cjson.encode(request)}
end

-- A new driver. Its epoch must be above every epoch before it.
local function take()
  if operation == 'rebuild' then
    redis.call('DEL', head, groups, commits)
    redis.call('HSET', head, 'committed', given.step, 'base', given.step, 'checkpoint', given.step,
      'first_attempt', given.first_attempt)
    redis.call('HINCRBY', counts, 'rebuilt', 1)
  else
    for _, name in ipairs({'committed', 'base', 'checkpoint', 'first_attempt'}) do
      redis.call('HSETNX', head, name, 0)
    end
  end
  redis.call('HSETNX', head, 'admitted', 0)
  redis.call('HSET', head, 'format', FORMAT, 'run', run, 'epoch', epoch, 'taken', now,
    'number', 0, 'request', request)
  local answer = cjson.encode(of_head('committed'))
  redis.call('HSET', head, 'answer', answer)
  redis.call('DEL', workers)
  return {'ok', 0, answer}
end

local function sent_before()
  return redis.call('HGET', head, 'request') == request
end

local known, held, reached = redis.call('HGET', head, 'run'), of_head('epoch'), of_head('number')
if known and known ~= run then return {'another', 0, known} end
if known and of_head('format') ~= FORMAT then
  return {'format', FORMAT, redis.call('HGET', head, 'format') or 'unknown'}
end
if operation == 'wish' then return known and wish() or {'none', 0, ''} end
if held == epoch and sent_before() then
  return {'ok', reached, redis.call('HGET', head, 'answer')}
end
if operation == 'take' or operation == 'rebuild' then
  if held >= epoch then return {'superseded', held, ''} end
  return take()
end
if held > epoch then return {'superseded', held, ''} end

-- Writes of one epoch are numbered. A number that was reached already is a write that was sent
-- twice. A gap means that writes which were acknowledged are gone.
if held < epoch or reached < number - 1 then return {'lost', held, ''} end
if reached > number then return {'repeated', reached, ''} end
local answer = cjson.encode(operations[operation]() or cjson.null)
redis.call('HSET', head, 'number', reached + 1, 'request', request, 'answer', answer)
return {'ok', reached + 1, answer}
