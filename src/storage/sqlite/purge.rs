//! Removing runs that have ended, and the definitions that only they have named.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::locks;
use super::workflows;
use super::writer::Done;
use crate::id::RunId;
use crate::storage::rows::{integer, owner_bytes};
use crate::storage::{Owner, Purge};
use crate::time::Timestamp;

/// Events that are removed in one transaction, if it is more than one run: others wait meanwhile.
const EVENTS_AT_ONCE: i64 = 50_000;

pub(super) fn purge(connection: &Connection, which: &Purge) -> Done<Vec<RunId>> {
    let mut left = left(connection, which)?;
    let (mut gone, mut events) = (Vec::new(), 0);
    let mut definitions = BTreeSet::new();
    for run in goes(connection, which, which.room(left.len()))? {
        if events > 0 && events + run.events > EVENTS_AT_ONCE {
            break;
        }
        events += run.events;
        definitions.extend(workflows::of_run(connection, run.run)?);
        remove(connection, &run, which.owner)?;
        gone.push(run.id);
    }
    workflows::remove_unnamed(connection, &definitions)?;
    left.truncate(which.limit - gone.len());
    take(connection, &left, which.owner)?;
    // What nobody can name nobody has put there.
    let named = gone.into_iter().chain(left);
    let mut named: Vec<RunId> = named.filter_map(|run| RunId::new(run).ok()).collect();
    named.sort_unstable();
    Ok(Ok(named))
}

/// Runs that were removed and whose ids are to be cleared by this owner.
fn left(connection: &Connection, which: &Purge) -> rusqlite::Result<Vec<String>> {
    let mut find = connection.prepare_cached(
        "SELECT id FROM purged
         WHERE owner = ?1 OR owner NOT IN (SELECT owner FROM owners WHERE state = 'alive')
         ORDER BY id LIMIT ?2",
    )?;
    let owner = owner_bytes(which.owner);
    find.query_map(params![owner, integer(which.limit)], |row| row.get(0))?.collect()
}

fn take(connection: &Connection, left: &[String], owner: Owner) -> rusqlite::Result<()> {
    let mut take = connection.prepare_cached("UPDATE purged SET owner = ?1 WHERE id = ?2")?;
    left.iter().try_for_each(|run| take.execute(params![owner_bytes(owner), run]).map(drop))
}

/// A run that is to go.
struct Going {
    run: i64,
    id: String,
    workflow: String,
    /// About how many are left of its journal.
    events: i64,
}

/// Runs that may go, the one that changed first before the others.
fn goes(connection: &Connection, which: &Purge, limit: usize) -> rusqlite::Result<Vec<Going>> {
    let over = match which.keep {
        Some(keep) => over(connection, which, keep)?,
        None => None,
    };
    let before = which.before.map(Timestamp::as_micros);
    let (at, id) = over.unzip();
    let mut find = connection.prepare_cached(
        "SELECT runs.run, runs.id, workflows.id, runs.events - coalesce(forgotten, 0)
         FROM runs JOIN workflows USING (workflow) LEFT JOIN snapshots USING (run)
         WHERE runs.state = 'finished' AND changed_at <= ?1 AND inbox = 0
           AND (changed_at <= ?2 OR (changed_at, runs.id) <= (?3, ?4))
           AND workflows.id = coalesce(?5, workflows.id)
         ORDER BY changed_at, runs.id LIMIT ?6",
    )?;
    let going = |row: &Row<'_>| {
        let (run, id) = (row.get(0)?, row.get(1)?);
        Ok(Going { run, id, workflow: row.get(2)?, events: row.get(3)? })
    };
    let last = before.max(at);
    find.query_map(params![last, before, at, id, which.workflow, integer(limit)], going)?.collect()
}

/// The newest run that is beyond so many.
fn over(
    connection: &Connection,
    which: &Purge,
    keep: u64,
) -> rusqlite::Result<Option<(i64, String)>> {
    let mut find = connection.prepare_cached(
        "SELECT changed_at, runs.id FROM runs JOIN workflows USING (workflow)
         WHERE state = 'finished' AND workflows.id = coalesce(?1, workflows.id)
         ORDER BY changed_at DESC, runs.id DESC LIMIT 1 OFFSET ?2",
    )?;
    let found = find
        .query_row(params![which.workflow, integer(keep)], |row| Ok((row.get(0)?, row.get(1)?)));
    found.optional()
}

fn remove(connection: &Connection, run: &Going, owner: Owner) -> rusqlite::Result<()> {
    let mut put = connection
        .prepare_cached("INSERT INTO purged (id, workflow, owner) VALUES (?1, ?2, ?3)")?;
    put.execute(params![run.id, run.workflow, owner_bytes(owner)])?;
    let mut count = connection.prepare_cached(
        "INSERT INTO removed (workflow, runs) VALUES (?1, 1)
         ON CONFLICT (workflow) DO UPDATE SET runs = runs + 1",
    )?;
    count.execute([&run.workflow])?;
    if let Ok(id) = RunId::new(&run.id) {
        locks::release_all(connection, &id)?;
    }
    // What is kept of it in other tables goes with it.
    let mut delete = connection.prepare_cached("DELETE FROM runs WHERE run = ?1")?;
    delete.execute([run.run]).map(drop)
}

pub(super) fn clear(connection: &Connection, owner: Owner, runs: &[RunId]) -> Done<()> {
    let mut delete =
        connection.prepare_cached("DELETE FROM purged WHERE id = ?1 AND owner = ?2")?;
    for run in runs {
        delete.execute(params![run.as_str(), owner_bytes(owner)])?;
    }
    Ok(Ok(()))
}
