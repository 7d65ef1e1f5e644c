//! Reading runs, their inboxes, and lists of them.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, Rows, params, params_from_iter};

use super::history;
use super::workflows::read as definition;
use super::writer::Done;
use crate::error::{Error, ErrorKind, Result};
use crate::id::RunId;
use crate::journal::{Recorded, Snapshot};
use crate::storage::rows::{
    corrupt, from_json, holding_of, integer, owner_bytes, recorded_of, status_of, status_word,
};
use crate::storage::workflows::Workflows;
use crate::storage::{Answer, Message, Owner, RunQuery, StoredRun, Summary};
use crate::time::Timestamp;
use crate::workflow::{Metadata, Workflow};

/// The columns of a run.
struct RunRow {
    run: i64,
    workflow: i64,
    status: String,
    events: i64,
    state: String,
    owner: Option<[u8; 16]>,
    due: Option<i64>,
    recoveries: i64,
    user: Option<String>,
    metadata: Option<String>,
}

pub(super) fn load(
    connection: &Connection,
    workflows: &Workflows,
    run: &RunId,
) -> Done<Option<StoredRun>> {
    let mut find = connection.prepare_cached(
        "SELECT run, workflow, status, events, state, owner, due, recoveries, user, metadata
         FROM runs WHERE id = ?1",
    )?;
    let found = find.query_row([run.as_str()], |row| {
        Ok(RunRow {
            run: row.get(0)?,
            workflow: row.get(1)?,
            status: row.get(2)?,
            events: row.get(3)?,
            state: row.get(4)?,
            owner: row.get(5)?,
            due: row.get(6)?,
            recoveries: row.get(7)?,
            user: row.get(8)?,
            metadata: row.get(9)?,
        })
    });
    let Some(row) = found.optional()? else { return Ok(Ok(None)) };
    let workflow = definition(workflows, connection, row.workflow, run)?;
    let linked = linked(connection, workflows, row.run, run)?;
    let snapshot = history::snapshot(connection, row.run)?;
    let from = snapshot.as_ref().map_or(0, |snapshot| integer(snapshot.events));
    let journal = journal(connection, row.run, from, row.events, run)?;
    Ok(row.with(run, workflow, linked, journal, snapshot).map(Some))
}

impl RunRow {
    fn with(
        self,
        run: &RunId,
        workflow: Result<Workflow>,
        linked: Result<Vec<Workflow>>,
        journal: Result<Vec<Recorded>>,
        snapshot: Option<Box<Snapshot>>,
    ) -> Result<StoredRun> {
        let metadata = match &self.metadata {
            Some(json) => from_json(json, run, "its metadata cannot be read")?,
            None => Metadata::default(),
        };
        Ok(StoredRun {
            workflow: workflow?,
            linked: linked?,
            user: self.user,
            metadata,
            snapshot,
            journal: journal?,
            status: status_of(&self.status, run)?,
            holding: holding_of(&self.state, self.owner, self.due, run)?,
            recoveries: u32::try_from(self.recoveries).unwrap_or(u32::MAX),
        })
    }
}

fn linked(
    connection: &Connection,
    workflows: &Workflows,
    row: i64,
    run: &RunId,
) -> Done<Vec<Workflow>> {
    let mut find = connection
        .prepare_cached("SELECT workflow FROM run_workflows WHERE run = ?1 ORDER BY position")?;
    let rows = find.query_map([row], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
    let mut linked = Vec::with_capacity(rows.len());
    for row in rows {
        match definition(workflows, connection, row, run)? {
            Ok(workflow) => linked.push(workflow),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(linked))
}

/// The events from this position on.
fn journal(
    connection: &Connection,
    row: i64,
    from: i64,
    length: i64,
    run: &RunId,
) -> Done<Vec<Recorded>> {
    let mut find = connection.prepare_cached(
        "SELECT position, at, kind, data FROM events
         WHERE run = ?1 AND position >= ?2 ORDER BY position",
    )?;
    let mut rows = find.query([row, from])?;
    let mut journal = Vec::new();
    while let Some(row) = rows.next()? {
        let kind = row.get_ref(2)?.as_str()?;
        let data = row.get_ref(3)?.as_str_or_null()?;
        if row.get::<_, i64>(0)? != from + integer(journal.len()) {
            break;
        }
        match recorded_of(row.get(1)?, kind, data, run) {
            Ok(recorded) => journal.push(recorded),
            Err(error) => return Ok(Err(error)),
        }
    }
    if from + integer(journal.len()) != length {
        let kept = journal.len();
        let message = format!(
            "its journal has {length} events, of which {kept} are there in order from {from} on"
        );
        return Ok(Err(corrupt(run, message)));
    }
    Ok(Ok(journal))
}

pub(super) fn inbox(connection: &Connection, run: &RunId) -> Done<Vec<(u64, Message)>> {
    let mut find = connection.prepare_cached(
        "SELECT number, message FROM runs JOIN messages USING (run) WHERE id = ?1 ORDER BY number",
    )?;
    let mut rows = find.query([run.as_str()])?;
    let mut inbox = Vec::new();
    while let Some(row) = rows.next()? {
        let number = row.get::<_, i64>(0)?.unsigned_abs();
        match from_json(row.get_ref(1)?.as_str()?, run, "a message cannot be read") {
            Ok(message) => inbox.push((number, message)),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(inbox))
}

pub(super) fn answer(connection: &Connection, run: &RunId, number: u64) -> Done<Option<Answer>> {
    let mut find = connection.prepare_cached(
        "SELECT rejection FROM runs JOIN answers USING (run)
         WHERE id = ?1 AND number = ?2 ORDER BY position LIMIT 1",
    )?;
    let found = find
        .query_row(params![run.as_str(), integer(number)], |row| row.get::<_, Option<String>>(0));
    Ok(match found.optional()? {
        None => Ok(None),
        Some(None) => Ok(Some(Ok(()))),
        Some(Some(json)) => {
            from_json(&json, run, "an answer cannot be read").map(|rejection| Some(Err(rejection)))
        }
    })
}

pub(super) fn mail(connection: &Connection, owner: Owner, limit: usize) -> Done<Vec<RunId>> {
    let mut find = connection.prepare_cached(
        "SELECT id FROM runs WHERE owner = ?1 AND inbox > 0 ORDER BY id LIMIT ?2",
    )?;
    ids(find.query(params![owner_bytes(owner), integer(limit)])?).map(Ok)
}

pub(super) fn held(
    connection: &Connection,
    owner: Owner,
    after: Option<&RunId>,
    limit: usize,
) -> Done<Vec<RunId>> {
    let mut find = connection
        .prepare_cached("SELECT id FROM runs WHERE owner = ?1 AND id > ?2 ORDER BY id LIMIT ?3")?;
    let after = after.map_or("", RunId::as_str);
    ids(find.query(params![owner_bytes(owner), after, integer(limit)])?).map(Ok)
}

/// Ids of runs, from the first column; what nobody can name is passed over.
fn ids(mut rows: Rows<'_>) -> rusqlite::Result<Vec<RunId>> {
    let mut runs = Vec::new();
    while let Some(row) = rows.next()? {
        runs.extend(RunId::new(row.get_ref(0)?.as_str()?).ok());
    }
    Ok(runs)
}

pub(super) fn next_due(connection: &Connection) -> Done<Option<Timestamp>> {
    let mut addressed = connection.prepare_cached(
        "SELECT 1 FROM runs WHERE inbox > 0 AND owner IS NULL AND state <> 'aside' LIMIT 1",
    )?;
    if addressed.exists([])? {
        return Ok(Ok(Some(Timestamp::EPOCH)));
    }
    let mut due = connection.prepare_cached("SELECT min(due) FROM runs WHERE due IS NOT NULL")?;
    let due: Option<i64> = due.query_row([], |row| row.get(0))?;
    Ok(Ok(due.map(Timestamp::from_micros)))
}

pub(super) fn list(connection: &Connection, query: &RunQuery) -> Done<Vec<Summary>> {
    let mut sql = String::from(
        "SELECT runs.id, workflows.id, status, created_at, changed_at, runs.events, problem,
           coalesce(forgotten, 0)
         FROM runs JOIN workflows USING (workflow) LEFT JOIN snapshots USING (run) WHERE 1",
    );
    let mut wanted = Vec::new();
    if let Some(status) = query.status {
        sql += " AND status = ?";
        wanted.push(Value::from(status_word(status).to_owned()));
    }
    if let Some(workflow) = &query.workflow {
        // Not by the definitions: all their runs would be read and sorted for the newest few.
        sql += " AND +workflows.id = ?";
        wanted.push(Value::from(workflow.clone()));
    }
    if query.live {
        sql += " AND status IN ('pending', 'running', 'paused', 'cancelling')";
    }
    if let Some((at, last)) = &query.before {
        sql += " AND (created_at, runs.id) < (?, ?)";
        wanted.push(Value::from(at.as_micros()));
        wanted.push(Value::from(last.as_str().to_owned()));
    }
    sql += " ORDER BY created_at DESC, runs.id DESC LIMIT ?";
    wanted.push(Value::from(integer(query.most())));
    let mut find = connection.prepare_cached(&sql)?;
    let mut rows = find.query(params_from_iter(wanted))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        match summary(row)? {
            Ok(summary) => found.push(summary),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(found))
}

fn summary(row: &Row<'_>) -> Done<Summary> {
    let id: String = row.get(0)?;
    let Ok(id) = RunId::new(&id) else {
        let message = format!("the id `{}` of a run is damaged; rename it", id.escape_debug());
        return Ok(Err(Error::new(ErrorKind::Storage, message)));
    };
    let status: String = row.get(2)?;
    Ok(match status_of(&status, &id) {
        Ok(status) => Ok(Summary {
            workflow: row.get(1)?,
            status,
            created_at: Timestamp::from_micros(row.get(3)?),
            changed_at: Timestamp::from_micros(row.get(4)?),
            events: row.get::<_, i64>(5)?.unsigned_abs(),
            problem: row.get(6)?,
            forgotten: row.get::<_, i64>(7)?.unsigned_abs(),
            id,
        }),
        Err(error) => Err(error),
    })
}
