//! How long texts may be that people and programs say to a run.

use super::command::{Command, Rejection};
use crate::journal::Reason;

/// Bytes of a signal's name, together with its key.
pub const SIGNAL_NAME_BYTES_MAX: usize = 512;
/// Bytes of a signal's id.
pub const SIGNAL_ID_BYTES_MAX: usize = 256;
/// Bytes of the name of somebody who votes, sends a signal or does something to a run.
pub const PERSON_BYTES_MAX: usize = 256;
/// Bytes of a comment on a vote, and of why somebody does something to a run.
pub const REASON_BYTES_MAX: usize = 64 << 10;

/// Whether no text in a command is longer than a journal is to keep.
pub(super) fn check(command: &Command) -> Result<(), Rejection> {
    match command {
        Command::Signal(signal) => {
            signal_name(&signal.name)?;
            signal.by.as_deref().map_or(Ok(()), person)?;
            let id = signal.id.as_deref().unwrap_or_default();
            fits("the signal's id", id, SIGNAL_ID_BYTES_MAX)
        }
        Command::Vote { vote, .. } => {
            person(&vote.by)?;
            fits("the comment", &vote.comment, REASON_BYTES_MAX)
        }
        Command::Pause(by)
        | Command::Resume(by)
        | Command::Cancel { by, .. }
        | Command::Terminate(by)
        | Command::Operate { by, .. } => {
            let Reason { by, why } = &**by;
            person(by)?;
            fits("the reason", why, REASON_BYTES_MAX)
        }
        Command::Start { .. }
        | Command::Dispatch { .. }
        | Command::Report { .. }
        | Command::Lose { .. }
        | Command::Tick { .. }
        | Command::Quarantine { .. } => Ok(()),
    }
}

/// Whether somebody can have this name.
pub(super) fn person(name: &str) -> Result<(), Rejection> {
    fits("the name of a person", name, PERSON_BYTES_MAX)
}

/// Whether a signal can have this name.
pub(super) fn signal_name(name: &str) -> Result<(), Rejection> {
    fits("the signal's name, with its key,", name, SIGNAL_NAME_BYTES_MAX)
}

fn fits(what: &str, text: &str, limit: usize) -> Result<(), Rejection> {
    let bytes = text.len();
    if bytes <= limit {
        return Ok(());
    }
    Err(Rejection::TooLong { what: what.into(), bytes, limit })
}
