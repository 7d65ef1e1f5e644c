//! How runs look as rows: words for what has become of them, and JSON for events.

use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::id::RunId;
use crate::journal::{Event, Recorded, RunStatus};
use crate::storage::workflows::{Workflows, Written};
use crate::storage::{Holding, NewRun, Owner};
use crate::time::Timestamp;

/// The words that documents use, too.
pub(super) const fn status_word(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Pending => "pending",
        RunStatus::Running => "running",
        RunStatus::Paused => "paused",
        RunStatus::Cancelling => "cancelling",
        RunStatus::Succeeded => "succeeded",
        RunStatus::Failed => "failed",
        RunStatus::Cancelled => "cancelled",
        RunStatus::TimedOut => "timed_out",
    }
}

pub(super) fn status_of(word: &str, run: &RunId) -> Result<RunStatus> {
    use RunStatus::{Cancelled, Cancelling, Failed, Paused, Pending, Running, Succeeded, TimedOut};
    let all = [Pending, Running, Paused, Cancelling, Succeeded, Failed, Cancelled, TimedOut];
    let found = all.into_iter().find(|status| status_word(*status) == word);
    found.ok_or_else(|| corrupt(run, format!("its status `{word}` is none that there is")))
}

/// What says who holds a run: `state`, `owner` and `due`.
pub(super) struct HoldingRow {
    pub(super) state: &'static str,
    pub(super) owner: Option<[u8; 16]>,
    pub(super) due: Option<i64>,
}

impl From<Holding> for HoldingRow {
    fn from(holding: Holding) -> Self {
        let (state, owner, due) = match holding {
            Holding::Held(owner) => ("held", Some(owner_bytes(owner)), None),
            Holding::Parked(due) => ("parked", None, due),
            Holding::Finished => ("finished", None, None),
            Holding::Aside(until) => ("aside", None, Some(until)),
        };
        Self { state, owner, due: due.map(Timestamp::as_micros) }
    }
}

/// A run to be added, with its columns.
pub(super) struct NewRows {
    pub(super) id: RunId,
    pub(super) workflow: Written,
    pub(super) linked: Vec<Written>,
    pub(super) status: &'static str,
    pub(super) holding: HoldingRow,
    pub(super) created_at: i64,
    pub(super) events: Events,
    pub(super) user: Option<String>,
    pub(super) metadata: Option<String>,
}

impl NewRows {
    pub(super) fn of(run: NewRun, workflows: &Workflows) -> Result<Self> {
        let metadata = (!run.metadata.is_empty()).then(|| to_json(&run.metadata)).transpose()?;
        Ok(Self {
            workflow: workflows.write(&run.workflow),
            linked: run.linked.iter().map(|linked| workflows.write(linked)).collect(),
            status: status_word(run.status),
            holding: run.holding.into(),
            created_at: run.at.as_micros(),
            events: Events::of(&run.journal)?,
            user: run.user,
            metadata,
            id: run.id,
        })
    }

    pub(super) fn changed_at(&self) -> i64 {
        self.events.last_at().unwrap_or(self.created_at)
    }
}

pub(super) fn holding_of(
    state: &str,
    owner: Option<[u8; 16]>,
    due: Option<i64>,
    run: &RunId,
) -> Result<Holding> {
    let due = due.map(Timestamp::from_micros);
    match (state, owner, due) {
        ("held", Some(owner), _) => Ok(Holding::Held(owner_of(owner))),
        ("parked", ..) => Ok(Holding::Parked(due)),
        ("finished", ..) => Ok(Holding::Finished),
        ("aside", _, Some(until)) => Ok(Holding::Aside(until)),
        _ => Err(corrupt(run, format!("its state `{state}` is none that there is"))),
    }
}

pub(super) const fn owner_bytes(owner: Owner) -> [u8; 16] {
    owner.0.to_be_bytes()
}

pub(super) const fn owner_of(bytes: [u8; 16]) -> Owner {
    Owner(u128::from_be_bytes(bytes))
}

/// Lengths and numbers as databases count; nothing is ever so long that it does not fit.
pub(super) fn integer(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// The error of a run whose rows cannot be read.
pub(super) fn corrupt(run: &RunId, what: impl Into<String>) -> Error {
    let message = format!(
        "what is kept of it is damaged: {}; restore the database from a backup, or remove the run",
        what.into()
    );
    Error::new(ErrorKind::Damaged, message).of_run(run)
}

pub(super) fn to_json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(unwritable)
}

pub(super) fn from_json<T: DeserializeOwned>(json: &str, run: &RunId, what: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| corrupt(run, what).because(error))
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Storage, "this cannot be written as JSON").because(error)
}

/// Events as rows, one text for all of them.
pub(super) struct Events {
    json: String,
    rows: Vec<EventRow>,
}

struct EventRow {
    at: i64,
    scope: Option<u32>,
    step: Option<u32>,
    kind: (usize, usize),
    data: Option<(usize, usize)>,
}

/// One event as a row.
pub(super) struct EventColumns<'a> {
    pub(super) at: i64,
    pub(super) scope: Option<u32>,
    pub(super) step: Option<u32>,
    pub(super) kind: &'a str,
    pub(super) data: Option<&'a str>,
}

impl Events {
    pub(super) fn of(journal: &[Recorded]) -> Result<Self> {
        let mut json = Vec::with_capacity(journal.len() * 96);
        let mut rows = Vec::with_capacity(journal.len());
        for Recorded { at, event } in journal {
            let start = json.len();
            serde_json::to_writer(&mut json, event).map_err(unwritable)?;
            let end = json.len();
            // `{"kind":data}`, or `"kind"` for an event without data.
            let quote = if json.get(start) == Some(&b'{') { start + 1 } else { start };
            let kind = quote + 1;
            let word = json.get(kind..).unwrap_or_default();
            let kind_end = kind + word.iter().position(|byte| *byte == b'"').unwrap_or(0);
            let data = (quote > start).then_some((kind_end + 2, end - 1));
            let step = event.step();
            rows.push(EventRow {
                at: at.as_micros(),
                scope: step.map(|step| step.scope),
                step: step.map(|step| step.step),
                kind: (kind, kind_end),
                data,
            });
        }
        let json = String::from_utf8(json).map_err(|error| {
            Error::new(ErrorKind::Storage, "this cannot be written as JSON").because(error)
        })?;
        Ok(Self { json, rows })
    }

    pub(super) fn len(&self) -> i64 {
        integer(self.rows.len())
    }

    /// How much text they are.
    #[cfg(feature = "postgres")]
    pub(super) const fn bytes(&self) -> usize {
        self.json.len()
    }

    /// When the last of them happened.
    pub(super) fn last_at(&self) -> Option<i64> {
        self.rows.last().map(|row| row.at)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = EventColumns<'_>> {
        let part = |(start, end): (usize, usize)| self.json.get(start..end).unwrap_or_default();
        self.rows.iter().map(move |row| EventColumns {
            at: row.at,
            scope: row.scope,
            step: row.step,
            kind: part(row.kind),
            data: row.data.map(part),
        })
    }
}

/// An event from its row.
pub(super) fn recorded_of(
    at: i64,
    kind: &str,
    data: Option<&str>,
    run: &RunId,
) -> Result<Recorded> {
    let json = match data {
        Some(data) => format!("{{\"{kind}\":{data}}}"),
        None => format!("\"{kind}\""),
    };
    let event: Event = from_json(&json, run, &format!("an event `{kind}` is none that there is"))?;
    Ok(Recorded { at: Timestamp::from_micros(at), event })
}
