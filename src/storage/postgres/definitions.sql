CREATE INDEX run_workflows_by_workflow ON stepwell.run_workflows (workflow);

-- Those of runs that were removed before. Whoever adds a run, linked or not, waits for who makes this index.
DELETE FROM stepwell.workflows
WHERE NOT EXISTS (SELECT FROM stepwell.runs WHERE runs.workflow = workflows.workflow)
  AND NOT EXISTS (
    SELECT FROM stepwell.run_workflows WHERE run_workflows.workflow = workflows.workflow
  );
