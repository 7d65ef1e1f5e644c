//! Closures as executors.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ExecutionContext, StepExecutor};
use crate::error::{ErrorClass, StepError};
use crate::value::Value;

/// A closure as an executor; made by [`executor_fn`].
pub struct ExecutorFn<F>(F);

/// An executor from an async closure over the context.
///
/// ```
/// use serde_json::json;
/// use stepwell::{ExecutorRegistry, executor_fn};
///
/// let mut registry = ExecutorRegistry::default();
/// registry.register("double", executor_fn(|ctx| async move {
///     let number: i64 = ctx.input("number")?;
///     Ok(json!({"double": number * 2}))
/// }));
/// ```
pub fn executor_fn<F, Fut, T>(f: F) -> ExecutorFn<F>
where
    F: Fn(ExecutionContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, StepError>> + Send + 'static,
    T: Into<Value>,
{
    ExecutorFn(f)
}

#[async_trait]
impl<F, Fut, T> StepExecutor for ExecutorFn<F>
where
    F: Fn(ExecutionContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, StepError>> + Send + 'static,
    T: Into<Value>,
{
    async fn execute(&self, ctx: ExecutionContext) -> Result<Value, StepError> {
        (self.0)(ctx).await.map(Into::into)
    }

    fn attempt(
        &self,
        _: &Arc<dyn StepExecutor>,
        ctx: ExecutionContext,
    ) -> BoxFuture<'static, Result<Value, StepError>> {
        let work = (self.0)(ctx);
        Box::pin(async move { work.await.map(Into::into) })
    }
}

impl<F> fmt::Debug for ExecutorFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExecutorFn(..)")
    }
}

/// A typed closure as an executor; made by [`typed_fn`].
pub struct TypedFn<F, In>(F, PhantomData<fn(In)>);

/// An executor from an async closure over all inputs of the step as one type, with any serialisable
/// result. Inputs of another shape fail the step with class validation, without another attempt.
///
/// ```
/// use stepwell::{ExecutorRegistry, StepError, typed_fn};
///
/// #[derive(serde::Deserialize)]
/// struct Order { items: Vec<u32> }
/// #[derive(serde::Serialize)]
/// struct Total { sum: u32 }
///
/// let mut registry = ExecutorRegistry::default();
/// registry.register("total", typed_fn(|order: Order| async move {
///     Ok::<_, StepError>(Total { sum: order.items.iter().sum() })
/// }));
/// ```
pub fn typed_fn<F, Fut, In, Out>(f: F) -> TypedFn<F, In>
where
    F: Fn(In) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Out, StepError>> + Send + 'static,
    In: DeserializeOwned + Send + 'static,
    Out: Serialize,
{
    TypedFn(f, PhantomData)
}

#[async_trait]
impl<F, Fut, In, Out> StepExecutor for TypedFn<F, In>
where
    F: Fn(In) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Out, StepError>> + Send + 'static,
    In: DeserializeOwned + Send + 'static,
    Out: Serialize + Send,
{
    async fn execute(&self, ctx: ExecutionContext) -> Result<Value, StepError> {
        let input = ctx.inputs().parse::<In>().map_err(|error| {
            StepError::new(ErrorClass::Validation, format!("the inputs do not fit: {error}"))
        })?;
        drop(ctx);
        let output = (self.0)(input).await?;
        Value::of(&output).map_err(|error| {
            StepError::new(ErrorClass::Validation, format!("the output is no JSON: {error}"))
        })
    }
}

impl<F, In> fmt::Debug for TypedFn<F, In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypedFn(..)")
    }
}
