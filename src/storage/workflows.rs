//! Definitions, each kept once per content, and shared by all runs that are loaded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::rows::corrupt;
use crate::error::Result;
use crate::id::RunId;
use crate::workflow::{Workflow, canonical, digest_of};

/// Definitions at hand: with more than that in use at once, some are read again.
pub(super) const KEPT_MAX: usize = 256;

/// Definitions that were last used, latest last. One content is one [`Workflow`], so that what is
/// computed for its program is computed once.
#[derive(Default)]
pub(super) struct Workflows(Mutex<Vec<(Arc<str>, Workflow)>>);

/// A definition on its way into the database.
#[derive(Clone)]
pub(super) struct Written {
    pub(super) hash: Arc<str>,
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

    /// The definition of this hash, if it was used lately.
    pub(super) fn at_hand(&self, hash: &str) -> Option<Workflow> {
        self.find(|(other, _)| **other == *hash).map(|(_, workflow)| workflow)
    }

    /// The definition of this hash from its JSON.
    pub(super) fn read(&self, hash: &str, json: &str, run: &RunId) -> Result<Workflow> {
        if digest_of(json) != hash {
            return Err(corrupt(run, "its workflow is not the one that was written"));
        }
        let workflow: Workflow = serde_json::from_str(json)
            .map_err(|error| corrupt(run, "its workflow cannot be read").because(error))?;
        self.keep(hash.into(), workflow.clone());
        Ok(workflow)
    }
}

impl Written {
    pub(super) fn id(&self) -> &str {
        self.workflow.id()
    }

    pub(super) fn version(&self) -> Option<u32> {
        self.workflow.version()
    }

    /// What is written where the hash is not known.
    pub(super) fn json(&self) -> Arc<str> {
        match &self.json {
            Some(json) => Arc::clone(json),
            // It was removed since, or what put it there was undone.
            None => canonical(self.workflow.definition()).into(),
        }
    }
}
