CREATE TABLE workflows (
  workflow   INTEGER PRIMARY KEY,
  id         TEXT NOT NULL,
  version    INTEGER,
  hash       TEXT NOT NULL UNIQUE,
  definition TEXT NOT NULL
) STRICT;

CREATE INDEX workflows_by_id ON workflows (id, version);

CREATE TABLE runs (
  run        INTEGER PRIMARY KEY,
  id         TEXT NOT NULL UNIQUE,
  workflow   INTEGER NOT NULL REFERENCES workflows,
  status     TEXT NOT NULL CHECK (status IN ('pending', 'running', 'paused', 'cancelling', 'succeeded',
               'failed', 'cancelled', 'timed_out')),
  created_at INTEGER NOT NULL,
  changed_at INTEGER NOT NULL,
  events     INTEGER NOT NULL,
  state      TEXT NOT NULL CHECK (state IN ('held', 'parked', 'finished', 'aside')),
  owner      BLOB CHECK ((owner IS NOT NULL) = (state = 'held') AND coalesce(length(owner), 16) = 16),
  due        INTEGER CHECK (due IS NULL OR state IN ('parked', 'aside')),
  inbox      INTEGER NOT NULL DEFAULT 0,
  posted     INTEGER NOT NULL DEFAULT 0,
  answered   INTEGER NOT NULL DEFAULT 0,
  recoveries INTEGER NOT NULL DEFAULT 0,
  problem    TEXT,
  user       TEXT,
  metadata   TEXT
) STRICT;

CREATE INDEX runs_by_age ON runs (created_at, id);
CREATE INDEX runs_by_status ON runs (status, created_at, id);
CREATE INDEX runs_by_owner ON runs (owner, id) WHERE owner IS NOT NULL;
CREATE INDEX runs_by_due ON runs (due, id) WHERE due IS NOT NULL;
CREATE INDEX runs_with_mail ON runs (owner, id) WHERE inbox > 0;

CREATE TABLE run_workflows (
  run      INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
  position INTEGER NOT NULL,
  workflow INTEGER NOT NULL REFERENCES workflows,
  PRIMARY KEY (run, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
  run      INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
  position INTEGER NOT NULL,
  at       INTEGER NOT NULL,
  kind     TEXT NOT NULL,
  scope    INTEGER,
  step     INTEGER,
  data     TEXT,
  PRIMARY KEY (run, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE messages (
  run     INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
  number  INTEGER NOT NULL,
  message TEXT NOT NULL,
  PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE answers (
  run       INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
  position  INTEGER NOT NULL,
  number    INTEGER NOT NULL,
  rejection TEXT,
  PRIMARY KEY (run, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE locks (
  lock TEXT PRIMARY KEY,
  next INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX locks_by_next ON locks (next);

CREATE TABLE lock_holders (
  lock  TEXT NOT NULL,
  run   TEXT NOT NULL,
  scope INTEGER NOT NULL,
  step  INTEGER NOT NULL,
  PRIMARY KEY (lock, run, scope, step)
) STRICT, WITHOUT ROWID;

CREATE INDEX lock_holders_by_run ON lock_holders (run, scope, step);

CREATE TABLE owners (
  owner   BLOB PRIMARY KEY CHECK (length(owner) = 16),
  beats   INTEGER NOT NULL,
  state   TEXT NOT NULL CHECK (state IN ('alive', 'retired', 'gone'))
) STRICT, WITHOUT ROWID;

CREATE VIEW run_overview AS
SELECT
  runs.id AS run,
  workflows.id AS workflow,
  workflows.version,
  substr(workflows.hash, 1, 12) AS definition,
  runs.status,
  strftime('%Y-%m-%d %H:%M:%f', runs.created_at / 1e6, 'unixepoch') AS created_at,
  strftime('%Y-%m-%d %H:%M:%f', runs.changed_at / 1e6, 'unixepoch') AS changed_at,
  runs.events,
  runs.state,
  strftime('%Y-%m-%d %H:%M:%f', runs.due / 1e6, 'unixepoch') AS due,
  runs.inbox,
  runs.recoveries,
  runs.problem,
  runs.user
FROM runs JOIN workflows USING (workflow);

CREATE VIEW definition_changes AS
SELECT
  runs.id AS run,
  events.position,
  strftime('%Y-%m-%d %H:%M:%f', events.at / 1e6, 'unixepoch') AS at,
  events.data ->> '$.operation.modify.workflow.version' AS version,
  events.data ->> '$.by.by' AS changed_by,
  events.data ->> '$.by.why' AS why
FROM runs JOIN events USING (run)
WHERE events.kind = 'operated' AND events.data -> '$.operation.modify' IS NOT NULL;

CREATE VIEW step_states AS
SELECT
  runs.id AS run,
  events.scope,
  events.step,
  iif(events.scope = 0, workflows.definition ->> ('$.steps[' || events.step || '].id'), NULL) AS name,
  CASE events.kind
    WHEN 'step_reset' THEN 'pending'
    WHEN 'step_started' THEN 'running'
    WHEN 'wait_started' THEN 'waiting'
    WHEN 'step_suspended' THEN 'waiting'
    WHEN 'attempt_failed' THEN 'retrying'
    ELSE substr(events.kind, 6)
  END AS status,
  strftime('%Y-%m-%d %H:%M:%f', events.at / 1e6, 'unixepoch') AS since,
  max(events.position) AS position
FROM runs JOIN workflows USING (workflow) JOIN events USING (run)
WHERE events.kind IN (
  'step_ready', 'step_started', 'step_succeeded', 'attempt_failed', 'step_failed', 'step_skipped',
  'step_outcome_unknown', 'step_cancelled', 'wait_started', 'step_suspended', 'step_reset'
)
GROUP BY runs.id, events.scope, events.step;
