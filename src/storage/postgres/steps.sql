CREATE VIEW stepwell.workflow_steps AS
SELECT
  workflows.id AS workflow,
  workflows.version,
  substr(workflows.hash, 1, 12) AS definition,
  step.place - 1 AS step,
  step.value ->> 'id' AS name
FROM stepwell.workflows
CROSS JOIN LATERAL json_array_elements(workflows.definition -> 'steps')
  WITH ORDINALITY AS step (value, place);

CREATE VIEW stepwell.step_dependencies AS
SELECT
  workflows.id AS workflow,
  workflows.version,
  substr(workflows.hash, 1, 12) AS definition,
  CASE edge.kind WHEN 'after' THEN step.value ->> 'id' ELSE other.name END AS name,
  CASE edge.kind WHEN 'after' THEN other.name ELSE step.value ->> 'id' END AS depends_on,
  edge.kind,
  edge.class
FROM stepwell.workflows
CROSS JOIN LATERAL json_array_elements(workflows.definition -> 'steps') AS step (value)
CROSS JOIN LATERAL (
  SELECT said.key AS kind, NULL AS class, said.value AS others
  FROM json_each(step.value) AS said
  WHERE said.key IN ('after', 'on_success', 'on_failure', 'otherwise', 'always')
  UNION ALL
  SELECT 'on_error', said.key, said.value FROM json_each(step.value -> 'on_error') AS said
) AS edge
-- One step that is named stands for itself, several in a list.
CROSS JOIN LATERAL json_array_elements_text(
  CASE json_typeof(edge.others) WHEN 'array' THEN edge.others ELSE json_build_array(edge.others) END
) AS other (name);
