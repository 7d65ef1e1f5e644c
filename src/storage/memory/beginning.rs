//! What there is in place of the beginning of a journal.

use crate::journal::{Recorded, Snapshot};
use crate::time::Timestamp;

/// The last snapshot of a run, and what is kept of the events before the first in its journal.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    pub(super) snapshot: Option<Box<Snapshot>>,
    /// The position of the first event in the journal.
    pub(super) forgotten: u64,
    kept: Vec<(u64, Recorded)>,
    /// When the last event before that happened.
    pub(super) changed_at: Option<Timestamp>,
}

impl Beginning {
    pub(super) fn take(&mut self, mut snapshot: Box<Snapshot>, journal: &mut Vec<Recorded>) {
        let forgets = snapshot.forget.saturating_sub(self.forgotten);
        let forgets = usize::try_from(forgets).unwrap_or(usize::MAX).min(journal.len());
        self.changed_at = journal.last().map_or(self.changed_at, |last| Some(last.at));
        for (position, recorded) in (self.forgotten..).zip(journal.drain(..forgets)) {
            if recorded.event.is_kept() {
                self.kept.push((position, recorded));
            }
        }
        self.forgotten += forgets as u64;
        snapshot.forget = self.forgotten;
        self.snapshot = Some(snapshot);
    }

    /// Events that are kept of what is forgotten, from this position on.
    pub(super) fn kept_from(&self, from: u64) -> impl Iterator<Item = (u64, Recorded)> + '_ {
        let first = self.kept.partition_point(|(position, _)| *position < from);
        self.kept.iter().skip(first).cloned()
    }
}
