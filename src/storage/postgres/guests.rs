//! Statements of steps, in the transaction of their commit: what they may do, and whose fault it is when
//! they go wrong.
//!
//! Such a commit has a transaction for itself, so that a refusal undoes nothing of others. The run's row
//! is locked and compared first: who may not write is told so, whatever the statements are.

use std::time::Duration;

use sqlx::encode::IsNull;
use sqlx::error::{BoxDynError, DatabaseError};
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use sqlx::{AssertSqlSafe, Encode, PgConnection, Postgres, Row, Type};
use uuid::Uuid;

use super::access::{Done, Sql};
use super::wording;
use crate::error::{Error, ErrorClass};
use crate::id::RunId;
use crate::storage::{Commit, Parameter, RefusedWrite, Statement, StepWrites, conflict, not_found};

/// What steps write with a commit.
pub(super) struct Guests {
    writes: Box<[StepWrites]>,
    /// How long each statement may take.
    wait: Duration,
}

/// Why a statement was not done.
enum Wrong {
    /// It is not good.
    Refused(ErrorClass, String),
    /// The connection, or something else that is everybody's trouble.
    Database(sqlx::Error),
}

impl Guests {
    /// Whoever is in their way, or they themselves, are given up half-way to where nobody waits for the
    /// commit any more: then nobody would know whose fault it was, and it would come again and again.
    pub(super) fn of(commit: &Commit, patience: Duration) -> Option<Self> {
        let writes = commit.writes.clone()?;
        Some(Self { writes, wait: patience / 2 })
    }

    /// Does what steps write, if this owner may write. A refusal is to end the transaction.
    pub(super) async fn write(
        &self,
        connection: &mut PgConnection,
        sql: &Sql,
        run: &RunId,
        (owner, expected): (Uuid, i64),
    ) -> Done<()> {
        let ours = match self.lock(connection, sql, run, (owner, expected)).await? {
            Ok(ours) => ours,
            Err(error) => return Ok(Err(error)),
        };
        for of_step in &self.writes {
            for (at, statement) in of_step.statements.iter().enumerate() {
                let refused = match execute(connection, sql, statement).await {
                    Ok(()) => continue,
                    Err(Wrong::Refused(class, why)) => RefusedWrite::new(of_step, at, class, why),
                    Err(Wrong::Database(error)) => return Err(error),
                };
                return Ok(Err(refused.into_error().of_run(run)));
            }
        }
        match settle(connection, sql, &ours).await {
            Ok(()) => Ok(Ok(())),
            Err(Wrong::Refused(class, why)) => Ok(Err(self.at_the_end(class, &why).of_run(run))),
            Err(Wrong::Database(error)) => Err(error),
        }
    }

    /// Our own tables, views, sequences and indexes, once the run's row is locked and as it has to be.
    async fn lock(
        &self,
        connection: &mut PgConnection,
        sql: &Sql,
        run: &RunId,
        (owner, expected): (Uuid, i64),
    ) -> Done<Vec<i64>> {
        let wait = format!("{}ms", self.wait.as_millis().max(1));
        let query = sql.query(LOCK).bind(run.as_str()).bind(expected).bind(owner);
        let found = query.bind(wait).bind(sql.name()).fetch_optional(connection).await?;
        let Some(row) = found else { return Ok(Err(not_found(run))) };
        let fits: bool = row.try_get(0)?;
        Ok(if fits { Ok(row.try_get(1)?) } else { Err(conflict(run)) })
    }

    /// A refusal that is about no statement in particular. Where several steps write, each has to come
    /// alone to show whose it is.
    fn at_the_end(&self, class: ErrorClass, why: &str) -> Error {
        let step = match &*self.writes {
            [one] => Some(one.step),
            _ => None,
        };
        RefusedWrite { step, class, message: format!("after all statements: {why}") }.into_error()
    }
}

/// Settings last until the end of the transaction.
const LOCK: &str = "
WITH locked AS MATERIALIZED (
  SELECT events, owner FROM stepwell.runs WHERE id = $1 FOR UPDATE
), waits AS MATERIALIZED (
  SELECT set_config('lock_timeout', $4, true), set_config('statement_timeout', $4, true) FROM locked
)
SELECT events = $2 AND coalesce(owner = $3, true), ARRAY(
  SELECT pg_class.oid::bigint FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
  WHERE nspname = $5
)
FROM locked, waits";

/// Whoever writes to a relation, or changes it, has locked it until the end of the transaction: by a
/// trigger or a function, too. Reading, and the lock of the run's row, take only the weakest two.
const TOUCHED: &str = "
SELECT EXISTS (
  SELECT FROM pg_locks
  LEFT JOIN pg_class ON pg_class.oid = pg_locks.relation
  LEFT JOIN pg_namespace ON pg_namespace.oid = relnamespace
  WHERE pg_locks.pid = pg_backend_pid() AND locktype = 'relation'
    AND mode NOT IN ('AccessShareLock', 'RowShareLock')
    AND (relation::bigint = ANY ($1) OR nspname = $2 OR relnamespace = pg_my_temp_schema())
)";

/// Checks what waits for the end of the transaction, and looks whether anything of ours was touched.
async fn settle(connection: &mut PgConnection, sql: &Sql, ours: &[i64]) -> Result<(), Wrong> {
    let now = sql.query("SET CONSTRAINTS ALL IMMEDIATE");
    now.execute(&mut *connection).await.map_err(wrong)?;
    let look = sql.query(TOUCHED).bind(ours).bind(sql.name());
    let row = look.fetch_one(connection).await.map_err(Wrong::Database)?;
    if row.try_get(0).map_err(Wrong::Database)? {
        let why = "a step does not write to stepwell's tables or change them, and neither to temporary \
                   ones";
        return Err(Wrong::Refused(ErrorClass::Configuration, why.into()));
    }
    Ok(())
}

async fn execute(
    connection: &mut PgConnection,
    sql: &Sql,
    statement: &Statement,
) -> Result<(), Wrong> {
    wording::check(&statement.sql, statement.parameters.len())
        .map_err(|why| Wrong::Refused(ErrorClass::Configuration, why))?;
    let has_nulls = statement.parameters.contains(&Parameter::Null);
    let done = match has_nulls {
        true => send_nulls(connection, sql, statement).await,
        false => send(connection, statement).await,
    };
    let changed = done.map_err(wrong)?;
    match statement.changes {
        Some(rows) if rows != changed => {
            let why = format!("it changed {changed} rows and was to change {rows}");
            Err(Wrong::Refused(ErrorClass::Fatal, why))
        }
        _ => Ok(()),
    }
}

/// The driver asks for types that it does not know, as an enumeration where a null goes, and forgets by
/// that what it has just prepared. Then it knows the type.
async fn send_nulls(
    connection: &mut PgConnection,
    sql: &Sql,
    statement: &Statement,
) -> sqlx::Result<u64> {
    sql.query("SAVEPOINT before_nulls").execute(&mut *connection).await?;
    let mut done = send(connection, statement).await;
    if done.as_ref().is_err_and(is_forgotten) {
        sql.query("ROLLBACK TO before_nulls").execute(&mut *connection).await?;
        done = send(connection, statement).await;
    }
    let changed = done?;
    sql.query("RELEASE before_nulls").execute(connection).await?;
    Ok(changed)
}

/// Whether a statement was not there any more when it was to be done.
fn is_forgotten(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|said| said.code().as_deref() == Some("26000"))
}

/// How many rows it has changed.
async fn send(connection: &mut PgConnection, statement: &Statement) -> sqlx::Result<u64> {
    // Under another text a host may have prepared the same for parameters of other types.
    let text = format!("/* of a step */ {}", statement.sql);
    let query = sqlx::query::<Postgres>(AssertSqlSafe(text)).persistent(false);
    let query = statement.parameters.iter().fold(query, |query, parameter| match parameter {
        Parameter::Null => query.bind(Nothing),
        Parameter::Boolean(truth) => query.bind(*truth),
        Parameter::Integer(number) => query.bind(*number),
        Parameter::Real(number) => query.bind(*number),
        Parameter::Text(text) => query.bind(text.as_str()),
        Parameter::Bytes(bytes) => query.bind(bytes.as_slice()),
    });
    Ok(query.execute(connection).await?.rows_affected())
}

/// A null of whatever type the server wants at its place.
struct Nothing;

impl Type<Postgres> for Nothing {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Nothing {
    fn encode_by_ref(&self, _: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Ok(IsNull::Yes)
    }
}

/// Whose fault an error is, by its code ("PostgreSQL Error Codes" in its manual).
fn wrong(error: sqlx::Error) -> Wrong {
    let sqlx::Error::Database(said) = &error else { return Wrong::Database(error) };
    let code = said.code().unwrap_or_default();
    let (group, _) = code.split_at_checked(2).unwrap_or((&code, ""));
    let class = match (group, &*code) {
        // The statement's own time is over, or somebody has stopped it.
        (_, "57014") => ErrorClass::Temporary,
        ("08" | "53" | "57" | "58" | "F0", _) | (_, "" | "25006" | "25P03" | "XX001" | "XX002") => {
            return Wrong::Database(error);
        }
        ("40", _) | (_, "55P03") => ErrorClass::Temporary,
        // What a trigger raises by itself is about the data, too.
        ("21" | "22" | "23" | "44" | "54", _) | (_, "P0001") => ErrorClass::Fatal,
        _ => ErrorClass::Configuration,
    };
    Wrong::Refused(class, message(&**said, &code))
}

/// What the server says, without the details, which quote values.
fn message(said: &dyn DatabaseError, code: &str) -> String {
    let text = said.message();
    let text = if code.starts_with("22") {
        text.split_once(": \"").map_or(text, |(what, _)| what)
    } else {
        text
    };
    let advice = match code {
        "42804" | "42846" | "42883" | "42P18" => "; a parameter can be cast, as in `$1::uuid`",
        _ => "",
    };
    format!("{text} ({code}){advice}")
}
