//! Which blobs a run still names, so that those that nothing names any more can be removed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::RunState;
use crate::journal::Event;
use crate::value::{Value, each_blob, holds, is_blob};

/// Blobs that wait to be removed, at most. More than that there are only where they cannot be, and the
/// rest goes with its run.
const UNNAMED_MAX: usize = 10_000;

/// The name of what an attempt of a step has come to: no two are the same, so that what is removed late
/// is never something newer.
pub(crate) fn blob_name(instance: &str, attempt: u32, tag: u64) -> String {
    format!("{instance}@{attempt}-{tag:016x}")
}

/// Whether a name was made here. Others are the host's, who may use them again.
fn is_made_here(name: &str) -> bool {
    let tail = name.rsplit_once('@').and_then(|(_, tail)| tail.split_once('-'));
    tail.is_some_and(|(attempt, tag)| {
        let is_number = !attempt.is_empty() && attempt.bytes().all(|b| b.is_ascii_digit());
        is_number && tag.len() == 16 && tag.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// What is known of a run's blobs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Blobs {
    /// The length of the journal that names each for the last time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    named: BTreeMap<String, u64>,
    /// Those that nothing names any more.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    unnamed: BTreeSet<String>,
}

impl Blobs {
    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty() && self.unnamed.is_empty()
    }

    fn note(&mut self, value: &Value, length: u64) {
        each_blob(value, &mut |name| {
            if is_made_here(name) {
                let last = self.named.entry(name.to_owned()).or_default();
                *last = length.max(*last);
                self.unnamed.remove(name);
            }
        });
    }

    /// The journal forgets what comes before this length; these are the values of the state.
    pub(super) fn forget<'a>(&mut self, length: u64, values: impl Iterator<Item = &'a Value>) {
        if !self.named.values().any(|last| *last <= length) {
            return;
        }
        let mut live = BTreeSet::new();
        for value in values {
            each_blob(value, &mut |name| {
                live.insert(name.to_owned());
            });
        }
        let gone = self.named.extract_if(.., |name, last| *last <= length && !live.contains(name));
        for (name, _) in gone {
            if self.unnamed.len() < UNNAMED_MAX {
                self.unnamed.insert(name);
            }
        }
    }
}

impl RunState {
    /// Takes note of blobs that the last event names.
    pub(super) fn note_blobs(&mut self, event: &Event) {
        // What is kept always is not forgotten.
        let length = if event.is_kept() { u64::MAX } else { self.version };
        event.each_value(&mut |value| self.note_blobs_in(value, length));
    }

    /// The same of one value.
    pub(super) fn note_blobs_in(&mut self, value: &Value, length: u64) {
        if holds(value, is_blob) {
            self.kept.get_or_insert_default().blobs.note(value, length);
        }
    }

    /// Blobs that nothing names any more, neither this state nor what is kept of the journal, once its
    /// last snapshot is stored.
    pub(crate) fn unnamed_blobs(&self) -> Vec<String> {
        let blobs = self.kept.as_ref().map(|kept| &kept.blobs);
        blobs.map_or_else(Vec::new, |blobs| blobs.unnamed.iter().cloned().collect())
    }

    /// They are not there any more.
    pub(crate) fn forget_blobs(&mut self, names: &[String]) {
        if let Some(kept) = &mut self.kept {
            kept.blobs.unnamed.retain(|name| !names.contains(name));
        }
    }
}
