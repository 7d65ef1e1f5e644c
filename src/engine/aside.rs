//! Runs that an engine cannot go on with, and leaves to others.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use super::lock;
use crate::id::RunId;
use crate::time::Timestamp;

/// How long nobody tries a run again that none of them could go on with.
const ASIDE_FOR: Duration = Duration::from_secs(60);
/// How long it counts that the others could have had it: gone before it is tried again, so that they can
/// have it then, too.
const GIVEN_FOR: Duration = Duration::from_secs(45);
/// How long it rests at most for the others to look: where they look less often they are told to.
const LOOK_MAX: Duration = Duration::from_secs(20);
/// How long this engine claims nothing after that.
const REST: Duration = Duration::from_secs(1);

/// Those that this engine has given to the others not long ago, and until when that counts, by the
/// clock that only goes forward.
#[derive(Debug, Default)]
pub(crate) struct Aside(Mutex<BTreeMap<RunId, Duration>>);

impl Aside {
    /// Until when a run is set aside that this engine has claimed in vain, and how long it rests.
    ///
    /// The others may have it at once, and look twice before this engine looks again: however many
    /// cannot go on with it, each has it once, and then they all rest, until one comes that can. Nobody's
    /// clock has a say in that, as one that is ahead of the others' would have the run first each time.
    /// Who has it again so soon has asked them all, and leaves it alone for longer.
    pub(super) fn set(
        &self,
        run: &RunId,
        now: Timestamp,
        monotonic: Duration,
        poll_every: Duration,
        is_alone: bool,
    ) -> (Timestamp, Duration) {
        let mut given = lock(&self.0);
        given.retain(|_, until| *until > monotonic);
        if is_alone || given.remove(run).is_some() {
            return (now + ASIDE_FOR, REST);
        }
        // Also for those whose clocks are far behind.
        given.insert(run.clone(), monotonic + GIVEN_FOR);
        (Timestamp::EPOCH, (poll_every * 2).min(LOOK_MAX))
    }
}
