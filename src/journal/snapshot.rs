//! What the beginning of a journal comes to.

/// The state of a run as text, in place of the events that made it.
///
/// A storage keeps the last one of each run and does not look into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// How many events made it: the first event that it does not know has this position.
    pub events: u64,
    /// Events before this position need not be kept any more, but for those that are
    /// [kept always](super::Event::is_kept).
    pub forget: u64,
    /// The state, made and read by [`RunState`](crate::run::RunState).
    pub state: String,
}
