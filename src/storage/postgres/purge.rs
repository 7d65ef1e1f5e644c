//! Removing runs that have ended, and the definitions that only they have named.

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};

use super::access::{Done, Sql};
use super::write::uuid_of;
use crate::id::RunId;
use crate::storage::rows::integer;
use crate::storage::{Owner, Purge};
use crate::time::Timestamp;

/// Events that are removed in one transaction, if it is more than one run.
const EVENTS_AT_ONCE: i64 = 50_000;

/// How long a purge waits for a lock, and who adds runs for it, at most: somebody may hold a table for
/// long. The next purge tries again.
const WAITS_MAX: &str = "2s";

/// In a transaction of its own.
pub(super) async fn purge(
    connection: &mut PgConnection,
    sql: &Sql,
    which: &Purge,
) -> Done<Vec<RunId>> {
    let waits = format!("SET LOCAL lock_timeout = '{WAITS_MAX}'");
    connection.execute(AssertSqlSafe(waits)).await?;
    let mut left = left(connection, sql, which).await?;
    let (mut gone, mut events) = (Vec::new(), 0);
    for run in goes(connection, sql, which, which.room(left.len())).await? {
        if events > 0 && events + run.events > EVENTS_AT_ONCE {
            break;
        }
        events += run.events;
        gone.push(run);
    }
    if !gone.is_empty() {
        let keys: Vec<i64> = gone.iter().map(|run| run.run).collect();
        // Most of the work, while others still add runs.
        delete(connection, sql, &["events", "messages", "answers", "snapshots"], &keys).await?;
        keep_out(connection, sql).await?;
        let definitions = definitions(connection, sql, &keys).await?;
        remove(connection, sql, &gone, which.owner).await?;
        delete(connection, sql, &["runs"], &keys).await?;
        remove_unnamed(connection, sql, definitions).await?;
    }
    left.truncate(which.limit - gone.len());
    let mut named = take(connection, sql, left, which.owner).await?;
    named.extend(gone.into_iter().map(|run| run.id));
    // What nobody can name nobody has put there.
    let mut named: Vec<RunId> = named.into_iter().filter_map(|run| RunId::new(run).ok()).collect();
    named.sort_unstable();
    // One may have been cleared, added again and removed since it was seen to be left.
    named.dedup();
    Ok(Ok(named))
}

/// Whoever adds a run takes a weak lock on this table before it reads it, and waits from here on: under
/// no id is one added that is just removed, and none of a definition that is. Whoever only reads it, as a
/// backup does, does not wait.
async fn keep_out(connection: &mut PgConnection, sql: &Sql) -> sqlx::Result<()> {
    let lock = sql.query("LOCK TABLE stepwell.purged IN EXCLUSIVE MODE");
    lock.execute(connection).await.map(drop)
}

/// Whose these rows of `purged` are: the owner's, or nobody's who is alive.
const IS_LEFT: &str =
    "(owner = $1 OR owner NOT IN (SELECT owner FROM stepwell.owners WHERE state = 'alive'))";

/// Runs that were removed and whose ids are to be cleared by this owner.
async fn left(
    connection: &mut PgConnection,
    sql: &Sql,
    which: &Purge,
) -> sqlx::Result<Vec<String>> {
    let find =
        sql.query(&format!("SELECT id FROM stepwell.purged WHERE {IS_LEFT} ORDER BY id LIMIT $2"));
    let find = find.bind(uuid_of(which.owner)).bind(integer(which.limit));
    find.fetch_all(connection).await?.iter().map(|row| row.try_get(0)).collect()
}

/// Takes those of them that nobody is just clearing. Last of all, as who clears one waits from here on.
async fn take(
    connection: &mut PgConnection,
    sql: &Sql,
    left: Vec<String>,
    owner: Owner,
) -> sqlx::Result<Vec<String>> {
    if left.is_empty() {
        return Ok(left);
    }
    let take = sql.query(&format!(
        "UPDATE stepwell.purged SET owner = $1 WHERE id IN (
           SELECT id FROM stepwell.purged WHERE id = ANY ($2) AND {IS_LEFT}
           FOR UPDATE SKIP LOCKED
         ) RETURNING id"
    ));
    let take = take.bind(uuid_of(owner)).bind(left);
    take.fetch_all(connection).await?.iter().map(|row| row.try_get(0)).collect()
}

/// A run that is to go.
struct Going {
    run: i64,
    id: String,
    workflow: String,
    /// About how many are left of its journal.
    events: i64,
}

/// Runs that may go, the one that changed first before the others; locked, but for those that somebody
/// is just changing.
async fn goes(
    connection: &mut PgConnection,
    sql: &Sql,
    which: &Purge,
    limit: usize,
) -> sqlx::Result<Vec<Going>> {
    let over = match which.keep {
        Some(keep) => over(connection, sql, which, keep).await?,
        None => None,
    };
    let before = which.before.map(Timestamp::as_micros);
    let (at, id) = over.unzip();
    let find = sql.query(
        "SELECT runs.run, runs.id, workflows.id, runs.events - coalesce(forgotten, 0)
         FROM stepwell.runs JOIN stepwell.workflows USING (workflow)
           LEFT JOIN stepwell.snapshots USING (run)
         WHERE runs.state = 'finished' AND changed_at <= $1 AND inbox = 0
           AND (changed_at <= $2 OR (changed_at, runs.id) <= ($3, $4))
           AND ($5::text IS NULL OR workflows.id = $5)
         ORDER BY changed_at, runs.id LIMIT $6
         FOR UPDATE OF runs SKIP LOCKED",
    );
    let find = find.bind(before.max(at)).bind(before).bind(at).bind(id);
    let find = find.bind(which.workflow.as_deref()).bind(integer(limit));
    let going = |row: &PgRow| {
        let (run, id) = (row.try_get(0)?, row.try_get(1)?);
        Ok(Going { run, id, workflow: row.try_get(2)?, events: row.try_get(3)? })
    };
    find.fetch_all(connection).await?.iter().map(going).collect()
}

/// The newest run that is beyond so many.
async fn over(
    connection: &mut PgConnection,
    sql: &Sql,
    which: &Purge,
    keep: u64,
) -> sqlx::Result<Option<(i64, String)>> {
    let find = sql.query(
        "SELECT changed_at, runs.id FROM stepwell.runs JOIN stepwell.workflows USING (workflow)
         WHERE runs.state = 'finished' AND ($1::text IS NULL OR workflows.id = $1)
         ORDER BY changed_at DESC, runs.id DESC LIMIT 1 OFFSET $2",
    );
    let find = find.bind(which.workflow.as_deref()).bind(integer(keep));
    let found = find.fetch_optional(connection).await?;
    found.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
}

/// The definitions that these runs name, locked: nobody can name them meanwhile, not even by hand. Those
/// that somebody is just naming so are left out.
async fn definitions(
    connection: &mut PgConnection,
    sql: &Sql,
    keys: &[i64],
) -> sqlx::Result<Vec<i64>> {
    let find = sql.query(
        "SELECT workflow FROM stepwell.workflows WHERE workflow IN (
           SELECT workflow FROM stepwell.runs WHERE run = ANY ($1)
           UNION SELECT workflow FROM stepwell.run_workflows WHERE run = ANY ($1)
         ) FOR UPDATE SKIP LOCKED",
    );
    find.bind(keys.to_vec()).fetch_all(connection).await?.iter().map(|row| row.try_get(0)).collect()
}

/// Removes those of these definitions that no run names any more: after they were locked, as a statement
/// sees what there was when it began.
async fn remove_unnamed(
    connection: &mut PgConnection,
    sql: &Sql,
    definitions: Vec<i64>,
) -> sqlx::Result<()> {
    let remove = sql.query(
        "DELETE FROM stepwell.workflows WHERE workflow = ANY ($1)
           AND NOT EXISTS (SELECT FROM stepwell.runs WHERE runs.workflow = workflows.workflow)
           AND NOT EXISTS (SELECT FROM stepwell.run_workflows
                           WHERE run_workflows.workflow = workflows.workflow)",
    );
    remove.bind(definitions).execute(connection).await.map(drop)
}

/// Has their ids stay taken, and no lock held by them, and counts them.
async fn remove(
    connection: &mut PgConnection,
    sql: &Sql,
    gone: &[Going],
    owner: Owner,
) -> sqlx::Result<()> {
    let ids: Vec<&str> = gone.iter().map(|run| run.id.as_str()).collect();
    let workflows: Vec<&str> = gone.iter().map(|run| run.workflow.as_str()).collect();
    let put = sql.query(
        "INSERT INTO stepwell.purged (id, workflow, owner)
         SELECT id, workflow, $3 FROM unnest($1::text[], $2::text[]) AS gone (id, workflow)",
    );
    let put = put.bind(ids.clone()).bind(workflows.clone()).bind(uuid_of(owner));
    put.execute(&mut *connection).await?;
    let count = sql.query(
        "INSERT INTO stepwell.removed AS removed (workflow, runs)
         SELECT workflow, count(*) FROM unnest($1::text[]) AS gone (workflow) GROUP BY workflow
         ORDER BY workflow
         ON CONFLICT (workflow) DO UPDATE SET runs = removed.runs + excluded.runs",
    );
    count.bind(workflows).execute(&mut *connection).await?;
    let holders = sql.query("DELETE FROM stepwell.lock_holders WHERE run = ANY ($1)");
    holders.bind(ids).execute(&mut *connection).await.map(drop)
}

async fn delete(
    connection: &mut PgConnection,
    sql: &Sql,
    tables: &[&str],
    keys: &[i64],
) -> sqlx::Result<()> {
    for table in tables {
        let delete = sql.query(&format!("DELETE FROM stepwell.{table} WHERE run = ANY ($1)"));
        delete.bind(keys.to_vec()).execute(&mut *connection).await?;
    }
    Ok(())
}

pub(super) async fn clear(
    connection: &mut PgConnection,
    sql: &Sql,
    owner: Owner,
    runs: &[RunId],
) -> Done<()> {
    let delete = sql.query("DELETE FROM stepwell.purged WHERE owner = $1 AND id = ANY ($2)");
    let ids: Vec<&str> = runs.iter().map(RunId::as_str).collect();
    delete.bind(uuid_of(owner)).bind(ids).execute(connection).await?;
    Ok(Ok(()))
}
