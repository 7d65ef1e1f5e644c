CREATE VIEW workflow_steps AS
SELECT
  workflows.id AS workflow,
  workflows.version,
  substr(workflows.hash, 1, 12) AS definition,
  step.key AS step,
  step.value ->> '$.id' AS name
FROM workflows, json_each(workflows.definition, '$.steps') AS step;

-- One step that is named stands for itself, several in a list: for `json_each` that is the same.
CREATE VIEW step_dependencies AS
WITH edges AS (
  SELECT workflows.workflow, step.value ->> '$.id' AS name, edge.key AS kind, NULL AS class, other.value AS other
  FROM workflows, json_each(workflows.definition, '$.steps') AS step, json_each(step.value) AS edge,
    json_each(step.value, edge.fullkey) AS other
  WHERE edge.key IN ('after', 'on_success', 'on_failure', 'otherwise', 'always')
  UNION ALL
  SELECT workflows.workflow, step.value ->> '$.id', 'on_error', class.key, other.value
  FROM workflows, json_each(workflows.definition, '$.steps') AS step,
    json_each(step.value, '$.on_error') AS class, json_each(step.value, class.fullkey) AS other
)
SELECT
  workflows.id AS workflow,
  workflows.version,
  substr(workflows.hash, 1, 12) AS definition,
  iif(edges.kind = 'after', edges.name, edges.other) AS name,
  iif(edges.kind = 'after', edges.other, edges.name) AS depends_on,
  edges.kind,
  edges.class
FROM workflows JOIN edges USING (workflow);
