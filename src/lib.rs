//! Durable workflows inside your own program.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod error;
pub mod expr;
pub mod id;
pub mod journal;
pub mod plan;
pub mod queue;
pub mod retry;
pub mod run;
pub mod time;
pub mod value;
pub mod workflow;

pub use async_trait::async_trait;
pub use error::{Error, ErrorClass, ErrorKind, Failure, Problem, Problems, Result, StepError};
pub use id::{RunId, StepId, StepKey};
pub use journal::{Event, Outcome, RunStatus, SkipReason, StepStatus};
pub use plan::{DagResolver, ExecutionPlan};
pub use retry::RetryConfig;
pub use time::Timestamp;
pub use value::{Json, Value};
pub use workflow::{Priority, Step, StepKind, Trigger, Wait, Workflow, WorkflowBuilder};
