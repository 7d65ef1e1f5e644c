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
        let mut live = named_in(values);
        let rest = self.0.iter().filter(|(_, blob)| blob.last > length);
        live.extend(rest.map(|(name, _)| name.as_str()));
        let needed = owned(self.with_inner(live));
        for (name, blob) in &mut self.0 {
            blob.state = match blob.state {
                _ if needed.contains(name) => State::Needed,
                State::Needed => State::Leaves,
                State::Leaves | State::Goes => State::Goes,
            };
        }
        let waiting = self.0.iter().filter(|(_, blob)| blob.state != State::Needed);
        let too_many: Vec<&str> =
            waiting.skip(WAITING_MAX).map(|(name, _)| name.as_str()).collect();
        // Of one that stays, all stays that it refers to.
        let stays = owned(self.with_inner(too_many));
        self.0.retain(|name, blob| blob.state == State::Needed || !stays.contains(name));
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

/// The names in all references in these values, with those that they tell of.
fn named_in<'a>(values: impl Iterator<Item = &'a Value>) -> Vec<&'a str> {
    let mut names = Vec::new();
    for value in values {
        each_blob(value, &mut |name, holds| {
            names.push(name);
            names.extend(holds.iter().filter_map(Json::as_str));
        });
    }
    names
}

fn owned(names: BTreeSet<&str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
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
        let live = blobs.with_inner(named_in(but_for.iter().copied()));
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(number: u32) -> String {
        blob_name("a", 1, number.into())
    }

    fn reference(number: u32, holds: &[u32]) -> Value {
        let holds: Vec<String> = holds.iter().map(|inner| name(*inner)).collect();
        json!({"$blob": {"name": name(number), "bytes": 1, "holds": holds}}).into()
    }

    fn goes(blobs: &Blobs) -> Vec<&str> {
        let goes = blobs.0.iter().filter(|(_, blob)| blob.state == State::Goes);
        goes.map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn what_two_snapshots_find_unnamed_goes_and_what_is_named_again_does_not() {
        let mut blobs = Blobs::default();
        blobs.note(&reference(1, &[]), 5);
        blobs.note(&reference(2, &[]), 5);
        blobs.forget(4, [].iter());
        blobs.forget(5, [].iter());
        assert_eq!(goes(&blobs), Vec::<&str>::new());
        blobs.note(&reference(2, &[]), 6);
        blobs.forget(5, [].iter());
        assert_eq!(goes(&blobs), [name(1)]);
        // Also those that were on their way are needed again when something that is has them.
        blobs.note(&reference(3, &[1]), 7);
        blobs.forget(6, [].iter());
        assert_eq!(goes(&blobs), Vec::<&str>::new());
        blobs.forget(6, [reference(2, &[])].iter());
        blobs.forget(8, [reference(2, &[])].iter());
        blobs.forget(8, [reference(2, &[])].iter());
        assert_eq!(goes(&blobs), [name(1), name(3)]);
    }

    #[test]
    fn of_one_that_stays_because_too_many_go_all_stays_that_it_refers_to() {
        let mut blobs = Blobs::default();
        let most = WAITING_MAX as u32;
        // The last one by name holds the first, which holds the second.
        blobs.note(&reference(most + 1, &[0]), 1);
        blobs.note(&reference(0, &[1]), 1);
        (1..=most).for_each(|number| blobs.note(&reference(number, &[]), 1));
        blobs.forget(1, [].iter());
        blobs.forget(1, [].iter());
        let goes = goes(&blobs);
        assert!(goes.len() < WAITING_MAX && goes.len() > WAITING_MAX - 10, "{}", goes.len());
        assert!(!goes.contains(&name(0).as_str()) && !goes.contains(&name(1).as_str()));
    }
}
