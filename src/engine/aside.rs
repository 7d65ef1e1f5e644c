//! Runs that an engine cannot go on with, and leaves to others.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use super::lock;
use crate::id::RunId;
use crate::time::Timestamp;

/// How long nobody tries a run again that was set aside.
const ASIDE_FOR: Duration = Duration::from_secs(60);
/// How long this engine claims nothing after that.
const REST: Duration = Duration::from_secs(1);

/// Those that this engine has set aside, and until when it would be the first to have them again, by
/// the clock that only goes forward.
#[derive(Debug, Default)]
pub(crate) struct Aside(Mutex<BTreeMap<RunId, Duration>>);

impl Aside {
    /// Until when a run is set aside that this engine has claimed in vain, and how long it rests.
    ///
    /// An engine whose clock is ahead of the others' would come first each time, and keep the run from
    /// them. So who has claimed a run again gives it to whoever comes, and lets them look twice.
    pub(super) fn set(
        &self,
        run: &RunId,
        now: Timestamp,
        monotonic: Duration,
        poll_every: Duration,
    ) -> (Timestamp, Duration) {
        let mut known = lock(&self.0);
        known.retain(|_, until| *until > monotonic);
        if known.remove(run).is_some() {
            // Also for those whose clocks are far behind.
            return (Timestamp::EPOCH, poll_every * 2);
        }
        known.insert(run.clone(), monotonic + 2 * ASIDE_FOR);
        (now + ASIDE_FOR, REST)
    }
}
