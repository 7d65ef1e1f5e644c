//! Which locks a step wants.

use super::RunState;
use crate::id::StepKey;
use crate::journal::Signal;
use crate::time::Timestamp;
use crate::workflow::Rate;

/// A lock that a step wants.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Want {
    /// Its name, with its key if it has one.
    pub lock: String,
    /// How many may hold it; none is any number.
    pub max: Option<u32>,
    /// How often it may be taken.
    pub rate: Option<Rate>,
}

impl Want {
    /// One that a single step may hold.
    pub fn new(lock: impl Into<String>) -> Self {
        Self { lock: lock.into(), max: Some(1), rate: None }
    }
}

impl RunState {
    /// The locks that a step has to hold before it starts.
    ///
    /// # Errors
    /// What is wrong with a key.
    pub fn locks(&self, step: StepKey, now: Timestamp) -> Result<Vec<Want>, String> {
        let locks = self.node(step).map_or(&[][..], |node| node.locks());
        let want = |lock: &crate::workflow::LockOf| {
            let name = match &lock.key {
                None => lock.name.clone(),
                Some(key) => {
                    let key = self.evaluate(step, key, now).map_err(|error| error.to_string());
                    let name = key.and_then(|key| Signal::name_for(&lock.name, &key));
                    name.map_err(|error| format!("lock `{}`: {error}", lock.name))?
                }
            };
            Ok(Want { lock: name, max: lock.max, rate: lock.rate })
        };
        locks.iter().map(want).collect()
    }

    /// Ready steps that have to hold locks before they start.
    pub(crate) fn ready_for_locks(&self) -> impl Iterator<Item = StepKey> + '_ {
        let locked = |step: &StepKey| self.node(*step).is_some_and(|node| !node.locks().is_empty());
        self.ready().filter(locked)
    }
}
