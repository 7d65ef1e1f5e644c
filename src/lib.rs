#![doc = include_str!("../README.md")]
//!
//! # Where to go from here
//!
//! [`Workflow`] and [`Step`] define, [`Engine`] runs, [`RunHandle`] watches and steers. Workflows that
//! many need are in [`ready`].
//! The [guide] has a chapter on each of: [workflows](guide::workflows), [control flow](guide::flow),
//! [conditions](guide::conditions), [data and secrets](guide::data), [failures](guide::failure),
//! [approvals](guide::approvals), [operating runs](guide::operating), [versions](guide::versions),
//! [patterns](guide::patterns),
//! [runtimes](guide::runtimes), [speed](guide::speed) and the [architecture](guide::architecture).
#![forbid(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod engine;
pub mod error;
pub mod executor;
pub mod expr;
pub mod guide;
pub mod id;
pub mod journal;
pub mod plan;
pub mod queue;
pub mod ready;
pub mod retry;
pub mod run;
pub mod runtime;
#[cfg(feature = "secrets")]
#[cfg_attr(docsrs, doc(cfg(feature = "secrets")))]
pub mod secret;
pub mod storage;
#[cfg(feature = "template")]
#[cfg_attr(docsrs, doc(cfg(feature = "template")))]
pub mod template;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
pub mod time;
pub mod value;
pub mod workflow;

pub use async_trait::async_trait;
pub use engine::{Engine, EngineBuilder, Run, RunHandle, StartOptions};
pub use error::{Error, ErrorClass, ErrorKind, Failure, Problem, Problems, Result, StepError};
pub use executor::{ExecutionContext, ExecutorRegistry, StepExecutor, executor_fn, typed_fn};
pub use id::{RunId, StepId, StepKey};
pub use journal::{Event, Outcome, RunStatus, SkipReason, StepStatus};
pub use plan::{DagResolver, ExecutionPlan};
pub use retry::RetryConfig;
pub use runtime::Runtime;
pub use storage::Storage;
pub use time::Timestamp;
pub use value::{Json, Value};
pub use workflow::{Priority, Step, StepKind, Trigger, Wait, Workflow, WorkflowBuilder};
