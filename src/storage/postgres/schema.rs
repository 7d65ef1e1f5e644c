//! The schema: whose it is, which version, and what to change so that it is the newest.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};

use super::access::{Done, Sql};
use super::fault::Fault;
use crate::error::Result;

/// Each takes the schema from its place to the next; none is ever changed.
const MIGRATIONS: [&str; 5] = [
    include_str!("schema.sql"),
    include_str!("snapshots.sql"),
    include_str!("removed.sql"),
    include_str!("definitions.sql"),
    include_str!("steps.sql"),
];

/// The version that this program knows.
pub(super) const NEWEST: i32 = MIGRATIONS.len() as i32;

/// What a schema turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is none.
    Nothing,
    /// There is one without anything in it.
    Empty,
    /// It has something that we have not put there.
    Foreign,
    /// It is ours.
    Version(usize),
}

pub(super) async fn inspect(connection: &mut PgConnection, sql: &Sql) -> Done<Found> {
    let look = sql.query(
        "SELECT to_regclass($1) IS NOT NULL,
           EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $2),
           EXISTS (SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
                   WHERE nspname = $2)",
    );
    let table = sql.put_in("stepwell.migrations");
    let row = look.bind(&table).bind(sql.name()).fetch_one(&mut *connection).await?;
    Ok(Ok(match (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?) {
        (true, ..) => {
            let newest = sql.query("SELECT coalesce(max(version), 0) FROM stepwell.migrations");
            let version: i32 = newest.fetch_one(connection).await?.try_get(0)?;
            Found::Version(usize::try_from(version).unwrap_or(0))
        }
        (_, false, _) => Found::Nothing,
        (_, true, false) => Found::Empty,
        (_, true, true) => Found::Foreign,
    }))
}

pub(super) fn must_be_newest(found: Found, fault: &Fault) -> Result<()> {
    must_not_be_newer(found, fault)?;
    match found {
        Found::Version(version) if version == MIGRATIONS.len() => Ok(()),
        Found::Version(version) => Err(fault.unmigrated(version, MIGRATIONS.len())),
        Found::Nothing | Found::Empty | Found::Foreign => {
            Err(fault.unmigrated(0, MIGRATIONS.len()))
        }
    }
}

pub(super) fn must_not_be_newer(found: Found, fault: &Fault) -> Result<()> {
    match found {
        Found::Version(version) if version > MIGRATIONS.len() => {
            Err(fault.newer(version, MIGRATIONS.len()))
        }
        _ => Ok(()),
    }
}

/// Inside of a transaction, which keeps the lock that others wait for. How long it waits for others that
/// migrate, and then for each that uses a table: who waits for a table has everybody else wait, too.
pub(super) async fn migrate(
    connection: &mut PgConnection,
    sql: &Sql,
    fault: &Fault,
    (others, tables): (Duration, Duration),
) -> Done<()> {
    wait_at_most(connection, sql, others).await?;
    let lock = sql.query("SELECT pg_advisory_xact_lock(hashtextextended('migrate ' || $1, 0))");
    match lock.bind(sql.name()).execute(&mut *connection).await {
        Err(error) if is_waited_out(&error) => return Ok(Err(fault.migrating(others))),
        locked => locked?,
    };
    wait_at_most(connection, sql, tables).await?;
    let found = match inspect(connection, sql).await? {
        Ok(found) => found,
        Err(error) => return Ok(Err(error)),
    };
    if let Err(error) = must_not_be_newer(found, fault) {
        return Ok(Err(error));
    }
    let version = match found {
        Found::Foreign => return Ok(Err(fault.foreign())),
        Found::Version(version) => version,
        Found::Nothing | Found::Empty => 0,
    };
    if found == Found::Nothing {
        let create = format!("CREATE SCHEMA {}", sql.quoted());
        connection.execute(AssertSqlSafe(create)).await?;
    }
    if matches!(found, Found::Nothing | Found::Empty) {
        let create = "CREATE TABLE stepwell.migrations (
            version integer PRIMARY KEY,
            at      timestamptz NOT NULL DEFAULT now()
        )";
        connection.execute(AssertSqlSafe(sql.put_in(create))).await?;
    }
    for (version, migration) in (1_i32..).zip(&MIGRATIONS).skip(version) {
        connection.execute(AssertSqlSafe(sql.put_in(migration))).await?;
        let note = sql.query("INSERT INTO stepwell.migrations (version) VALUES ($1)");
        note.bind(version).execute(&mut *connection).await?;
    }
    Ok(Ok(()))
}

/// From here on to the end of the transaction. What is done itself may take as long as it takes.
async fn wait_at_most(
    connection: &mut PgConnection,
    sql: &Sql,
    limit: Duration,
) -> sqlx::Result<()> {
    let set = sql.query(
        "SELECT set_config('lock_timeout', $1, true), set_config('statement_timeout', '0', true)",
    );
    // None at all would be without end.
    let limit = limit.as_millis().max(1).to_string();
    set.bind(limit).execute(connection).await.map(drop)
}

fn is_waited_out(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|code| code == "55P03")
}
