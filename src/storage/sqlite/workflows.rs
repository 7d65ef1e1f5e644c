//! Definitions as rows. A row's number is known within a transaction only: that of one which is removed may
//! be given to another.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::writer::Done;
use crate::id::RunId;
use crate::storage::workflows::{Workflows, Written};
use crate::workflow::Workflow;

/// The definition in this row.
pub(super) fn read(
    workflows: &Workflows,
    connection: &Connection,
    row: i64,
    run: &RunId,
) -> Done<Workflow> {
    let mut hash = connection.prepare_cached("SELECT hash FROM workflows WHERE workflow = ?1")?;
    let hash: String = hash.query_row([row], |row| row.get(0))?;
    if let Some(workflow) = workflows.at_hand(&hash) {
        return Ok(Ok(workflow));
    }
    let mut json =
        connection.prepare_cached("SELECT definition FROM workflows WHERE workflow = ?1")?;
    let json: String = json.query_row([row], |row| row.get(0))?;
    Ok(workflows.read(&hash, &json, run))
}

/// The row that has a definition, which is made if there is none.
pub(super) fn row(workflow: &Written, connection: &Connection) -> rusqlite::Result<i64> {
    let mut find = connection.prepare_cached("SELECT workflow FROM workflows WHERE hash = ?1")?;
    if let Some(row) = find.query_row([&*workflow.hash], |row| row.get(0)).optional()? {
        return Ok(row);
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO workflows (id, version, hash, definition) VALUES (?1, ?2, ?3, ?4)",
    )?;
    insert.insert(params![workflow.id(), workflow.version(), &*workflow.hash, &*workflow.json()])
}

/// The rows of the definitions that a run names.
pub(super) fn of_run(connection: &Connection, run: i64) -> rusqlite::Result<Vec<i64>> {
    let mut find = connection.prepare_cached(
        "SELECT workflow FROM runs WHERE run = ?1
         UNION SELECT workflow FROM run_workflows WHERE run = ?1",
    )?;
    find.query_map([run], |row| row.get(0))?.collect()
}

/// Removes those of these definitions that no run names any more.
pub(super) fn remove_unnamed(
    connection: &Connection,
    rows: &BTreeSet<i64>,
) -> rusqlite::Result<()> {
    let mut remove = connection.prepare_cached(
        "DELETE FROM workflows WHERE workflow = ?1
           AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.workflow = workflows.workflow)
           AND NOT EXISTS (SELECT 1 FROM run_workflows
                           WHERE run_workflows.workflow = workflows.workflow)",
    )?;
    for row in rows {
        remove.execute([row])?;
    }
    Ok(())
}
