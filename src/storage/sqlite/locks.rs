//! Locks as rows, by the rules of those in memory.

use rusqlite::{Connection, OptionalExtension, params};

use super::writer::Done;
use crate::id::{RunId, StepKey};
use crate::run::Want;
use crate::storage::locks::{HOLDERS_NAMED, taken, too_early};
use crate::storage::rows::{integer, owner_bytes};
use crate::storage::{Acquire, Denied, conflict, not_found};
use crate::time::Timestamp;

/// Gives a step all that it asks for, or none and says why.
pub(super) fn acquire(
    connection: &Connection,
    run: &RunId,
    asked: &Acquire,
) -> Done<Option<Denied>> {
    let Acquire { owner, expected, step, wants, now } = asked;
    let (step, now) = (*step, *now);
    let mut fence = connection.prepare_cached(
        "SELECT events = ?2 AND owner IS ?3
           AND status NOT IN ('succeeded', 'failed', 'cancelled', 'timed_out')
         FROM runs WHERE id = ?1",
    )?;
    let asks = params![run.as_str(), integer(*expected), owner_bytes(*owner)];
    match fence.query_row(asks, |row| row.get(0)).optional()? {
        None => return Ok(Err(not_found(run))),
        Some(false) => return Ok(Err(conflict(run))),
        Some(true) => {}
    }
    for want in wants {
        if let Some(denied) = refuse(connection, run, step, want, now)? {
            return Ok(Ok(Some(denied)));
        }
    }
    for want in wants {
        let mut insert = connection.prepare_cached(
            "INSERT OR IGNORE INTO lock_holders (lock, run, scope, step) VALUES (?1, ?2, ?3, ?4)",
        )?;
        if insert.execute(params![want.lock, run.as_str(), step.scope, step.step])? > 0 {
            let before = next(connection, &want.lock)?;
            let after = taken(want.rate, before, now);
            if before != after {
                set_next(connection, &want.lock, after)?;
            }
        }
    }
    if wants.iter().any(|want| want.rate.is_some()) {
        // It says nothing any more: keys come and go, and would become many.
        let mut forget = connection.prepare_cached("DELETE FROM locks WHERE next <= ?1")?;
        forget.execute([now.as_micros()])?;
    }
    Ok(Ok(None))
}

fn refuse(
    connection: &Connection,
    run: &RunId,
    step: StepKey,
    want: &Want,
    now: Timestamp,
) -> rusqlite::Result<Option<Denied>> {
    let mut held = connection.prepare_cached(
        "SELECT 1 FROM lock_holders WHERE lock = ?1 AND run = ?2 AND scope = ?3 AND step = ?4",
    )?;
    if held.exists(params![want.lock, run.as_str(), step.scope, step.step])? {
        return Ok(None);
    }
    let lock = want.lock.clone();
    if let Some(max) = want.max {
        let mut count =
            connection.prepare_cached("SELECT count(*) FROM lock_holders WHERE lock = ?1")?;
        let count: i64 = count.query_row([&want.lock], |row| row.get(0))?;
        if count >= i64::from(max) {
            return Ok(Some(Denied { lock, until: None, holders: holders(connection, want)? }));
        }
    }
    let until = too_early(want.rate, next(connection, &want.lock)?, now);
    Ok(until.map(|until| Denied { lock, until: Some(until), holders: Vec::new() }))
}

fn holders(connection: &Connection, want: &Want) -> rusqlite::Result<Vec<RunId>> {
    let mut find = connection.prepare_cached("SELECT run FROM lock_holders WHERE lock = ?1")?;
    let rows = find.query_map([&want.lock], |row| row.get::<_, String>(0))?;
    let mut holders = Vec::new();
    for run in rows.take(HOLDERS_NAMED) {
        holders.extend(RunId::new(run?).ok());
    }
    Ok(holders)
}

fn next(connection: &Connection, lock: &str) -> rusqlite::Result<Option<Timestamp>> {
    let mut find = connection.prepare_cached("SELECT next FROM locks WHERE lock = ?1")?;
    let next: Option<i64> = find.query_row([lock], |row| row.get(0)).optional()?;
    Ok(next.map(Timestamp::from_micros))
}

fn set_next(connection: &Connection, lock: &str, next: Option<Timestamp>) -> rusqlite::Result<()> {
    match next {
        Some(next) => connection
            .prepare_cached("INSERT OR REPLACE INTO locks (lock, next) VALUES (?1, ?2)")?
            .execute(params![lock, next.as_micros()])?,
        None => connection.prepare_cached("DELETE FROM locks WHERE lock = ?1")?.execute([lock])?,
    };
    Ok(())
}

/// What a step holds.
pub(super) fn release(connection: &Connection, run: &RunId, step: StepKey) -> rusqlite::Result<()> {
    let mut delete = connection
        .prepare_cached("DELETE FROM lock_holders WHERE run = ?1 AND scope = ?2 AND step = ?3")?;
    delete.execute(params![run.as_str(), step.scope, step.step]).map(drop)
}

/// Everything that a run holds.
pub(super) fn release_all(connection: &Connection, run: &RunId) -> rusqlite::Result<()> {
    let mut delete = connection.prepare_cached("DELETE FROM lock_holders WHERE run = ?1")?;
    delete.execute([run.as_str()]).map(drop)
}
