//! Asking for the locks of steps that are ready.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Driver;
use crate::engine::desk::Locks;
use crate::error::{ErrorKind, Result};
use crate::id::{RunId, StepKey};
use crate::journal::StepStatus;
use crate::run::Want;
use crate::storage::{Acquire, Denied, Storage};
use crate::time::Timestamp;

/// Questions in one turn.
const ASKED_AT_ONCE: usize = 1_000;
/// How often a lock is asked for again that another engine may have released.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Why a step has no locks that nobody has asked for yet.
const LATER: &str = "its locks, with many others";

/// A ready step, the name that it holds locks by, and the locks that it needs, if they can be told.
type Asking = (StepKey, StepKey, Result<Vec<Want>, String>);

impl Driver {
    /// Asks for the locks of ready steps, as far as there may be news: each step is asked for once,
    /// and again when its time has come or a lock was released.
    pub(super) async fn take_locks(&mut self) -> Result<()> {
        let now = self.site.engine.runtime.now();
        // Before the questions, so that what is released meanwhile is not missed.
        self.site.engine.wait_for_locks(&self.site.run);
        let releases = self.site.engine.lock_releases();
        let news = std::mem::replace(&mut self.desk.releases_seen, releases) != releases;
        let (asking, later) = self.asking(news, now);
        // What one step was refused others need not ask for, if they were refused it themselves: who
        // has not asked, or not heard the answer, may hold it.
        let mut refused: BTreeMap<String, (String, Timestamp)> = BTreeMap::new();
        for (step, name, wants) in asking {
            let before = self.desk.locks.remove(&step);
            let asked = matches!(before, Some(Locks::Denied(why, _)) if why != LATER);
            let known = |want: &Want| refused.get(&want.lock).filter(|_| asked);
            let denied = match wants {
                Err(why) => Some((why, now + ASK_AGAIN)),
                Ok(wants) => match wants.iter().find_map(known) {
                    Some(denied) => Some(denied.clone()),
                    None => {
                        let run = &self.site.run.id;
                        // The answers before may have taken their time, and rates count from this one.
                        let now = self.site.engine.runtime.now();
                        let (owner, expected) = (self.site.engine.owner(), self.expected);
                        let asked = Acquire { owner, expected, step: name, wants, now };
                        let answer = self.site.engine.storage.acquire(run, asked).await;
                        // Somebody has written, maybe this engine with a commit that nobody heard of.
                        self.uncertain |=
                            answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Conflict);
                        let denied = answer?;
                        denied.map(|denied| {
                            let said = said(&denied, now);
                            refused.insert(denied.lock, said.clone());
                            said
                        })
                    }
                },
            };
            let locks = denied.map_or(Locks::Granted, |(why, again)| Locks::Denied(why, again));
            self.desk.locks.insert(step, locks);
        }
        for step in later {
            self.desk.locks.insert(step, Locks::Denied(LATER.into(), now));
        }
        let denied = self.desk.locks.iter().filter_map(|(step, locks)| match locks {
            Locks::Granted => None,
            Locks::Denied(why, _) => Some((*step, why.clone())),
        });
        self.site.run.set_denied(denied.collect());
        Ok(())
    }

    /// The steps to be asked for now, and those whose turn comes after them.
    fn asking(&mut self, news: bool, now: Timestamp) -> (Vec<Asking>, Vec<StepKey>) {
        let state = self.site.run.state();
        let desk = &mut self.desk;
        desk.locks.retain(|step, locks| {
            locks.are_granted() || state.step_status(*step) == Some(StepStatus::Ready)
        });
        if !state.may_dispatch() {
            return (Vec::new(), Vec::new());
        }
        let waits = |step: &StepKey| match desk.locks.get(step) {
            Some(Locks::Granted) => true,
            Some(Locks::Denied(_, again)) => *again > now && !news,
            None => false,
        };
        let mut open: Vec<StepKey> = state.ready_for_locks().filter(|step| !waits(step)).collect();
        // Those that nobody has asked for yet go first, and then who was refused longest ago: of several,
        // another one each time, as one may have been given its locks without having heard so.
        let runtime = &self.site.engine.runtime;
        open.sort_by_cached_key(|step| match desk.locks.get(step) {
            Some(Locks::Denied(_, again)) => Some((*again, runtime.random())),
            _ => None,
        });
        let later = open.split_off(open.len().min(ASKED_AT_ONCE));
        let asking = |step| (step, state.lock_key(step), state.locks(step, now));
        (open.into_iter().map(asking).collect(), later)
    }
}

/// Why a lock is not to be had, and when to ask for it again.
fn said(denied: &Denied, now: Timestamp) -> (String, Timestamp) {
    let why = match denied.holders.as_slice() {
        [] => format!("the rate of lock `{}` is reached", denied.lock),
        runs => {
            let runs: Vec<&str> = runs.iter().map(RunId::as_str).collect();
            format!("lock `{}` is held by {}", denied.lock, runs.join(", "))
        }
    };
    (why, denied.until.unwrap_or(now + ASK_AGAIN))
}
