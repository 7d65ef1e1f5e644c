//! Who is alive, and who takes which run.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::writer::Done;
use crate::id::RunId;
use crate::storage::rows::{integer, owner_bytes, owner_of};
use crate::storage::{Beat, Claim, Claimed, Owner};

/// Owners that no process that is alive can be are gone: for whoever is sure to be the only one.
pub(super) fn forget_all(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE owners SET state = 'gone' WHERE state = 'alive'", []).map(drop)
}

pub(super) fn beat(connection: &Connection, owner: Owner) -> Done<Vec<Beat>> {
    let mut beat = connection.prepare_cached(
        "INSERT INTO owners (owner, beats, state) VALUES (?1, 1, 'alive')
         ON CONFLICT (owner) DO UPDATE SET beats = beats + 1, state = 'alive'",
    )?;
    beat.execute([owner_bytes(owner)])?;
    let mut alive =
        connection.prepare_cached("SELECT owner, beats FROM owners WHERE state = 'alive'")?;
    let beat = |row: &Row<'_>| {
        Ok(Beat { owner: owner_of(row.get(0)?), count: row.get::<_, i64>(1)?.unsigned_abs() })
    };
    alive.query_map([], beat)?.collect::<rusqlite::Result<_>>().map(Ok)
}

pub(super) fn retire(connection: &Connection, owner: Owner) -> Done<()> {
    let mut retire = connection.prepare_cached(
        "INSERT INTO owners (owner, beats, state) VALUES (?1, 0, 'retired')
         ON CONFLICT (owner) DO UPDATE SET state = 'retired'",
    )?;
    retire.execute([owner_bytes(owner)])?;
    Ok(Ok(()))
}

pub(super) fn claim(connection: &Connection, claim: &Claim) -> Done<Vec<Claimed>> {
    for beat in &claim.gone {
        let mut gone = connection.prepare_cached(
            "UPDATE owners SET state = 'gone' WHERE owner = ?1 AND beats = ?2 AND state = 'alive'",
        )?;
        gone.execute(params![owner_bytes(beat.owner), integer(beat.count)])?;
    }
    let runs = match &claim.run {
        Some(_) if claim.limit == 0 => Vec::new(),
        Some(run) => one(connection, run, claim.owner)?.into_iter().collect(),
        None => free(connection, claim)?,
    };
    let mut taken = Vec::with_capacity(runs.len());
    for run in runs {
        taken.extend(take(connection, run, claim.owner)?);
    }
    // Those that have retired are remembered as long as they hold something.
    let mut forget = connection.prepare_cached(
        "DELETE FROM owners
         WHERE state = 'retired' AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.owner = owners.owner)",
    )?;
    forget.execute([])?;
    Ok(Ok(taken))
}

/// A run that may be taken.
struct Free {
    run: i64,
    id: String,
    holder: Option<[u8; 16]>,
}

impl Free {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { run: row.get(0)?, id: row.get(1)?, holder: row.get(2)? })
    }
}

/// The run of this id, if it may be taken.
fn one(connection: &Connection, run: &RunId, taker: Owner) -> rusqlite::Result<Option<Free>> {
    let mut find = connection.prepare_cached(
        "SELECT run, id, owner FROM runs
         WHERE id = ?1 AND CASE state
           WHEN 'held' THEN owner <> ?2
             AND owner NOT IN (SELECT owner FROM owners WHERE state = 'alive')
           WHEN 'finished' THEN inbox > 0
           ELSE 1
         END",
    )?;
    find.query_row(params![run.as_str(), owner_bytes(taker)], Free::of).optional()
}

/// Runs that may be taken, sorted, so that equal histories go equally.
fn free(connection: &Connection, claim: &Claim) -> rusqlite::Result<Vec<Free>> {
    let mut due = connection.prepare_cached(
        "SELECT run, id, owner FROM runs WHERE due <= ?1 ORDER BY due, id LIMIT ?2",
    )?;
    let due = due.query_map([claim.now.as_micros(), integer(claim.limit)], Free::of)?;
    let mut runs = due.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut addressed = connection.prepare_cached(
        "SELECT run, id, owner FROM runs
         WHERE inbox > 0 AND owner IS NULL AND state <> 'aside' ORDER BY id LIMIT ?1",
    )?;
    let room = integer(claim.limit.saturating_sub(runs.len()));
    for run in addressed.query_map([room], Free::of)? {
        runs.push(run?);
    }
    runs.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    runs.dedup_by(|a, b| a.run == b.run);
    for owner in gone(connection, claim.owner)? {
        let mut left = connection.prepare_cached(
            "SELECT run, id, owner FROM runs WHERE owner = ?1 ORDER BY id LIMIT ?2",
        )?;
        let room = integer(claim.limit.saturating_sub(runs.len()));
        for run in left.query_map(params![owner, room], Free::of)? {
            runs.push(run?);
        }
    }
    Ok(runs)
}

/// Owners that hold something and are not alive.
fn gone(connection: &Connection, taker: Owner) -> rusqlite::Result<Vec<[u8; 16]>> {
    // From one to the next, as each may hold very many.
    let mut next = connection
        .prepare_cached("SELECT owner FROM runs WHERE owner > ?1 ORDER BY owner LIMIT 1")?;
    let mut alive =
        connection.prepare_cached("SELECT 1 FROM owners WHERE owner = ?1 AND state = 'alive'")?;
    let mut found = Vec::new();
    let mut last: Vec<u8> = Vec::new();
    while let Some(owner) = next.query_row([&last], |row| row.get::<_, [u8; 16]>(0)).optional()? {
        if owner != owner_bytes(taker) && !alive.exists([owner])? {
            found.push(owner);
        }
        last = owner.to_vec();
    }
    Ok(found)
}

fn take(connection: &Connection, free: Free, taker: Owner) -> rusqlite::Result<Option<Claimed>> {
    // What nobody can name nobody can run.
    let Ok(id) = RunId::new(&free.id) else { return Ok(None) };
    let crashed = match free.holder {
        Some(holder) => {
            let mut retired = connection
                .prepare_cached("SELECT 1 FROM owners WHERE owner = ?1 AND state = 'retired'")?;
            !retired.exists([holder])?
        }
        None => false,
    };
    let mut update = connection.prepare_cached(
        "UPDATE runs SET state = 'held', owner = ?1, due = NULL, problem = NULL,
           recoveries = recoveries + ?2
         WHERE run = ?3 RETURNING recoveries",
    )?;
    let recoveries: i64 =
        update.query_row(params![owner_bytes(taker), crashed, free.run], |row| row.get(0))?;
    let recoveries = u32::try_from(recoveries).unwrap_or(u32::MAX);
    Ok(Some(Claimed { run: id, recoveries }))
}
