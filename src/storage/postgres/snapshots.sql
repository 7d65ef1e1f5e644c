CREATE TABLE stepwell.snapshots (
  run       bigint PRIMARY KEY,
  events    bigint NOT NULL,
  forgotten bigint NOT NULL,
  state     text NOT NULL
);

CREATE TABLE stepwell.purged (
  id       text COLLATE "C" PRIMARY KEY,
  workflow text COLLATE "C" NOT NULL,
  owner    uuid NOT NULL
);

CREATE INDEX runs_finished ON stepwell.runs (changed_at, id) WHERE state = 'finished';

CREATE OR REPLACE VIEW stepwell.run_overview AS
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
  runs.user_name,
  coalesce(snapshots.forgotten, 0) AS forgotten
FROM stepwell.runs JOIN stepwell.workflows USING (workflow) LEFT JOIN stepwell.snapshots USING (run);
