//! What a step has said that it writes, until its success is recorded together with that.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::ExecutionContext;
use crate::error::{ErrorClass, StepError};
use crate::storage::{STATEMENTS_BYTES_MAX, STATEMENTS_MAX, Statement};

/// The statements of one attempt. Most write nothing, and so have no list.
#[derive(Default)]
pub(super) struct Pending(OnceLock<Box<Mutex<List>>>);

#[derive(Default)]
struct List {
    statements: Vec<Statement>,
    bytes: usize,
    /// The attempt has ended.
    is_closed: bool,
}

impl Pending {
    fn add(&self, statement: Statement) -> Result<(), StepError> {
        let list = self.0.get_or_init(Box::default);
        let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = list.bytes + statement.bytes();
        let wrong = if list.is_closed {
            "the attempt has ended, and writes nothing any more".to_string()
        } else if list.statements.len() == STATEMENTS_MAX {
            format!("a step writes {STATEMENTS_MAX} statements at most")
        } else if bytes > STATEMENTS_BYTES_MAX {
            format!("what a step writes takes {STATEMENTS_BYTES_MAX} bytes at most")
        } else {
            list.bytes = bytes;
            list.statements.push(statement);
            return Ok(());
        };
        Err(StepError::new(ErrorClass::Validation, wrong))
    }

    /// Ends the list; what is on it.
    #[inline]
    pub(super) fn take(&self) -> Option<Arc<[Statement]>> {
        self.0.get().and_then(|list| Self::end(list))
    }

    #[cold]
    fn end(list: &Mutex<List>) -> Option<Arc<[Statement]>> {
        let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
        list.is_closed = true;
        let statements = std::mem::take(&mut list.statements);
        (!statements.is_empty()).then(|| statements.into())
    }
}

impl ExecutionContext {
    /// Writes this into the engine's storage, in the transaction that records that the step has
    /// succeeded: it is there exactly if the step's result is. Until then nobody sees it, not the step
    /// either, and if the step does not succeed it never was. See
    /// [effects](crate::guide::durability#effects).
    ///
    /// If the storage refuses a statement, nothing of the step is written, and the attempt fails.
    ///
    /// # Errors
    /// Class configuration when the step is not [`transactional`](crate::Step::transactional), or the
    /// engine's storage has no tables; class validation for more than [`STATEMENTS_MAX`] statements, or
    /// [`STATEMENTS_BYTES_MAX`] bytes.
    pub fn write(&self, statement: Statement) -> Result<(), StepError> {
        let attempt = self.attempt_of();
        let wrong = if !attempt.is_transactional() {
            "the step writes; say so with `Step::transactional`, or `transactional: true`"
        } else if !attempt.run.facilities.takes_writes {
            crate::storage::NO_TABLES
        } else {
            return attempt.writes.add(statement);
        };
        Err(StepError::new(ErrorClass::Configuration, wrong))
    }
}
