//! Definitions, each kept once per content, and shared by all runs that are loaded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};

use super::rows::corrupt;
use super::writer::Done;
use crate::id::RunId;
use crate::workflow::{Workflow, canonical, digest_of};

/// Definitions at hand: with more than that in use at once, some are read again.
const KEPT_MAX: usize = 256;

/// Definitions that were last used, latest last. One content is one [`Workflow`], so that what is
/// computed for its program is computed once.
#[derive(Default)]
pub(super) struct Workflows(Mutex<Vec<(Arc<str>, Workflow)>>);

/// A definition on its way into the database.
#[derive(Clone)]
pub(super) struct Written {
    hash: Arc<str>,
    /// None when it is likely to be there.
    json: Option<Arc<str>>,
    workflow: Workflow,
}

impl Workflows {
    fn kept(&self) -> MutexGuard<'_, Vec<(Arc<str>, Workflow)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, is_it: impl Fn(&(Arc<str>, Workflow)) -> bool) -> Option<(Arc<str>, Workflow)> {
        let mut kept = self.kept();
        let place = kept.iter().rposition(is_it)?;
        if let Some(behind) = kept.get_mut(place..) {
            behind.rotate_left(1);
        }
        kept.last().cloned()
    }

    fn keep(&self, hash: Arc<str>, workflow: Workflow) {
        let mut kept = self.kept();
        if kept.iter().any(|(other, _)| *other == hash) {
            return;
        }
        if kept.len() >= KEPT_MAX {
            kept.remove(0);
        }
        kept.push((hash, workflow));
    }

    /// Outside of the transaction: hashing a large definition takes its time.
    pub(super) fn write(&self, workflow: &Workflow) -> Written {
        let same = |(_, other): &(_, Workflow)| Arc::ptr_eq(other.program(), workflow.program());
        let workflow = workflow.clone();
        if let Some((hash, _)) = self.find(same) {
            return Written { hash, json: None, workflow };
        }
        let hash: Arc<str> = workflow.digest().into();
        self.keep(Arc::clone(&hash), workflow.clone());
        let json = canonical(workflow.definition());
        Written { hash, json: Some(json.into()), workflow }
    }

    /// The definition in this row.
    pub(super) fn read(&self, connection: &Connection, row: i64, run: &RunId) -> Done<Workflow> {
        let mut hash =
            connection.prepare_cached("SELECT hash FROM workflows WHERE workflow = ?1")?;
        let hash: String = hash.query_row([row], |row| row.get(0))?;
        if let Some((_, workflow)) = self.find(|(other, _)| **other == *hash) {
            return Ok(Ok(workflow));
        }
        let mut json =
            connection.prepare_cached("SELECT definition FROM workflows WHERE workflow = ?1")?;
        let json: String = json.query_row([row], |row| row.get(0))?;
        if digest_of(&json) != hash {
            return Ok(Err(corrupt(run, "its workflow is not the one that was written")));
        }
        Ok(match serde_json::from_str::<Workflow>(&json) {
            Ok(workflow) => {
                self.keep(hash.into(), workflow.clone());
                Ok(workflow)
            }
            Err(error) => Err(corrupt(run, "its workflow cannot be read").because(error)),
        })
    }
}

impl Written {
    /// The row that has it, which is made if there is none.
    pub(super) fn row(&self, connection: &Connection) -> rusqlite::Result<i64> {
        let mut find =
            connection.prepare_cached("SELECT workflow FROM workflows WHERE hash = ?1")?;
        if let Some(row) = find.query_row([&*self.hash], |row| row.get(0)).optional()? {
            return Ok(row);
        }
        let json = match &self.json {
            Some(json) => Arc::clone(json),
            // It was removed since, or what put it there was undone.
            None => canonical(self.workflow.definition()).into(),
        };
        let mut insert = connection.prepare_cached(
            "INSERT INTO workflows (id, version, hash, definition) VALUES (?1, ?2, ?3, ?4)",
        )?;
        let version = self.workflow.version();
        insert.insert(params![self.workflow.id(), version, &*self.hash, &*json])
    }
}
