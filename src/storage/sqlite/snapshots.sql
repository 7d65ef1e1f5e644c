CREATE TABLE snapshots (
  run       INTEGER PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
  events    INTEGER NOT NULL,
  forgotten INTEGER NOT NULL,
  state     TEXT NOT NULL
) STRICT;

CREATE TABLE purged (
  id       TEXT PRIMARY KEY,
  workflow TEXT NOT NULL,
  owner    BLOB NOT NULL CHECK (length(owner) = 16)
) STRICT, WITHOUT ROWID;

CREATE INDEX runs_finished ON runs (changed_at, id) WHERE state = 'finished';

DROP VIEW run_overview;

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
  coalesce(snapshots.forgotten, 0) AS forgotten,
  runs.state,
  strftime('%Y-%m-%d %H:%M:%f', runs.due / 1e6, 'unixepoch') AS due,
  runs.inbox,
  runs.recoveries,
  runs.problem,
  runs.user
FROM runs JOIN workflows USING (workflow) LEFT JOIN snapshots USING (run);
