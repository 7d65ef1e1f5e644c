//! Snapshots, and what is kept of journals that have them.

use std::sync::LazyLock;

use rusqlite::{Connection, OptionalExtension, params};

use super::writer::Done;
use crate::id::RunId;
use crate::journal::{Event, Recorded, Snapshot};
use crate::storage::rows::{integer, recorded_of};

/// Replaces the snapshot of a run, and forgets what it says may be forgotten.
pub(super) fn keep(connection: &Connection, run: i64, snapshot: &Snapshot) -> rusqlite::Result<()> {
    let mut find = connection.prepare_cached("SELECT forgotten FROM snapshots WHERE run = ?1")?;
    let before: i64 = find.query_row([run], |row| row.get(0)).optional()?.unwrap_or(0);
    let forgotten = integer(snapshot.forget.min(snapshot.events)).max(before);
    let mut put = connection.prepare_cached(
        "INSERT OR REPLACE INTO snapshots (run, events, forgotten, state) VALUES (?1, ?2, ?3, ?4)",
    )?;
    put.execute(params![run, integer(snapshot.events), forgotten, snapshot.state])?;
    // Kinds are words of this program's, and nothing that anybody has said.
    static FORGET: LazyLock<String> = LazyLock::new(|| {
        let kept = Event::KEPT.join("', '");
        format!(
            "DELETE FROM events
             WHERE run = ?1 AND position >= ?2 AND position < ?3 AND kind NOT IN ('{kept}')"
        )
    });
    let mut forget = connection.prepare_cached(&FORGET)?;
    forget.execute([run, before, forgotten]).map(drop)
}

pub(super) fn snapshot(
    connection: &Connection,
    run: i64,
) -> rusqlite::Result<Option<Box<Snapshot>>> {
    let mut find = connection
        .prepare_cached("SELECT events, forgotten, state FROM snapshots WHERE run = ?1")?;
    let found = find.query_row([run], |row| {
        Ok(Snapshot {
            events: row.get::<_, i64>(0)?.unsigned_abs(),
            forget: row.get::<_, i64>(1)?.unsigned_abs(),
            // Who reads it sees that it is damaged, and may know another way.
            state: String::from_utf8_lossy(row.get_ref(2)?.as_bytes()?).into_owned(),
        })
    });
    Ok(found.optional()?.map(Box::new))
}

pub(super) fn events(
    connection: &Connection,
    run: &RunId,
    from: u64,
    limit: usize,
) -> Done<Vec<(u64, Recorded)>> {
    let mut find = connection.prepare_cached(
        "SELECT position, at, kind, data FROM events
         WHERE run = (SELECT run FROM runs WHERE id = ?1) AND position >= ?2
         ORDER BY position LIMIT ?3",
    )?;
    let mut rows = find.query(params![run.as_str(), integer(from), integer(limit)])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let (kind, data) = (row.get_ref(2)?.as_str()?, row.get_ref(3)?.as_str_or_null()?);
        match recorded_of(row.get(1)?, kind, data, run) {
            Ok(recorded) => events.push((row.get::<_, i64>(0)?.unsigned_abs(), recorded)),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(events))
}
