//! Which blobs a run still names, so that those that nothing names any more can be removed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::RunState;
use super::scope::is_default;
use crate::journal::Event;
use crate::value::{Json, Value, each_blob, holds, is_blob};

/// Blobs that wait to be removed, at most. More than that there are only where they cannot be, and the
/// rest goes with its run.
const WAITING_MAX: usize = 10_000;

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

/// What is known of a run's blobs, by their names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Blobs(BTreeMap<String, Blob>);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Blob {
    /// The length of the journal that names it for the last time.
    last: u64,
    /// Those that it refers to itself.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    holds: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    #[default]
    Needed,
    /// Nothing named it any more when the last snapshot was made. Somebody may just have read of it.
    Leaves,
    /// The same of the snapshot before that, or an earlier one.
    Goes,
}

impl Blobs {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn note(&mut self, value: &Value, length: u64) {
        each_blob(value, &mut |name, holds| {
            if is_made_here(name) {
                let blob = self.0.entry(name.to_owned()).or_default();
                blob.last = length.max(blob.last);
                blob.holds.extend(holds.iter().filter_map(Json::as_str).map(str::to_owned));
                blob.state = State::Needed;
            }
        });
    }

    /// The journal forgets what comes before this length; these are the values of the state.
    pub(super) fn forget<'a>(&mut self, length: u64, values: impl Iterator<Item = &'a Value>) {
        if !self.0.values().any(|blob| blob.last <= length) {
            return;
        }
        let mut live = Vec::new();
        for value in values {
            each_blob(value, &mut |name, _| live.push(name));
        }
        let rest = self.0.iter().filter(|(_, blob)| blob.last > length);
        live.extend(rest.map(|(name, _)| name.as_str()));
        let needed = self.with_inner(live);
        let needed: BTreeSet<String> = needed.into_iter().map(str::to_owned).collect();
        let mut waiting = 0;
        self.0.retain(|name, blob| {
            blob.state = match blob.state {
                _ if needed.contains(name) => State::Needed,
                State::Needed => State::Leaves,
                State::Leaves | State::Goes => State::Goes,
            };
            waiting += usize::from(blob.state != State::Needed);
            blob.state == State::Needed || waiting <= WAITING_MAX
        });
    }

    /// Blobs, and those that they refer to, and so on.
    fn with_inner<'a>(&'a self, mut left: Vec<&'a str>) -> BTreeSet<&'a str> {
        let mut all = BTreeSet::new();
        while let Some(name) = left.pop() {
            if all.insert(name)
                && let Some(blob) = self.0.get(name)
            {
                left.extend(blob.holds.iter().map(String::as_str));
            }
        }
        all
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

    /// Blobs that can be removed once the last snapshot is stored, unless these values refer to them:
    /// nothing names them any more, neither this state nor what is kept of the journal, nor another blob
    /// that something names; and it was so when the snapshot before was made.
    pub(crate) fn unnamed_blobs(&self, but_for: &[&Value]) -> Vec<String> {
        let Some(blobs) = self.kept.as_ref().map(|kept| &kept.blobs) else { return Vec::new() };
        let mut live = Vec::new();
        for value in but_for {
            each_blob(value, &mut |name, _| live.push(name));
        }
        let live = blobs.with_inner(live);
        let goes = blobs.0.iter().filter(|(_, blob)| blob.state == State::Goes);
        let goes = goes.map(|(name, _)| name).filter(|name| !live.contains(name.as_str()));
        goes.cloned().collect()
    }

    /// They are not there any more.
    pub(crate) fn forget_blobs(&mut self, names: &[String]) {
        if let Some(kept) = &mut self.kept {
            for name in names {
                kept.blobs.0.remove(name);
            }
        }
    }
}
