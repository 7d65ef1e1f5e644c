//! The state of one body that runs: one cell per step.

use std::ops::Deref;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ATTEMPTS_KEPT_MAX;
use super::naming::Used;
use crate::error::Failure;
use crate::id::{StepId, StepKey};
use crate::journal::{CancelReason, Outcome, StepStatus, Waiting};
use crate::plan::{ExecutionPlan, Meaning};
use crate::time::Timestamp;
use crate::value::{Json, Value};
use crate::workflow::{Body, BodyOutput, Program};

/// A body that runs. The outermost one is scope 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Scope {
    /// The workflow inside the program, and the body inside that.
    pub(super) place: (u32, u32),
    #[serde(skip)]
    pub(super) body: SharedBody,
    /// The composite step whose body this is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) parent: Option<StepKey>,
    /// Which item or turn.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) index: u32,
    /// For a sub-workflow: its own input and variables.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) own: Option<Box<Own>>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) cells: Vec<Cell>,
    /// Cells that have not ended.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) open: u32,
    /// Nothing more is started but what cleans up.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) stopping: bool,
    /// Steps that were done here, or in bodies that have closed, and that may have to be undone.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) owed: Vec<Owed>,
    /// What could not be undone.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) left: Vec<Owed>,
    /// How it ended, while what was done is undone.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) ending: Option<Box<Outcome>>,
    /// What this undoes, if that is what it is for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) undoes: Option<Box<Undoes>>,
    /// Sub-workflows around this, counted across re-entry.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) depth: u32,
    /// Names that must not be given again, once the definition was changed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) used: Option<Box<Used>>,
}

/// What a workflow's steps read as `input` and `vars`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Own {
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) input: Value,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) variables: Value,
}

/// A step that was done and may have to be undone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Owed {
    /// It, or the step of the scope that owes it inside which it was.
    pub(super) step: u32,
    /// When it was done: the journal's length then.
    pub(super) done: u64,
    /// The body that undoes it.
    pub(super) place: (u32, u32),
    /// The step's path: it may be gone by then.
    pub(super) path: String,
    /// The same, told apart from other runs of the step.
    pub(super) instance: String,
    /// What the body reads, as it was when the step ended.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) own: Own,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) locals: Value,
}

/// What a compensation is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Undoes {
    /// The scope that has ended badly.
    pub(super) of: u32,
    /// The path of the step that is undone.
    pub(super) path: String,
    /// The same, told apart from other runs of the step.
    pub(super) instance: String,
    /// What it reads as `output`, `item` and so on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) locals: Value,
}

/// A step instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Cell {
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) status: StepStatus,
    /// Dependencies that ended, by what that means to this step.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) met: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) failed: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) missed: u32,
    /// Dependencies that are only read, and that ended.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) over: u32,
    /// Attempts begun.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) attempt: u32,
    /// When it last changed its status.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) since: Timestamp,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) output: Value,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) more: Option<Box<More>>,
}

/// What most steps never need.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct More {
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) failure: Option<Failure>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) history: Vec<AttemptRecord>,
    /// How often it was run again from the start.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) generation: u32,
    /// The number of the first attempt since then; 0 is 1.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) first: u32,
    /// The id that others know it by, if it has another one since the definition was changed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) known_as: Option<StepId>,
    /// It was undone by a compensation.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) undone: bool,
    /// Attempts that failed; suspensions are no failures.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) failures: u32,
    /// The delay before the running attempt.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) delay: Duration,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) timers: Vec<(Timestamp, TimerKind)>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) waiting: Option<Waiting>,
    /// The payload that a suspended task goes on with.
    #[serde(default, skip_serializing_if = "is_default", with = "maybe")]
    pub(super) signal: Option<Value>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) cancel: Option<CancelReason>,
    /// The run ended while nobody knew what it, or something inside it, had done.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) left_open: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) bodies: Bodies,
}

/// The bodies of a composite step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Bodies {
    /// Scopes that are open.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) open: Vec<u32>,
    /// Bodies opened so far.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) begun: u32,
    /// The item of a for-each from which on none has been begun.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) cursor: u32,
    /// For a dynamic step: the unit of its steps.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) made: u32,
    /// Items of a for-each.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) items: Value,
    /// Outputs of a for-each's ended bodies, by item.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) outputs: Vec<Value>,
    /// How the bodies of a for-each ended, by item.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) ends: Vec<ItemEnd>,
    /// How many of them did so well, and badly.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) well: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) badly: u32,
    /// Whether a for-each cannot end well any more, however many of those that are open do so.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) lost: bool,
    /// The output of a loop's last turn.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) last: Value,
    /// How the first body ended that did not end well.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) bad: Option<Outcome>,
}

/// What became of one body of a for-each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ItemEnd {
    /// It has not ended.
    #[default]
    Open,
    Well,
    Badly,
}

impl Bodies {
    /// The output of a for-each: a list of its bodies' outputs, null for those that have none.
    pub(super) fn output(&self) -> Value {
        let outputs = self.outputs.iter().map(|output| (**output).clone());
        Json::Array(outputs.collect()).into()
    }
}

/// A failed attempt, as kept on the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AttemptRecord {
    /// Counted from 1.
    pub attempt: u32,
    /// When it ended.
    pub at: Timestamp,
    /// Why it failed.
    pub failure: Failure,
}

/// What is due at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TimerKind {
    Retry,
    AttemptTimeout,
    StepTimeout,
    Wait,
    ForcedCancel,
}

impl Scope {
    pub(super) fn outermost(program: &Program) -> Self {
        Self::of(program.unit(0).body(0), (0, 0))
    }

    /// A new one; none when the program has no such body.
    pub(super) fn new(program: &Program, unit: u32, body: u32) -> Option<Self> {
        let found = program.units().get(unit as usize)?.bodies.get(body as usize)?;
        Some(Self::of(found, (unit, body)))
    }

    fn of(body: &Arc<Body>, place: (u32, u32)) -> Self {
        let steps = body.nodes.len();
        Self {
            place,
            body: SharedBody(Arc::clone(body)),
            parent: None,
            index: 0,
            own: None,
            cells: std::iter::repeat_with(Cell::default).take(steps).collect(),
            open: steps as u32,
            stopping: false,
            owed: Vec::new(),
            left: Vec::new(),
            ending: None,
            undoes: None,
            depth: 0,
            used: None,
        }
    }

    /// Adds what is to be undone if this ends badly, by the order in which it was done.
    pub(super) fn owe(&mut self, owed: Owed) {
        let at = self.owed.partition_point(|other| other.done <= owed.done);
        self.owed.insert(at, owed);
    }
}

/// A value that may not be there, as a list: null is a value, too.
mod maybe {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Value;

    pub(super) fn serialize<S: Serializer>(value: &Option<Value>, s: S) -> Result<S::Ok, S::Error> {
        value.as_slice().serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Value>, D::Error> {
        Vec::deserialize(d).map(|values| values.into_iter().next())
    }
}

/// Whether a field of a snapshot says nothing.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A body of the program, at hand: every event needs it.
#[derive(Clone, Debug)]
pub(super) struct SharedBody(Arc<Body>);

impl Default for SharedBody {
    /// A body of nothing, in place of one that is not known yet.
    fn default() -> Self {
        static NOTHING: LazyLock<Arc<Body>> = LazyLock::new(|| {
            let plan = Arc::new(ExecutionPlan::nothing());
            let (nodes, owner, output) = (Vec::new(), None, BodyOutput::Map(Vec::new()));
            Arc::new(Body { plan, nodes, owner, output })
        });
        Self(Arc::clone(&NOTHING))
    }
}

impl SharedBody {
    pub(super) fn new(body: &Arc<Body>) -> Self {
        Self(Arc::clone(body))
    }
}

impl Deref for SharedBody {
    type Target = Body;

    fn deref(&self) -> &Body {
        &self.0
    }
}

impl PartialEq for SharedBody {
    fn eq(&self, other: &Self) -> bool {
        // Bodies that were made while the run goes on are compiled once more when it is replayed.
        Arc::ptr_eq(&self.0, &other.0) || self.0.plan.ids() == other.0.plan.ids()
    }
}

impl Cell {
    /// Whether an attempt, a wait or a body of it has begun since it was last to begin anew.
    pub(super) fn has_begun(&self) -> bool {
        match self.status {
            StepStatus::Pending => false,
            StepStatus::Ready => {
                self.attempt >= self.more.as_ref().map_or(1, |more| more.first.max(1))
            }
            _ => true,
        }
    }

    /// How many steps or bodies before it ended with this meaning to it.
    pub(super) fn count(&mut self, meaning: Meaning) -> &mut u32 {
        match meaning {
            Meaning::Met => &mut self.met,
            Meaning::Failed => &mut self.failed,
            Meaning::Missed => &mut self.missed,
            Meaning::Over => &mut self.over,
        }
    }

    pub(super) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    pub(super) fn bodies(&self) -> Option<&Bodies> {
        self.more.as_ref().map(|more| &more.bodies)
    }

    pub(super) fn waiting(&self) -> Option<&Waiting> {
        self.more.as_ref().and_then(|more| more.waiting.as_ref())
    }
}

impl More {
    /// Keeps an attempt that failed; the oldest make room.
    pub(super) fn remember(&mut self, attempt: u32, at: Timestamp, failure: Failure) {
        if self.history.len() >= ATTEMPTS_KEPT_MAX {
            self.history.remove(0);
        }
        self.history.push(AttemptRecord { attempt, at, failure });
    }

    /// When the next attempt begins.
    pub(super) fn retry_at(&self) -> Option<Timestamp> {
        let retry = self.timers.iter().find(|(_, kind)| *kind == TimerKind::Retry);
        retry.map(|(at, _)| *at)
    }
}
