//! What a database's errors are to callers: where, what, and what to do now. Neither SQL nor values nor
//! passwords are in them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::postgres::PgConnectOptions;

use crate::error::{Error, ErrorKind};

/// Makes errors that name the database and the schema.
#[derive(Clone)]
pub(super) struct Fault {
    database: Arc<str>,
    schema: Arc<str>,
}

impl Fault {
    pub(super) fn new(options: &PgConnectOptions, schema: &str) -> Self {
        let host = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => options.get_host().to_owned(),
        };
        // As the server chooses it.
        let name = options.get_database().unwrap_or_else(|| options.get_username());
        let database = format!("{host}:{}/{name}", options.get_port()).into();
        Self { database, schema: schema.into() }
    }

    pub(super) fn of(&self, error: &sqlx::Error) -> Error {
        match error {
            sqlx::Error::Database(error) => self.refused(&**error),
            sqlx::Error::Io(error) => {
                let failed = self.error(format!(
                    "the connection failed ({}); see whether the server runs and the network works",
                    error.kind()
                ));
                failed.transient()
            }
            sqlx::Error::PoolTimedOut => self
                .error("no connection became free in time; let the pool have more, or try again")
                .transient(),
            sqlx::Error::PoolClosed => {
                self.error("the pool of connections was closed; keep it open while engines run")
            }
            sqlx::Error::Tls(_) => self.error(
                "the encryption of the connection could not be agreed on; see `sslmode` in the URL, \
                 and the features of the crate `sqlx`",
            ),
            // What a connection says after it was cut in the middle of something.
            sqlx::Error::Protocol(_) | sqlx::Error::BeginFailed => self
                .error("the server answered what was not expected; is it a PostgreSQL server?")
                .transient(),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => self.error(
                "a row is not as it was written; restore the database from a backup, or remove the run",
            ),
            sqlx::Error::Configuration(_) | sqlx::Error::InvalidArgument(_) => {
                self.error("how to connect cannot be understood; check the URL")
            }
            _ => self.error("it cannot be used; see the log of the server"),
        }
    }

    fn refused(&self, error: &dyn DatabaseError) -> Error {
        let code = error.code().unwrap_or_default();
        let (class, _) = code.split_at_checked(2).unwrap_or((&code, ""));
        let (advice, passes) = match (class, &*code) {
            (_, "42P01" | "3F000") => return self.unmigrated(0, 0),
            (_, "40001" | "40P01" | "55P03") => ("others were in the way; try again", true),
            (_, "57014") => ("it took longer than `statement_timeout` allows", true),
            (_, "25006") => ("this server only reads; connect to the one that writes", true),
            (_, "25P03") => {
                ("this program was too slow in the middle of something; try again", true)
            }
            ("08" | "57", _) => ("the server is going down or coming up; try again", true),
            ("53", _) => ("the server has not enough room, memory or connections; see to it", true),
            ("58", _) => ("the server's disk or system fails; see its log", true),
            ("28", _) => ("check user and password", false),
            ("3D", _) => ("there is no such database; create it", false),
            (_, "42501") => ("check what the user may do in the schema", false),
            ("XX", _) => ("the database is damaged; see the log of the server", false),
            _ => ("see the log of the server", false),
        };
        let said = error.message();
        let failed = self.error(format!("the server said `{said}` ({code}); {advice}"));
        if passes { failed.transient() } else { failed }
    }

    /// The schema is not there or is older.
    pub(super) fn unmigrated(&self, found: usize, newest: usize) -> Error {
        let schema = &self.schema;
        let what = if found == 0 {
            format!("there are no tables of ours in the schema `{schema}`")
        } else {
            format!("the schema `{schema}` has version {found}, and this program needs {newest}")
        };
        self.error(format!("{what}; call `Postgres::migrate` once before anything else"))
    }

    /// The schema was written by a newer version of this program.
    pub(super) fn newer(&self, found: usize, newest: usize) -> Error {
        let schema = &self.schema;
        self.error(format!(
            "the schema `{schema}` has version {found}, and this program knows versions up to \
             {newest}; use a newer version of the program"
        ))
    }

    pub(super) fn foreign(&self) -> Error {
        let schema = &self.schema;
        self.error(format!(
            "the schema `{schema}` belongs to another program; choose another by \
             `PostgresOptions::schema`"
        ))
    }

    /// Statements of our own would be refused whenever somebody else changes the same row.
    pub(super) fn isolated(&self, level: &str) -> Error {
        let message = format!(
            "the sessions of this pool have the isolation level `{level}`, and stepwell's single \
             statements need `read committed`; set `default_transaction_isolation` for the pool's \
             role, or with its options, or have another pool made by `PostgresOptions::connect`"
        );
        Error::new(ErrorKind::Configuration, format!("the database {}: {message}", self.database))
    }

    pub(super) fn migrating(&self, patience: Duration) -> Error {
        let (schema, seconds) = (&self.schema, patience.as_secs_f64());
        self.error(format!(
            "another program has been migrating the schema `{schema}` for {seconds} s; try again when it \
             is done, or see in `pg_stat_activity` what it waits for"
        ))
        .transient()
    }

    pub(super) fn silent(&self, patience: Duration) -> Error {
        let seconds = patience.as_secs_f64();
        self.error(format!(
            "no answer within {seconds} s; see whether the server and the network work"
        ))
        .transient()
    }

    /// `what` stands behind the name of the database.
    pub(super) fn error(&self, what: impl fmt::Display) -> Error {
        let message = format!("the database {}: {what}", self.database);
        Error::new(ErrorKind::Storage, message)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.schema, self.database)
    }
}

/// Whether the connection is of no use any more.
pub(super) fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| code.starts_with("08") || code.starts_with("57P"))
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::Encode(_) => false,
        _ => true,
    }
}

/// The same error for somebody else; those that are made here have no source.
pub(super) fn again(error: &Error) -> Error {
    let same = Error::new(error.kind(), error.to_string());
    if error.is_transient() { same.transient() } else { same }
}
