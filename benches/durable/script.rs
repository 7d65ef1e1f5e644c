//! What stepwell writes for a run, turn by turn, to be written again by hand.

use std::path::Path;

use rusqlite::Connection;
use stepwell::Workflow;
use stepwell::storage::Sqlite;

use super::{engine, execute};

/// An event as a row.
pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) scope: Option<i64>,
    pub(crate) step: Option<i64>,
    pub(crate) data: Option<String>,
}

/// The journal of a run as rows; the first turn is its creation.
pub(crate) struct Script(pub(crate) Vec<Vec<Event>>);

impl Script {
    /// Has a run written to this file, which is made, and reads what that was.
    pub(crate) fn record(file: &Path, workflow: &Workflow) -> Self {
        execute(&engine(Sqlite::open(file).unwrap()), workflow, 1);
        let connection = Connection::open(file).unwrap();
        let mut select = connection
            .prepare("SELECT at, kind, scope, step, data FROM events ORDER BY run, position")
            .unwrap();
        let mut turns: Vec<Vec<Event>> = Vec::new();
        let mut last = None;
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let at: i64 = row.get(0).unwrap();
            let (kind, scope) = (row.get(1).unwrap(), row.get(2).unwrap());
            let (step, data) = (row.get(3).unwrap(), row.get(4).unwrap());
            // A turn happens at one moment, and is written before the next.
            if last.replace(at) != Some(at) || turns.len() == 1 {
                turns.push(Vec::new());
            }
            turns.last_mut().unwrap().push(Event { kind, scope, step, data });
        }
        Self(turns)
    }
}
