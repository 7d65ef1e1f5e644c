//! A state as text, and back: what a run goes on from, so that not all of its journal is read again.
//!
//! Bodies and programs are not written: they are found by their places in the definition that the run
//! was started with, and in what was made meanwhile, which is compiled once more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::blobs::Blobs;
use super::expected::Expected;
use super::scope::{AttemptRecord, Scope, SharedBody, TimerKind, is_default};
use super::{RunState, Start, modify, turn};
use crate::id::{RunId, StepKey};
use crate::journal::{Outcome, Reason, STATUS_SLOTS, Snapshot};
use crate::queue::ReadyQueue;
use crate::time::Timestamp;
use crate::value::{Json, Value};
use crate::workflow::{Program, Workflow};

/// The form that snapshots have. Whoever changes it counts on, and goes on reading the older ones: a
/// run whose journal has lost its beginning has nothing else.
pub const SNAPSHOT_FORMAT: u32 = 1;

/// Steps and items of a state that are worth waiting for twice as many events before it is written.
const CELLS: u64 = 1_250;
/// The same for its length as it was last written, in bytes: about that of ten thousand events.
const BYTES: u64 = 1_000_000;
/// The only field of what stands for a value that is written beside the state.
const PLACE: &str = "$value";

/// What is kept of a journal, as far as the run needs to know.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    /// How many events made the last snapshot.
    snapshot: u64,
    /// How long it is.
    #[serde(skip)]
    length: usize,
    /// Events before this one may be gone,
    forgotten: u64,
    /// and with them so many bytes of values.
    forgotten_bytes: usize,
    /// How many bytes there were at each snapshot since, and at that one.
    marks: VecDeque<(u64, usize)>,
    #[serde(default, skip_serializing_if = "Blobs::is_empty")]
    pub(super) blobs: Blobs,
}

/// Something that was added to the program while the run went on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Made {
    /// Steps of a dynamic step in this unit.
    Steps { of: u32, may_run: Vec<String>, steps: Value },
    /// Another definition.
    Workflow { workflow: Workflow, linked: Vec<Workflow> },
}

impl Made {
    fn value(&self) -> Option<&Value> {
        match self {
            Self::Steps { steps, .. } => Some(steps),
            Self::Workflow { .. } => None,
        }
    }
}

/// A snapshot as it is written.
#[derive(Serialize, Deserialize)]
struct Image {
    format: u32,
    /// Values that are composed, or long, each once, however many places share it.
    values: Vec<Value>,
    #[serde(with = "Fields")]
    state: RunState,
}

/// All that is known before the form is.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

/// The fields of [`RunState`]: a new one has to say here whether it is kept.
#[derive(Serialize, Deserialize)]
#[serde(remote = "RunState")]
struct Fields {
    #[serde(skip, default = "Program::nothing")]
    base: Arc<Program>,
    #[serde(skip, default = "Program::nothing")]
    program: Arc<Program>,
    id: RunId,
    version: u64,
    started: Option<Start>,
    #[serde(default, skip_serializing_if = "is_default")]
    paused: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "is_default")]
    asked_by: Option<Box<Reason>>,
    #[serde(default, skip_serializing_if = "is_default")]
    quarantined: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    stopping: Option<Box<Outcome>>,
    #[serde(default, skip_serializing_if = "is_default")]
    outcome: Option<Outcome>,
    finished_at: Timestamp,
    root: Scope,
    #[serde(default, skip_serializing_if = "is_default")]
    inner: BTreeMap<u32, Scope>,
    scopes_opened: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    ready: ReadyQueue,
    #[serde(default, skip_serializing_if = "is_default")]
    timers: BTreeSet<(Timestamp, StepKey, TimerKind)>,
    #[serde(flatten, with = "expected")]
    expected: Option<Box<Expected>>,
    #[serde(with = "counts")]
    counts: [u32; STATUS_SLOTS],
    #[serde(default, skip_serializing_if = "is_default")]
    tasks_running: u32,
    /// The storage has heard of them with the events of the snapshot.
    #[serde(skip)]
    released: Vec<StepKey>,
    #[serde(skip)]
    has_locks: bool,
    bytes: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    made: Vec<Made>,
    kept: Option<Box<Kept>>,
    #[serde(default, skip_serializing_if = "is_default")]
    revision: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    changed: Option<Box<modify::Changed>>,
    #[serde(default, skip_serializing_if = "is_default")]
    past: Vec<(String, AttemptRecord)>,
    /// Empty between turns.
    #[serde(skip)]
    work: VecDeque<turn::Work>,
}

/// What is expected stands beside the other fields.
mod expected {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Expected;

    pub(super) fn serialize<S: Serializer>(
        expected: &Option<Box<Expected>>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        expected.as_deref().unwrap_or(&Expected::NOTHING).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Box<Expected>>, D::Error> {
        let expected = Expected::deserialize(d)?;
        Ok((expected != Expected::NOTHING).then(|| Box::new(expected)))
    }
}

/// Counts by status: of those that were not known when it was written there are none.
mod counts {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::STATUS_SLOTS;

    type Counts = [u32; STATUS_SLOTS];

    pub(super) fn serialize<S: Serializer>(counts: &Counts, s: S) -> Result<S::Ok, S::Error> {
        counts.serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Counts, D::Error> {
        let mut counts = Counts::default();
        let known = Vec::<u32>::deserialize(d)?;
        counts.iter_mut().zip(known).for_each(|(count, known)| *count = known);
        Ok(counts)
    }
}

impl RunState {
    /// The state as it is now, from which [`restore`](Self::restore) goes on. Of the journal it leaves
    /// the last `history` events, at least.
    ///
    /// # Errors
    /// Something in it cannot be written as JSON.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use stepwell::run::{Command, RunState};
    /// use stepwell::{RunId, Step, Timestamp, Value, Workflow};
    ///
    /// let workflow = Workflow::builder("w").step(Step::task("a", "work")).build()?;
    /// let (id, program) = (RunId::new("r").unwrap(), Arc::clone(workflow.program()));
    /// let mut run = RunState::new(id.clone(), Arc::clone(&program));
    /// let (input, variables) = (7.into(), Value::NULL);
    /// let start = Command::Start { input, variables, seed: 1, grace: std::time::Duration::ZERO };
    /// run.decide(start, Timestamp::EPOCH).unwrap();
    ///
    /// let snapshot = run.snapshot(1_000).unwrap();
    /// let restored = RunState::restore(&id, program, &snapshot).unwrap();
    /// assert_eq!(restored, run);
    /// # Ok::<(), stepwell::Error>(())
    /// ```
    pub fn snapshot(&mut self, history: u64) -> Result<Snapshot, serde_json::Error> {
        let (events, bytes) = (self.version, self.bytes);
        let mut kept = self.kept.take().unwrap_or_default();
        // Each forgets no more than twice what has come since the last, so that none takes long,
        // however much there is to be forgotten.
        let most = kept.forgotten + 2 * events.saturating_sub(kept.snapshot);
        kept.forgotten = events.saturating_sub(history).min(most).max(kept.forgotten);
        kept.snapshot = events;
        kept.marks.push_back((events, bytes));
        while let Some((_, bytes)) = kept.marks.pop_front_if(|(at, _)| *at <= kept.forgotten) {
            kept.forgotten_bytes = bytes;
        }
        let forget = kept.forgotten;
        let mut state = self.clone();
        let values = Values::take_out_of(&mut state);
        let made = state.made.iter().filter_map(Made::value);
        kept.blobs.forget(forget, values.iter().chain(made));
        state.kept = Some(kept);
        let mut image = Image { format: SNAPSHOT_FORMAT, values, state };
        let written = serde_json::to_string(&image);
        let kept = self.kept.insert(image.state.kept.take().unwrap_or_default());
        let state = written?;
        kept.length = state.len();
        Ok(Snapshot { events, forget, state })
    }

    /// The state that a snapshot was made of. What has happened since is still to be
    /// [applied](Self::apply).
    ///
    /// # Errors
    /// What is wrong with it: it is damaged, was written by a newer version, or is of a run of
    /// something else.
    pub fn restore(id: &RunId, base: Arc<Program>, snapshot: &Snapshot) -> Result<Self, String> {
        let Image { values, mut state, .. } = read(&snapshot.state)?;
        if state.id != *id || state.version != snapshot.events {
            return Err("it is of another run, or of another time".into());
        }
        put_back(&mut state, &values)?;
        state.program = rebuilt(&base, &state.made)?;
        state.base = base;
        state.has_locks = state.program.has_locks();
        let RunState { program, root, inner, kept, .. } = &mut state;
        for scope in inner.values_mut().chain([root]) {
            let (unit, body) = scope.place;
            let unit = program.units().get(unit as usize);
            let body = unit.and_then(|unit| unit.bodies.get(body as usize));
            match body.filter(|body| body.nodes.len() == scope.cells.len()) {
                Some(body) => scope.body = SharedBody::new(body),
                None => return Err("it is of another definition".into()),
            }
        }
        if let Some(kept) = kept {
            kept.length = snapshot.state.len();
        }
        Ok(state)
    }

    /// The length of the journal at which a snapshot is to be made that is made every so many events.
    /// A large state is written less often, so that it does not cost more than what has happened
    /// since.
    pub(crate) fn snapshot_at(&self, every: u64) -> u64 {
        let items = |scope: &Scope| {
            let items = scope.cells.iter().filter_map(|cell| cell.bodies());
            let items: usize = items.map(|bodies| bodies.ends.len()).sum();
            scope.cells.len() + items + scope.owed.len()
        };
        let cells = items(&self.root) + self.inner.values().map(items).sum::<usize>();
        let length = self.kept.as_ref().map_or(0, |kept| kept.length);
        let more = every.saturating_mul(cells as u64) / CELLS
            + every.saturating_mul(length as u64) / BYTES;
        self.snapshot_events().saturating_add(every).saturating_add(more)
    }

    /// How many events made the last snapshot.
    pub(crate) fn snapshot_events(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.snapshot)
    }

    /// Events before this one may be gone from the journal, but for what people have done to the run.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.forgotten)
    }

    /// Bytes of the values in what is kept of the journal.
    pub(super) fn bytes_kept(&self) -> usize {
        let forgotten = self.kept.as_ref().map_or(0, |kept| kept.forgotten_bytes);
        self.bytes.saturating_sub(forgotten)
    }
}

fn read(text: &str) -> Result<Image, String> {
    let image = serde_json::from_str::<Image>(text);
    match (image, serde_json::from_str::<Head>(text)) {
        (_, Ok(Head { format })) if format != SNAPSHOT_FORMAT => {
            Err(format!("it has the form {format}, and this program reads {SNAPSHOT_FORMAT}"))
        }
        (image, _) => image.map_err(|error| format!("it is damaged: {error}")),
    }
}

/// The program that a run was started with, and what was made since.
fn rebuilt(base: &Arc<Program>, made: &[Made]) -> Result<Arc<Program>, String> {
    let mut program = Arc::clone(base);
    for made in made {
        program = Arc::new(match made {
            Made::Steps { of, may_run, steps } => {
                let unit = program.units().get(*of as usize).ok_or("a unit is missing")?;
                let unit = unit.dynamic(steps, may_run)?;
                program.with(unit, *of)
            }
            Made::Workflow { workflow, linked } => program.extended(workflow, linked)?.0,
        });
    }
    Ok(program)
}

/// Values on their way out of a state: places that share one share it in the snapshot, too, and none
/// nests deeper than in an event.
#[derive(Default)]
struct Values {
    all: Vec<Value>,
    by_address: BTreeMap<usize, usize>,
}

/// Letters of a text that is written where it is.
const SHORT: usize = 32;

impl Values {
    fn take_out_of(state: &mut RunState) -> Vec<Value> {
        let mut values = Self::default();
        state.values_mut(&mut |value| {
            let short = match &**value {
                Json::Null | Json::Bool(_) | Json::Number(_) => true,
                Json::String(text) => text.len() <= SHORT,
                Json::Array(_) | Json::Object(_) => false,
            };
            if !short {
                *value = json!({ PLACE: values.place(value) }).into();
            }
        });
        values.all
    }

    fn place(&mut self, value: &Value) -> usize {
        // All of them live until the end, so that none has the address of another.
        let address = std::ptr::from_ref::<Json>(value).addr();
        *self.by_address.entry(address).or_insert_with(|| {
            self.all.push(value.clone());
            self.all.len() - 1
        })
    }
}

fn put_back(state: &mut RunState, values: &[Value]) -> Result<(), String> {
    let mut wrong = None;
    state.values_mut(&mut |value| {
        if !matches!(**value, Json::Array(_) | Json::Object(_)) {
            return;
        }
        let place = value.get(PLACE).and_then(Json::as_u64).and_then(|at| usize::try_from(at).ok());
        match place.and_then(|place| values.get(place)) {
            Some(found) => *value = found.clone(),
            None => wrong = Some(format!("it is damaged: there is no value {:.40}", **value)),
        }
    });
    wrong.map_or(Ok(()), Err)
}
