//! Executors: what does the work of a step.
//!
//! Your own are [closures](executor_fn) or implement [`StepExecutor`]. These come with the crate; the
//! first four, and `validate`, are there without being registered:
//!
//! | type | what it does | configuration | inputs |
//! | --- | --- | --- | --- |
//! | `input` | asks for something and waits for the answer, as a signal | `prompt`, `signal` (default: the step's path), `timeout`, `required` | |
//! | `process` | builds a value from expressions | `set`: names to expressions, or `value`: one expression | |
//! | `output` | gives its inputs as its output | | any |
//! | `condition` | gives the value of the first case that holds | `cases`: list of `{when, value}`, `default` | |
//! | `ai` | asks a model that you register with [`Ai`] | `prompt`, `system`, `model` | any, named in the prompt as `{name}` |
//! | `shell` | runs a program: register [`Shell`] (feature `shell`) | see there | `args`, any, named in its environment as `{name}` |
//! | `http` | sends a request: register [`HttpRequest`] (feature `request`) | see there | `query`, `body`, any, named in the URL and in headers as `{name}` |
//! | `validate` | checks its input `value` against a JSON Schema (feature `schema`) | `schema` | `value` |

mod builtin;
mod closure;
mod context;
pub(crate) mod facilities;
mod filled;
mod observed;
#[cfg(feature = "request")]
mod redirect;
mod registry;
#[cfg(feature = "request")]
mod request;
#[cfg(feature = "shell")]
mod shell;
mod writes;

pub use builtin::{Ai, AiModel, AiRequest, ScriptedModel};
#[cfg(feature = "schema")]
pub use builtin::{SchemaViolation, validate_schema};
pub use closure::{ExecutorFn, TypedFn, executor_fn, typed_fn};
pub use context::ExecutionContext;
pub(crate) use context::{Attempt, Begun, NoRoom, RunContext};
pub(crate) use facilities::Facilities;
pub use observed::{LogLevel, RunEvent};
pub use registry::ExecutorRegistry;
#[cfg(feature = "request")]
pub use request::{ANSWER_BYTES_MAX, HttpRequest};
#[cfg(feature = "shell")]
pub use shell::{OUTPUT_BYTES_MAX, Shell};

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::error::StepError;
use crate::value::{Json, Value};

/// Does the work of one type of step.
///
/// # Contract
/// - `execute` may be called many times at once, for different steps.
/// - It may be called again for the same step: after a failure, and after a crash for an attempt
///   whose end was not recorded. [`ExecutionContext::idempotency_key`] is the same then.
/// - Its future may be dropped at any await: on a time-out, or when it does not stop in time after
///   [`ExecutionContext::cancelled`].
/// - A panic fails the attempt; nothing else.
///
/// ```
/// use stepwell::{ExecutionContext, Json, StepError, StepExecutor, Value, async_trait};
///
/// struct Greet;
///
/// #[async_trait]
/// impl StepExecutor for Greet {
///     async fn execute(&self, ctx: ExecutionContext) -> Result<Value, StepError> {
///         let name: String = ctx.input("name")?;
///         Ok(format!("{}, {name}!", ctx.config()["greeting"].as_str().unwrap_or("Hello")).into())
///     }
///
///     fn validate_config(&self, config: &Json) -> Result<(), String> {
///         match &config["greeting"] {
///             Json::Null | Json::String(_) => Ok(()),
///             other => Err(format!("`greeting` must be text, not {other}")),
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait StepExecutor: Send + Sync + 'static {
    /// Does the work.
    async fn execute(&self, ctx: ExecutionContext) -> Result<Value, StepError>;

    /// Whether a step's configuration can work; asked for every step before a run starts.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    fn validate_config(&self, config: &Json) -> Result<(), String> {
        let _ = config;
        Ok(())
    }

    /// The expressions in a step's configuration that [`ExecutionContext::evaluate`] will be asked
    /// for. Steps that they name must come before; it is checked before a run starts.
    fn expressions(&self, config: &Json) -> Vec<String> {
        let _ = config;
        Vec::new()
    }

    /// Runs before each `execute`; its failure is the attempt's.
    async fn pre_execute(&self, ctx: &ExecutionContext) -> Result<(), StepError> {
        let _ = ctx;
        Ok(())
    }

    /// Runs after each `execute`, with its result; not when the attempt was dropped.
    async fn post_execute(&self, ctx: &ExecutionContext, result: &Result<Value, StepError>) {
        let _ = (ctx, result);
    }

    /// The three in a row, as one future; `shared` is this executor. There is no need to write it;
    /// executors without hooks may, to save the boxes of those.
    fn attempt(
        &self,
        shared: &Arc<dyn StepExecutor>,
        ctx: ExecutionContext,
    ) -> BoxFuture<'static, Result<Value, StepError>> {
        let executor = Arc::clone(shared);
        Box::pin(async move {
            executor.pre_execute(&ctx).await?;
            let result = executor.execute(ctx.clone()).await;
            executor.post_execute(&ctx, &result).await;
            result
        })
    }
}
