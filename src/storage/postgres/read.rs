//! Reading runs, their inboxes, and lists of them.

use futures::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::access::{Done, Sql};
use super::history;
use super::text::{decode, decode_json};
use super::write::uuid_of;
use crate::error::{Error, ErrorKind, Result};
use crate::id::RunId;
use crate::journal::{Recorded, Snapshot};
use crate::storage::rows::{
    corrupt, from_json, holding_of, integer, recorded_of, status_of, status_word,
};
use crate::storage::workflows::Workflows;
use crate::storage::{Answer, Message, Owner, RunQuery, StoredRun, Summary};
use crate::time::Timestamp;
use crate::workflow::{Metadata, Workflow};

/// As of one moment.
pub(super) async fn load(
    connection: &mut PgConnection,
    sql: &Sql,
    workflows: &Workflows,
    run: &RunId,
) -> Done<Option<StoredRun>> {
    let find = sql.query(
        "SELECT runs.run, runs.events, runs.status, runs.state, runs.owner, runs.due,
           runs.recoveries, runs.user_name, runs.metadata::text, workflows.hash,
           ARRAY (SELECT hash FROM stepwell.run_workflows JOIN stepwell.workflows USING (workflow)
                  WHERE run_workflows.run = runs.run ORDER BY position)
         FROM stepwell.runs JOIN stepwell.workflows USING (workflow) WHERE runs.id = $1",
    );
    let found = find.bind(run.as_str()).fetch_optional(&mut *connection).await?;
    let Some(row) = found else { return Ok(Ok(None)) };
    let workflow = definition(&mut *connection, sql, workflows, row.try_get(9)?, run).await?;
    let hashes: Vec<String> = row.try_get(10)?;
    let mut linked = Vec::with_capacity(hashes.len());
    for hash in hashes {
        match definition(&mut *connection, sql, workflows, hash, run).await? {
            Ok(workflow) => linked.push(workflow),
            Err(error) => return Ok(Err(error)),
        }
    }
    let key = row.try_get(0)?;
    let snapshot = history::snapshot(&mut *connection, sql, key).await?;
    let from = snapshot.as_ref().map_or(0, |snapshot| integer(snapshot.events));
    let journal = journal(connection, sql, (key, from), row.try_get(1)?, run).await?;
    stored(&row, run, workflow, linked, (snapshot, journal)).map(|stored| stored.map(Some))
}

fn stored(
    row: &PgRow,
    run: &RunId,
    workflow: Result<Workflow>,
    linked: Vec<Workflow>,
    (snapshot, journal): (Option<Box<Snapshot>>, Result<Vec<Recorded>>),
) -> Done<StoredRun> {
    let metadata: Option<&str> = row.try_get(8)?;
    let metadata = match metadata {
        Some(json) => from_json(&decode_json(json), run, "its metadata cannot be read"),
        None => Ok(Metadata::default()),
    };
    let owner: Option<Uuid> = row.try_get(4)?;
    let status = status_of(row.try_get(2)?, run);
    let holding = holding_of(row.try_get(3)?, owner.map(Uuid::into_bytes), row.try_get(5)?, run);
    let user: Option<String> = row.try_get(7)?;
    let recoveries = u32::try_from(row.try_get::<i64, _>(6)?).unwrap_or(u32::MAX);
    let whole = || {
        Ok(StoredRun {
            workflow: workflow?,
            linked,
            user: user.map(decode),
            metadata: metadata?,
            snapshot,
            journal: journal?,
            status: status?,
            holding: holding?,
            recoveries,
        })
    };
    Ok(whole())
}

async fn definition(
    connection: &mut PgConnection,
    sql: &Sql,
    workflows: &Workflows,
    hash: String,
    run: &RunId,
) -> Done<Workflow> {
    if let Some(workflow) = workflows.at_hand(&hash) {
        return Ok(Ok(workflow));
    }
    let find = sql.query("SELECT definition::text FROM stepwell.workflows WHERE hash = $1");
    let row = find.bind(&hash).fetch_one(connection).await?;
    Ok(workflows.read(&hash, &decode_json(row.try_get(0)?), run))
}

/// The events of a run from this position on.
async fn journal(
    connection: &mut PgConnection,
    sql: &Sql,
    (key, from): (i64, i64),
    length: i64,
    run: &RunId,
) -> Done<Vec<Recorded>> {
    let find = sql.query(
        "SELECT position, at, kind, data::text FROM stepwell.events
         WHERE run = $1 AND position >= $2 ORDER BY position",
    );
    let mut rows = find.bind(key).bind(from).fetch(connection);
    let mut journal = Vec::new();
    let mut damage = None;
    // To the end, so that the connection can be used again.
    while let Some(row) = rows.try_next().await? {
        if damage.is_some() || row.try_get::<i64, _>(0)? != from + integer(journal.len()) {
            damage.get_or_insert_with(|| Ok(()));
            continue;
        }
        let data = row.try_get::<Option<&str>, _>(3)?.map(decode_json);
        match recorded_of(row.try_get(1)?, row.try_get(2)?, data.as_deref(), run) {
            Ok(recorded) => journal.push(recorded),
            Err(error) => damage = Some(Err(error)),
        }
    }
    if let Some(Err(error)) = damage {
        return Ok(Err(error));
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

pub(super) async fn inbox(
    connection: &mut PgConnection,
    sql: &Sql,
    run: &RunId,
) -> Done<Vec<(u64, Message)>> {
    let find = sql.query(
        "SELECT number, message::text FROM stepwell.runs JOIN stepwell.messages USING (run)
         WHERE id = $1 ORDER BY number",
    );
    let mut inbox = Vec::new();
    for row in find.bind(run.as_str()).fetch_all(connection).await? {
        let number = row.try_get::<i64, _>(0)?.unsigned_abs();
        match from_json(&decode_json(row.try_get(1)?), run, "a message cannot be read") {
            Ok(message) => inbox.push((number, message)),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(inbox))
}

pub(super) async fn answer(
    connection: &mut PgConnection,
    sql: &Sql,
    run: &RunId,
    number: u64,
) -> Done<Option<Answer>> {
    let find = sql.query(
        "SELECT rejection::text FROM stepwell.runs JOIN stepwell.answers USING (run)
         WHERE id = $1 AND number = $2 ORDER BY position LIMIT 1",
    );
    let find = find.bind(run.as_str()).bind(integer(number));
    let Some(row) = find.fetch_optional(connection).await? else { return Ok(Ok(None)) };
    Ok(match row.try_get(0)? {
        None => Ok(Some(Ok(()))),
        Some(json) => from_json(&decode_json(json), run, "an answer cannot be read")
            .map(|rejection| Some(Err(rejection))),
    })
}

pub(super) async fn mail(
    connection: &mut PgConnection,
    sql: &Sql,
    owner: Owner,
    limit: usize,
) -> Done<Vec<RunId>> {
    let find = sql
        .query("SELECT id FROM stepwell.runs WHERE owner = $1 AND inbox > 0 ORDER BY id LIMIT $2");
    let find = find.bind(uuid_of(owner)).bind(integer(limit));
    ids(&find.fetch_all(connection).await?).map(Ok)
}

pub(super) async fn held(
    connection: &mut PgConnection,
    sql: &Sql,
    owner: Owner,
    after: Option<&RunId>,
    limit: usize,
) -> Done<Vec<RunId>> {
    let find =
        sql.query("SELECT id FROM stepwell.runs WHERE owner = $1 AND id > $2 ORDER BY id LIMIT $3");
    let after = after.map_or("", RunId::as_str);
    let find = find.bind(uuid_of(owner)).bind(after).bind(integer(limit));
    ids(&find.fetch_all(connection).await?).map(Ok)
}

/// Ids of runs, from the first column; what nobody can name is passed over.
fn ids(rows: &[PgRow]) -> sqlx::Result<Vec<RunId>> {
    let mut runs = Vec::with_capacity(rows.len());
    for row in rows {
        runs.extend(RunId::new(row.try_get::<&str, _>(0)?).ok());
    }
    Ok(runs)
}

pub(super) async fn next_due(connection: &mut PgConnection, sql: &Sql) -> Done<Option<Timestamp>> {
    let next = sql.query(
        "SELECT EXISTS (SELECT FROM stepwell.runs
                        WHERE inbox > 0 AND owner IS NULL AND state <> 'aside'),
           (SELECT min(due) FROM stepwell.runs WHERE due IS NOT NULL)",
    );
    let row = next.fetch_one(connection).await?;
    let due: Option<i64> = row.try_get(1)?;
    let due = if row.try_get(0)? { Some(0) } else { due };
    Ok(Ok(due.map(Timestamp::from_micros)))
}

pub(super) async fn list(
    connection: &mut PgConnection,
    sql: &Sql,
    query: &RunQuery,
) -> Done<Vec<Summary>> {
    let mut text = String::from(
        "SELECT runs.id, workflows.id, status, created_at, changed_at, runs.events, problem,
           coalesce(forgotten, 0)
         FROM stepwell.runs JOIN stepwell.workflows USING (workflow)
           LEFT JOIN stepwell.snapshots USING (run) WHERE true",
    );
    if query.live {
        text += " AND status IN ('pending', 'running', 'paused', 'cancelling')";
    }
    text += " AND ($2::text IS NULL OR status = $2) AND ($3::text IS NULL OR workflows.id = $3)";
    text += " AND ($4::bigint IS NULL OR (created_at, runs.id) < ($4, $5))";
    text += " ORDER BY created_at DESC, runs.id DESC LIMIT $1";
    let find = sql.query(&text).bind(integer(query.most()));
    let find = find.bind(query.status.map(status_word)).bind(query.workflow.as_deref());
    let before = query.before.as_ref();
    let find = find.bind(before.map(|(at, _)| at.as_micros()));
    let find = find.bind(before.map(|(_, run)| run.as_str()));
    let mut found = Vec::new();
    for row in find.fetch_all(connection).await? {
        match summary(&row)? {
            Ok(summary) => found.push(summary),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(found))
}

fn summary(row: &PgRow) -> Done<Summary> {
    let id: &str = row.try_get(0)?;
    let Ok(id) = RunId::new(id) else {
        let message = format!("the id `{}` of a run is damaged; rename it", id.escape_debug());
        return Ok(Err(Error::new(ErrorKind::Storage, message)));
    };
    let problem: Option<String> = row.try_get(6)?;
    Ok(match status_of(row.try_get(2)?, &id) {
        Ok(status) => Ok(Summary {
            workflow: row.try_get(1)?,
            status,
            created_at: Timestamp::from_micros(row.try_get(3)?),
            changed_at: Timestamp::from_micros(row.try_get(4)?),
            events: row.try_get::<i64, _>(5)?.unsigned_abs(),
            forgotten: row.try_get::<i64, _>(7)?.unsigned_abs(),
            problem: problem.map(decode),
            id,
        }),
        Err(error) => Err(error),
    })
}
