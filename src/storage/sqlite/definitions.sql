CREATE INDEX runs_by_workflow ON runs (workflow);
CREATE INDEX run_workflows_by_workflow ON run_workflows (workflow);

-- Those of runs that were removed before.
DELETE FROM workflows
WHERE NOT EXISTS (SELECT 1 FROM runs WHERE runs.workflow = workflows.workflow)
  AND NOT EXISTS (SELECT 1 FROM run_workflows WHERE run_workflows.workflow = workflows.workflow);
