//! Workflows as documents: JSON and YAML, in stepwell's shape and in two that people already write.
//!
//! ```
//! use stepwell::Workflow;
//!
//! let text = r#"{
//!     "id": "review",
//!     "steps": [
//!         {"id": "lint", "task": "shell", "config": {"command": ["cargo", "clippy"]}},
//!         {"id": "test", "task": "run_tests", "after": "lint", "retry": {"max_attempts": 3}},
//!         {"id": "deploy", "task": "deploy", "when": "test.coverage > 80%"}
//!     ]
//! }"#;
//! let workflow = Workflow::from_json(text)?;
//! assert_eq!(workflow.plan().batch_ids(), [["lint"], ["test"], ["deploy"]]);
//! # Ok::<(), stepwell::Error>(())
//! ```
//!
//! The two other shapes are `{"name": ..., "tasks": [{"id", "type", "dependencies"}]}` and a list of
//! `{task, on_success, on_failure, condition}`; see [`foreign`]. Unknown fields, repeated keys and
//! wrong types are refused with path, line and column.

pub mod foreign;
mod read;
mod step;
mod wait;

pub use read::DOCUMENT_BYTES_MAX;
pub use step::{CaseDocument, OneOrMany, StepDocument};
pub use wait::{ApprovalDocument, ApproversDocument, WaitDocument, WayDocument};

use super::{Definition, Workflow};
use crate::error::{Error, ErrorKind, Result};

impl Workflow {
    /// Reads a workflow from JSON.
    ///
    /// # Errors
    /// [`ErrorKind::Syntax`] with path, line and column for a document that is not one, and what
    /// [`Workflow::from_definition`] says.
    pub fn from_json(text: &str) -> Result<Self> {
        Self::from_definition(read::json(text)?)
    }

    /// Reads a workflow from YAML.
    ///
    /// # Errors
    /// [`ErrorKind::Syntax`] with path, line and column for a document that is not one, and what
    /// [`Workflow::from_definition`] says.
    ///
    /// ```
    /// let workflow = stepwell::Workflow::from_yaml("
    /// - task: run_tests
    ///   on_success: deploy
    ///   on_failure: notify
    /// - task: deploy
    ///   condition: run_tests.coverage > 80%
    /// ")?;
    /// assert_eq!(workflow.plan().len(), 3);
    /// # Ok::<(), stepwell::Error>(())
    /// ```
    #[cfg(feature = "yaml")]
    #[cfg_attr(docsrs, doc(cfg(feature = "yaml")))]
    pub fn from_yaml(text: &str) -> Result<Self> {
        Self::from_definition(read::yaml(text)?)
    }

    /// The document of this workflow, in stepwell's own shape.
    ///
    /// # Errors
    /// None in practice: every part of a definition can be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self.definition()).map_err(|error| {
            Error::new(ErrorKind::Syntax, "cannot be written as JSON").because(error)
        })
    }

    /// The same as YAML.
    ///
    /// # Errors
    /// None in practice, as for JSON.
    #[cfg(feature = "yaml")]
    #[cfg_attr(docsrs, doc(cfg(feature = "yaml")))]
    pub fn to_yaml(&self) -> Result<String> {
        serde_saphyr::to_string(self.definition()).map_err(|error| {
            Error::new(ErrorKind::Syntax, "cannot be written as YAML").because(error)
        })
    }
}

impl Definition {
    /// The JSON Schema (draft 2020-12) of workflow documents, for editors that complete and check
    /// them. The same text is shipped as `src/workflow/document/schema.json`.
    #[cfg(feature = "schema")]
    #[cfg_attr(docsrs, doc(cfg(feature = "schema")))]
    #[must_use]
    pub fn json_schema() -> crate::value::Json {
        schemars::schema_for!(Self).to_value()
    }
}

/// The schema as shipped; a test compares it with [`Definition::json_schema`].
pub const SCHEMA: &str = include_str!("schema.json");

/// The keys of those that tell kinds apart that are there.
fn given_of<const N: usize>(keys: [(bool, &'static str); N]) -> Vec<&'static str> {
    keys.into_iter().filter_map(|(given, key)| given.then_some(key)).collect()
}
