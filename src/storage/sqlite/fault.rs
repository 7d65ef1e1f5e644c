//! What a database's errors are to callers: what was tried, where, and what to do now.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rusqlite::ErrorCode;

use super::guests::carried;
use super::schema::Another;
use crate::error::{Error, ErrorKind};

/// Makes errors that name the file.
#[derive(Clone)]
pub(super) struct Fault(pub(super) Arc<Path>);

impl Fault {
    pub(super) fn writing(&self, error: impl Into<Arc<rusqlite::Error>>) -> Error {
        self.of("write to", error)
    }

    pub(super) fn reading(&self, error: impl Into<Arc<rusqlite::Error>>) -> Error {
        self.of("read", error)
    }

    pub(super) fn opening(&self, error: impl Into<Arc<rusqlite::Error>>) -> Error {
        self.of("open", error)
    }

    fn of(&self, tried: &str, error: impl Into<Arc<rusqlite::Error>>) -> Error {
        let error = error.into();
        if let Some(refused) = carried(&error) {
            return refused.clone().into_error();
        }
        if let rusqlite::Error::ToSqlConversionFailure(inner) = &*error
            && let Some(another) = inner.downcast_ref()
        {
            return self.another(another, tried);
        }
        let (advice, passes) = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                ("another program has held it for longer than the busy timeout; try again", true)
            }
            Some(ErrorCode::DiskFull) => ("the disk is full; make room and try again", true),
            Some(ErrorCode::SystemIoFailure) => ("the disk or its file system fails", true),
            Some(ErrorCode::OutOfMemory) => ("there is no memory left", true),
            Some(ErrorCode::CannotOpen) => {
                ("check that its folder is there, and the rights", false)
            }
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                ("check who may write to the file and its folder", false)
            }
            Some(ErrorCode::DatabaseCorrupt) => {
                ("the file is damaged; restore it from a backup", false)
            }
            Some(ErrorCode::NotADatabase) => ("it is not a SQLite file; choose another", false),
            _ => ("see the source of this error", false),
        };
        let failed = self.error(format!("cannot {tried}"), advice).because(error);
        if passes { failed.transient() } else { failed }
    }

    pub(super) fn another(&self, schema: &Another, tried: &str) -> Error {
        self.error(format!("cannot {tried}"), &schema.to_string())
    }

    pub(super) fn thread(&self, error: io::Error) -> Error {
        self.error("cannot start a thread for", "let this process have more").because(error)
    }

    pub(super) fn closed(&self) -> Error {
        self.error("cannot write to", "its thread has ended; open it anew")
    }

    /// `what` stands before the name of the database.
    pub(super) fn error(&self, what: impl std::fmt::Display, advice: &str) -> Error {
        let message = format!("{what} the database {}: {advice}", self.0.display());
        Error::new(ErrorKind::Storage, message)
    }
}
