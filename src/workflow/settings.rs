//! The small settings of workflows and steps: priorities, join rules, limits, variables.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Amount;
use crate::value::Json;

/// How urgent a step or task is; a total order from `Background` to `Critical`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// When nothing else is to do; no promise.
    Background,
    /// Within two hours.
    Low,
    /// Within half an hour.
    #[default]
    Normal,
    /// Within five minutes.
    High,
    /// Before everything but the critical.
    Urgent,
    /// Within a minute.
    Critical,
}

impl Priority {
    /// All levels, least urgent first.
    pub const ALL: [Self; 6] =
        [Self::Background, Self::Low, Self::Normal, Self::High, Self::Urgent, Self::Critical];
}

/// Join rule: when a step with dependencies may start.
///
/// Each dependency ends in one of three ways for the step that waits for it: *met*, *failed*, or
/// *not taken* (it was skipped because of something before it, or the edge was for another outcome).
/// A dependency that was skipped because its own condition was false counts as met for a plain
/// `after` edge.
///
/// A step that has nothing but `on_failure` and `otherwise` edges starts by default when any of them
/// is met, since each is a way to reach it; every other step waits for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Trigger {
    /// All met. The first that is not spreads as a skip.
    #[default]
    AllSucceeded,
    /// As soon as one is met; skipped when none can be any more.
    AnySucceeded,
    /// As soon as this many are met; skipped when that cannot be reached any more.
    AtLeast(Amount),
    /// All at an end, whichever.
    AllDone,
    /// All failed.
    AllFailed,
    /// As soon as one has failed; skipped when all ended without.
    AnyFailed,
    /// All at an end and none failed; skips of both kinds are fine.
    NoneFailed,
    /// All at an end and no more than this many failed, whose failures then count as dealt with; skips
    /// of both kinds are fine.
    Tolerates(Amount),
    /// All at an end, and even when the run is stopping because a step failed.
    Always,
}

impl Trigger {
    /// As soon as this many, or this many percent, are met.
    pub fn at_least(amount: impl Into<Amount>) -> Self {
        Self::AtLeast(amount.into())
    }

    /// As soon as all are at an end, unless more than this many failed.
    pub fn tolerates(amount: impl Into<Amount>) -> Self {
        Self::Tolerates(amount.into())
    }

    /// Whether a failed dependency can be what starts the step, so that the failure is dealt with.
    #[must_use]
    pub const fn catches_failure(self) -> bool {
        matches!(self, Self::AllFailed | Self::AnyFailed | Self::Tolerates(_))
    }
}

/// What becomes of the rest of a run when a step has failed and nothing caught it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailurePolicy {
    /// Everything that does not depend on the failed step goes on; the run fails at the end.
    #[default]
    Continue,
    /// Nothing more is started beside the failed step, and running steps are cancelled; only steps with
    /// the join rule `always`, or that an `always` edge leads to, still run. A composite step around
    /// them fails then, and unless something deals with that, so does what is around it.
    FailFast,
}

/// What becomes of a step that is not to be begun twice when nobody knows what it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnUnknown {
    /// It waits until somebody says what became of it; nothing that comes after it starts before.
    #[default]
    Ask,
    /// It fails with class [`outcome_unknown`](crate::ErrorClass::OutcomeUnknown), which `on_error` can
    /// lead on from.
    Fail,
}

/// What a run may use at once; reaching one makes steps wait, reaching the time limit ends the run.
/// Sub-workflows run inside the limits of the workflow that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Steps running at once; default 50.
    pub max_concurrent_steps: u32,
    /// From start to end, pauses not counted; default one hour. The run ends as timed out.
    #[serde(with = "crate::time::duration")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::time::LengthOfTime"))]
    pub max_duration: Duration,
    /// Resident memory of the process, and sum of the [`Resources`] of its running steps, in MiB;
    /// default 2048.
    pub max_memory_mb: u64,
    /// CPU used by the process in percent of all cores, sampled; default 80, 100 never waits.
    pub max_cpu_percent: u32,
    /// Bytes of one value as JSON, about: the input, the output of a step, the payload of a signal.
    /// Larger outputs go to the engine's [blob store](crate::storage::BlobStore), if it has one, and
    /// fail the step otherwise; default 4 MiB.
    pub max_value_bytes: usize,
    /// Bytes of all values in the journal of a run, about, and of what people and programs say to it; what
    /// is [forgotten](crate::RunHandle::forgotten) does not count.
    /// More fails the step that comes to it; default 256 MiB.
    pub max_run_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_concurrent_steps: 50,
            max_duration: Duration::from_secs(3600),
            max_memory_mb: 2048,
            max_cpu_percent: 80,
            max_value_bytes: 4 << 20,
            max_run_bytes: 256 << 20,
        }
    }
}

/// What a step says that it needs; counted against [`Limits`] while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Memory in MiB.
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_mb: u64,
    /// CPU in percent of all cores.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub cpu_percent: u32,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}

/// Free data that stepwell carries and never reads.
pub type Metadata = BTreeMap<String, Json>;
