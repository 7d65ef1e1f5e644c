//! Opening a file: whose it is, which version, and what to change so that it is the newest.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::Synchronous;
use super::alive::Alive;
use super::fault::Fault;
use super::owners;
use crate::error::Result;

/// What tells our files from those of other programs: `step` in ASCII.
const APPLICATION: i32 = 0x7374_6570;

/// Each takes the schema from its place to the next; none is ever changed.
pub(super) const MIGRATIONS: [&str; 5] = [
    include_str!("schema.sql"),
    include_str!("snapshots.sql"),
    include_str!("removed.sql"),
    include_str!("definitions.sql"),
    include_str!("steps.sql"),
];

/// Statements that a connection keeps compiled: more than there are.
const STATEMENTS_MAX: usize = 64;

/// Pages in the write-ahead log (16 MB) at which they are moved into the file, which waits for the disk.
const LOG_PAGES: i64 = 4_000;

/// What a file turns out to be.
enum Found {
    Nothing,
    Ours(usize),
}

/// The connection that writes, with the newest schema.
pub(super) fn open(
    path: &Path,
    patience: Duration,
    synchronous: Synchronous,
    fault: &Fault,
) -> Result<(Connection, Alive)> {
    let connection = connect(path, true, patience).map_err(|error| fault.opening(error))?;
    // Before anything is written, here or beside it.
    inspect(&connection, fault)?;
    // By whatever name it was opened.
    let alive = Alive::begin(path.canonicalize().as_deref().unwrap_or(path));
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(|error| fault.opening(error))?;
    if mode != "wal" {
        return Err(fault.error(
            "cannot keep a write-ahead log for",
            "its file system lacks what that needs; choose a local one",
        ));
    }
    let synchronous = match synchronous {
        Synchronous::Full => "FULL",
        Synchronous::Normal => "NORMAL",
    };
    connection
        .pragma_update(None, "synchronous", synchronous)
        .and_then(|()| connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES))
        .and_then(|()| connection.execute_batch("BEGIN IMMEDIATE"))
        .map_err(|error| fault.opening(error))?;
    // Dropping the connection undoes what was begun.
    let found = inspect(&connection, fault)?;
    migrate(&connection, found, &alive).map_err(|error| fault.opening(error))?;
    Ok((connection, alive.share()))
}

/// A connection that reads a file which has been opened.
pub(super) fn reader(path: &Path, patience: Duration, fault: &Fault) -> Result<Connection> {
    let connect = || {
        let connection = connect(path, false, patience)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    };
    connect().map_err(|error: rusqlite::Error| fault.opening(error))
}

fn connect(path: &Path, create: bool, patience: Duration) -> rusqlite::Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(patience)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(connection)
}

fn inspect(connection: &Connection, fault: &Fault) -> Result<Found> {
    let look = "SELECT (SELECT application_id FROM pragma_application_id),
                       (SELECT user_version FROM pragma_user_version),
                       (SELECT count(*) FROM sqlite_schema)";
    let (application, version, things): (i32, i64, i64) = connection
        .query_row(look, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .map_err(|error| fault.opening(error))?;
    match (application, usize::try_from(version)) {
        (0, Ok(0)) if things == 0 => Ok(Found::Nothing),
        (APPLICATION, Ok(version @ 1..=MIGRATIONS_MAX)) => Ok(Found::Ours(version)),
        (APPLICATION, _) => Err(fault.another(&Another(version), "open")),
        _ => Err(fault.error("cannot open", "it belongs to another program; choose another file")),
    }
}

const MIGRATIONS_MAX: usize = MIGRATIONS.len();

/// A file whose schema this program does not know, or does not know any more.
#[derive(Debug, thiserror::Error)]
#[error(
    "its schema has version {0}, and this program knows versions up to {MIGRATIONS_MAX}; use a newer \
     version of the program"
)]
pub(super) struct Another(i64);

/// Nothing is written to a file that a newer program has opened meanwhile: asked within a transaction.
pub(super) fn must_be_known(connection: &Connection) -> rusqlite::Result<()> {
    let mut look = connection.prepare_cached("PRAGMA user_version")?;
    match look.query_row([], |row| row.get(0))? {
        version if version == MIGRATIONS_MAX as i64 => Ok(()),
        version => Err(rusqlite::Error::ToSqlConversionFailure(Box::new(Another(version)))),
    }
}

/// Ends the transaction in which the schema was inspected.
fn migrate(connection: &Connection, found: Found, alive: &Alive) -> rusqlite::Result<()> {
    let version = match found {
        Found::Nothing => {
            connection.pragma_update(None, "application_id", APPLICATION)?;
            0
        }
        Found::Ours(version) => version,
    };
    for migration in MIGRATIONS.iter().skip(version) {
        connection.execute_batch(migration)?;
    }
    if version < MIGRATIONS_MAX {
        connection.pragma_update(None, "user_version", MIGRATIONS_MAX as i64)?;
    }
    if alive.is_alone() {
        owners::forget_all(connection)?;
    }
    connection.execute_batch("COMMIT")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_is_promised_of_a_loss_of_power_is_asked_of_the_database() {
        let path = std::env::temp_dir().join(format!("stepwell-pragmas-{}.db", std::process::id()));
        // The numbers of <https://www.sqlite.org/pragma.html#pragma_synchronous>.
        for (synchronous, number) in [(Synchronous::Full, 2), (Synchronous::Normal, 1)] {
            let fault = Fault(Arc::from(path.as_path()));
            let (connection, _alive) = open(&path, Duration::ZERO, synchronous, &fault).unwrap();
            let look =
                "SELECT synchronous, journal_mode FROM pragma_synchronous, pragma_journal_mode";
            let found = connection.query_row(look, [], |row| Ok((row.get(0)?, row.get(1)?)));
            assert_eq!(found.unwrap(), (number, "wal".to_string()));
        }
        assert_eq!(Synchronous::default(), Synchronous::Full);
        for end in ["", "-alive"] {
            std::fs::remove_file(format!("{}{end}", path.display())).unwrap();
        }
    }
}
