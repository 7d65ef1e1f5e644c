CREATE TABLE stepwell.workflows (
  workflow   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id         text COLLATE "C" NOT NULL,
  version    bigint,
  hash       text COLLATE "C" NOT NULL UNIQUE,
  definition json NOT NULL
);

CREATE INDEX workflows_by_id ON stepwell.workflows (id, version);

CREATE TABLE stepwell.runs (
  run        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id         text COLLATE "C" NOT NULL UNIQUE,
  workflow   bigint NOT NULL REFERENCES stepwell.workflows,
  status     text COLLATE "C" NOT NULL CHECK (status IN ('pending', 'running', 'paused', 'cancelling', 'succeeded',
               'failed', 'cancelled', 'timed_out')),
  created_at bigint NOT NULL,
  changed_at bigint NOT NULL,
  events     bigint NOT NULL,
  state      text COLLATE "C" NOT NULL CHECK (state IN ('held', 'parked', 'finished', 'aside')),
  owner      uuid CHECK ((owner IS NOT NULL) = (state = 'held')),
  due        bigint CHECK (due IS NULL OR state IN ('parked', 'aside')),
  inbox      bigint NOT NULL DEFAULT 0,
  posted     bigint NOT NULL DEFAULT 0,
  answered   bigint NOT NULL DEFAULT 0,
  recoveries bigint NOT NULL DEFAULT 0,
  problem    text,
  user_name  text,
  metadata   json
) WITH (fillfactor = 45);
-- A commit changes a run's row, mostly no column that has an index. All runs of a page may be changed
-- at once: there is room for a second version of each, so that no index hears of it.

CREATE INDEX runs_by_age ON stepwell.runs (created_at, id);
CREATE INDEX runs_by_status ON stepwell.runs (status, created_at, id);
CREATE INDEX runs_by_workflow ON stepwell.runs (workflow);
CREATE INDEX runs_by_owner ON stepwell.runs (owner, id) WHERE owner IS NOT NULL;
CREATE INDEX runs_by_due ON stepwell.runs (due, id) WHERE due IS NOT NULL;
CREATE INDEX runs_with_mail ON stepwell.runs (owner, id) WHERE inbox > 0;

CREATE TABLE stepwell.run_workflows (
  run      bigint NOT NULL REFERENCES stepwell.runs ON DELETE CASCADE,
  position integer NOT NULL,
  workflow bigint NOT NULL REFERENCES stepwell.workflows,
  PRIMARY KEY (run, position)
);

-- What follows refers to runs, too, without saying so: a check for each event would halve the speed,
-- and whoever writes has locked the run's row.

CREATE TABLE stepwell.events (
  run      bigint NOT NULL,
  position bigint NOT NULL,
  at       bigint NOT NULL,
  scope    bigint,
  step     bigint,
  kind     text COLLATE "C" NOT NULL,
  data     json,
  PRIMARY KEY (run, position)
);

CREATE TABLE stepwell.messages (
  run     bigint NOT NULL,
  number  bigint NOT NULL,
  message json NOT NULL,
  PRIMARY KEY (run, number)
);

CREATE TABLE stepwell.answers (
  run       bigint NOT NULL,
  position  bigint NOT NULL,
  number    bigint NOT NULL,
  rejection json,
  PRIMARY KEY (run, position)
);

CREATE TABLE stepwell.locks (
  lock text COLLATE "C" PRIMARY KEY,
  next bigint NOT NULL
);

CREATE INDEX locks_by_next ON stepwell.locks (next);

CREATE TABLE stepwell.lock_holders (
  lock  text COLLATE "C" NOT NULL,
  run   text COLLATE "C" NOT NULL,
  scope bigint NOT NULL,
  step  bigint NOT NULL,
  PRIMARY KEY (lock, run, scope, step)
);

CREATE INDEX lock_holders_by_run ON stepwell.lock_holders (run, scope, step);

CREATE TABLE stepwell.owners (
  owner uuid PRIMARY KEY,
  beats bigint NOT NULL,
  state text COLLATE "C" NOT NULL CHECK (state IN ('alive', 'retired', 'gone'))
);

CREATE FUNCTION stepwell.moment(micros bigint) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS 'SELECT to_timestamp(micros / 1e6)';

CREATE VIEW stepwell.run_overview AS
SELECT
  runs.id AS run,
  workflows.id AS workflow,
  workflows.version,
  substr(workflows.hash, 1, 12) AS definition,
  runs.status,
  stepwell.moment(runs.created_at) AS created_at,
  stepwell.moment(runs.changed_at) AS changed_at,
  runs.events,
  runs.state,
  stepwell.moment(runs.due) AS due,
  runs.inbox,
  runs.recoveries,
  runs.problem,
  runs.user_name
FROM stepwell.runs JOIN stepwell.workflows USING (workflow);

CREATE VIEW stepwell.definition_changes AS
SELECT
  runs.id AS run,
  events.position,
  stepwell.moment(events.at) AS at,
  (events.data #>> '{operation,modify,workflow,version}')::bigint AS version,
  events.data #>> '{by,by}' AS changed_by,
  events.data #>> '{by,why}' AS why
FROM stepwell.runs JOIN stepwell.events USING (run)
WHERE events.kind = 'operated' AND events.data #> '{operation,modify}' IS NOT NULL;

CREATE VIEW stepwell.step_states AS
SELECT
  runs.id AS run,
  last.scope,
  last.step,
  CASE WHEN last.scope = 0 THEN workflows.definition -> 'steps' -> last.step::integer ->> 'id' END AS name,
  CASE last.kind
    WHEN 'step_reset' THEN 'pending'
    WHEN 'step_started' THEN 'running'
    WHEN 'wait_started' THEN 'waiting'
    WHEN 'step_suspended' THEN 'waiting'
    WHEN 'attempt_failed' THEN 'retrying'
    ELSE substr(last.kind, 6)
  END AS status,
  stepwell.moment(last.at) AS since,
  last.position
FROM stepwell.runs JOIN stepwell.workflows USING (workflow)
CROSS JOIN LATERAL (
  SELECT DISTINCT ON (events.scope, events.step) events.*
  FROM stepwell.events
  WHERE events.run = runs.run AND events.kind IN (
    'step_ready', 'step_started', 'step_succeeded', 'attempt_failed', 'step_failed', 'step_skipped',
    'step_outcome_unknown', 'step_cancelled', 'wait_started', 'step_suspended', 'step_reset'
  )
  ORDER BY events.scope, events.step, events.position DESC
) AS last;
