//! Runs that an engine may hold and does not know of: nobody has heard the answer when it took them.

use std::sync::Mutex;
use std::time::Duration;

use super::{Inner, lock};

/// When the storage is to be asked for them.
#[derive(Debug, Default)]
pub(crate) struct Doubts(Mutex<Looks>);

/// Times are of the clock that only goes forward.
#[derive(Debug, Default)]
struct Looks {
    at_once: bool,
    /// What nobody waits for any more may have been on its way when somebody looked.
    again: Option<Duration>,
}

/// Doubts when it is dropped, unless the answer was heard: a call may have its effect although nobody
/// waits for it any more.
pub(crate) struct Unheard<'a>(Option<&'a Inner>);

impl Inner {
    /// Has the storage asked for runs that this engine holds and does not know of, now and when a
    /// storage that does not answer is taken for one that failed.
    pub(crate) fn doubt(&self) {
        let again = self.runtime.monotonic() + self.limits.lease;
        *lock(&self.doubts.0) = Looks { at_once: true, again: Some(again) };
        self.serving.wake();
    }

    /// To be told when the answer to a call that takes runs has come.
    pub(crate) const fn unheard(&self) -> Unheard<'_> {
        Unheard(Some(self))
    }

    /// Whether it is time to ask.
    pub(crate) fn looks_for_lost(&self) -> bool {
        let now = self.runtime.monotonic();
        let mut looks = lock(&self.doubts.0);
        let again = looks.again.take_if(|at| *at <= now).is_some();
        std::mem::take(&mut looks.at_once) || again
    }
}

impl Unheard<'_> {
    pub(crate) fn heard(mut self) {
        self.0 = None;
    }
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        if let Some(engine) = self.0 {
            engine.doubt();
        }
    }
}
