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

/// Those that this engine has given to the others not long ago, how long they were then, if it is known,
/// and until when that counts, by the clock that only goes forward.
#[derive(Debug, Default)]
pub(crate) struct Aside(Mutex<BTreeMap<RunId, (Option<u64>, Duration)>>);

impl Aside {
    /// Until when a run is set aside that this engine has claimed in vain, and how long it rests.
    ///
    /// The others may have it at once, and look twice before this engine looks again: however many
    /// cannot go on with it, each has it once, and then they all rest, until one comes that can. Nobody's
    /// clock has a say in that, as one that is ahead of the others' would have the run first each time.
    /// Who has it again so soon has asked them all, unless it has got on, and leaves it alone for longer.
    pub(super) fn set(
        &self,
        (run, length): (&RunId, Option<u64>),
        now: Timestamp,
        monotonic: Duration,
        poll_every: Duration,
        is_alone: bool,
    ) -> (Timestamp, Duration) {
        let mut given = lock(&self.0);
        given.retain(|_, (_, until)| *until > monotonic);
        if is_alone || given.remove(run).is_some_and(|(before, _)| before == length) {
            return (now + ASIDE_FOR, REST);
        }
        // Also for those whose clocks are far behind.
        given.insert(run.clone(), (length, monotonic + GIVEN_FOR));
        (Timestamp::EPOCH, (poll_every * 2).min(LOOK_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_that_has_not_got_on_is_left_alone_for_longer() {
        let (aside, run) = (Aside::default(), RunId::new("r").unwrap());
        let now = Timestamp::from_micros(1_000_000);
        let set = |length, seconds| {
            let at = Duration::from_secs(seconds);
            aside.set((&run, length), now, at, Duration::from_secs(1), false).0
        };
        assert_eq!(set(Some(3), 0), Timestamp::EPOCH);
        assert_eq!(set(Some(4), 10), Timestamp::EPOCH, "somebody went on with it");
        assert_eq!(set(Some(4), 20), now + ASIDE_FOR, "nobody did");
        assert_eq!(set(Some(4), 30), Timestamp::EPOCH);
        assert_eq!(set(Some(4), 90), Timestamp::EPOCH, "that was long ago");
    }
}
