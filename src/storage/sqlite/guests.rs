//! Statements of steps, inside of our transactions: what they may do, and what becomes of the others
//! when they go wrong.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, params_from_iter};

use super::schema::MIGRATIONS;
use crate::error::ErrorClass;
use crate::storage::{Parameter, RefusedWrite, Statement, StepWrites};

/// Lets statements of steps write on a connection, and watches them.
#[derive(Clone)]
pub(super) struct Guests(Arc<AtomicBool>);

/// Why a statement was not done.
enum Wrong {
    /// It is not good.
    Refused(ErrorClass, String),
    /// The disk, or something else that is everybody's trouble.
    Database(rusqlite::Error),
}

impl Guests {
    /// Watches what is compiled on this connection. Once, when it is opened: to begin or to stop
    /// watching has SQLite compile everything anew.
    pub(super) fn watch(connection: &mut Connection) -> rusqlite::Result<Self> {
        let here = Arc::new(AtomicBool::new(false));
        let (watching, ours) = (Arc::clone(&here), names());
        let hook = move |context: AuthContext<'_>| {
            let may = !watching.load(Ordering::Relaxed) || may(&context.action, &ours);
            if may { Authorization::Allow } else { Authorization::Deny }
        };
        connection.authorizer(Some(hook)).told()?;
        Ok(Self(here))
    }

    /// Does what steps write, all of it or nothing. An error is everybody's whose work shares the
    /// transaction.
    pub(super) fn write(
        &self,
        connection: &Connection,
        writes: &[StepWrites],
    ) -> rusqlite::Result<Result<(), RefusedWrite>> {
        connection.prepare_cached("SAVEPOINT step_writes")?.execute([])?;
        for of_step in writes {
            for (at, statement) in of_step.statements.iter().enumerate() {
                self.0.store(true, Ordering::Relaxed);
                let done = execute(connection, statement);
                self.0.store(false, Ordering::Relaxed);
                let (class, why) = match done {
                    Ok(()) => continue,
                    Err(Wrong::Refused(class, why)) => (class, why),
                    Err(Wrong::Database(error)) => return Err(error),
                };
                let refused = RefusedWrite::new(of_step, at, class, why);
                // By `INSERT OR ROLLBACK`, for one. What others had done is gone, too.
                if connection.is_autocommit() {
                    return Err(carrying(refused));
                }
                connection.prepare_cached("ROLLBACK TO step_writes")?.execute([])?;
                connection.prepare_cached("RELEASE step_writes")?.execute([])?;
                return Ok(Err(refused));
            }
        }
        connection.prepare_cached("RELEASE step_writes")?.execute([])?;
        Ok(Ok(()))
    }
}

/// Answers of `Connection::authorizer`, which earlier versions do not give.
trait Told {
    fn told(self) -> rusqlite::Result<()>;
}

impl Told for () {
    fn told(self) -> rusqlite::Result<()> {
        Ok(())
    }
}

impl Told for rusqlite::Result<()> {
    fn told(self) -> rusqlite::Result<()> {
        self
    }
}

/// The names of our own tables, views and indexes.
fn names() -> BTreeSet<String> {
    let words: Vec<&str> = MIGRATIONS.iter().flat_map(|text| text.split_whitespace()).collect();
    let named = words.windows(2).filter(|pair| matches!(pair[0], "TABLE" | "VIEW" | "INDEX"));
    named.map(|pair| pair[1].trim_end_matches(['(', ';']).to_ascii_lowercase()).collect()
}

/// What a step may do: read everything, and write to, make and drop what is not ours. Nothing that is
/// there for this connection only: it could stand before a table of ours.
fn may(action: &AuthAction<'_>, ours: &BTreeSet<String>) -> bool {
    let theirs = |name: &str| !ours.contains(&name.to_ascii_lowercase());
    match *action {
        AuthAction::Select
        | AuthAction::Read { .. }
        | AuthAction::Function { .. }
        | AuthAction::Recursive => true,
        AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name }
        | AuthAction::CreateTable { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::Analyze { table_name }
        | AuthAction::CreateVtable { table_name, .. }
        | AuthAction::DropVtable { table_name, .. } => theirs(table_name),
        AuthAction::CreateView { view_name } | AuthAction::DropView { view_name } => {
            theirs(view_name)
        }
        AuthAction::Reindex { index_name } => theirs(index_name),
        AuthAction::CreateIndex { index_name, table_name }
        | AuthAction::DropIndex { index_name, table_name } => {
            theirs(index_name) && theirs(table_name)
        }
        AuthAction::CreateTrigger { table_name, .. }
        | AuthAction::DropTrigger { table_name, .. } => theirs(table_name),
        _ => false,
    }
}

fn execute(connection: &Connection, statement: &Statement) -> Result<(), Wrong> {
    // Older versions of the driver take a space at the end for another statement.
    let sql = statement.sql.trim();
    let values = {
        let prepared = connection.prepare(sql).map_err(wrong)?;
        if prepared.readonly() {
            return Err(refused("it writes nothing"));
        }
        values(&prepared, &statement.parameters)?
    };
    connection.execute(sql, params_from_iter(values)).map_err(wrong)?;
    match statement.changes {
        Some(rows) if rows != connection.changes() => {
            let changed = connection.changes();
            let why = format!("it changed {changed} rows and was to change {rows}");
            Err(Wrong::Refused(ErrorClass::Fatal, why))
        }
        _ => Ok(()),
    }
}

fn refused(why: impl Into<String>) -> Wrong {
    Wrong::Refused(ErrorClass::Configuration, why.into())
}

/// The values of parameters in the places that SQLite counts: `$2` may stand before `$1`.
fn values(prepared: &rusqlite::Statement<'_>, given: &[Parameter]) -> Result<Vec<Value>, Wrong> {
    let mut unused: BTreeSet<usize> = (1..=given.len()).collect();
    let mut values = Vec::with_capacity(given.len());
    for place in 1..=prepared.parameter_count() {
        let number = match prepared.parameter_name(place) {
            None => place,
            Some(name) => {
                let digits = name.strip_prefix(['?', '$']).unwrap_or_default();
                digits.parse().map_err(|_| {
                    refused(format!(
                        "parameters have numbers, as in `$1`, and no names as `{name}`"
                    ))
                })?
            }
        };
        let Some(value) = number.checked_sub(1).and_then(|at: usize| given.get(at)) else {
            let why = format!("it has a parameter {number}, and {} were given", given.len());
            return Err(refused(why));
        };
        unused.remove(&number);
        values.push(value_of(value));
    }
    match unused.first() {
        Some(number) => Err(refused(format!("it has no parameter {number}, which was given"))),
        None => Ok(values),
    }
}

fn value_of(parameter: &Parameter) -> Value {
    match parameter {
        Parameter::Null => Value::Null,
        Parameter::Boolean(truth) => Value::Integer((*truth).into()),
        Parameter::Integer(number) => Value::Integer(*number),
        Parameter::Real(number) => Value::Real(*number),
        Parameter::Text(text) => Value::Text(text.clone()),
        Parameter::Bytes(bytes) => Value::Blob(bytes.clone()),
    }
}

/// Whose fault an error is.
fn wrong(error: rusqlite::Error) -> Wrong {
    let class = match error.sqlite_error_code() {
        Some(
            ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::OutOfMemory
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::InternalMalfunction,
        ) => return Wrong::Database(error),
        Some(ErrorCode::AuthorizationForStatementDenied) => {
            let why = "a step does not write to stepwell's tables, make temporary ones, begin or end \
                       transactions, or change settings";
            return Wrong::Refused(ErrorClass::Configuration, why.into());
        }
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig) => ErrorClass::Fatal,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorClass::Temporary,
        _ => ErrorClass::Configuration,
    };
    Wrong::Refused(class, error.to_string())
}

/// An error of the database that undoes everything, for one who is to blame.
fn carrying(refused: RefusedWrite) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(refused))
}

/// Who is to blame for an error, if a step is.
pub(super) fn carried(error: &rusqlite::Error) -> Option<&RefusedWrite> {
    match error {
        rusqlite::Error::ToSqlConversionFailure(inner) => inner.downcast_ref(),
        _ => None,
    }
}

/// Our own tables have no constraints that wait for the end of a transaction; those of steps may.
pub(super) fn at_the_end(error: rusqlite::Error) -> rusqlite::Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => carrying(RefusedWrite {
            step: None,
            class: ErrorClass::Fatal,
            message: format!("at the end of the transaction: {error}"),
        }),
        _ => error,
    }
}
