//! One attempt in the air: its future, wherever it is polled, guarded against panics.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::BoxFuture;

use super::admission::TypeState;
use super::lock;
use super::placement::Placement;
use super::prepare::Task;
use crate::error::{ErrorClass, StepError};
use crate::executor::{Attempt, Begun, ExecutionContext, StepExecutor};
use crate::id::StepKey;
use crate::runtime::Runtime;
use crate::storage::Statement;
use crate::value::Value;

type StepResult = Result<Value, StepError>;

/// An attempt that has come down.
#[derive(Debug)]
pub(crate) struct Landed {
    pub(crate) step: StepKey,
    pub(crate) number: u32,
    /// The body that the step stands in, known even when its scope is gone.
    pub(crate) body: (u32, u32),
    /// None when it was dropped on purpose: the run knows already.
    pub(crate) result: Option<StepResult>,
    /// What kind of failure it was, once somebody has looked.
    pub(crate) class: Option<ErrorClass>,
    /// What is to be written with its success.
    pub(crate) writes: Option<Arc<[Statement]>>,
}

impl Landed {
    pub(crate) const fn new(begun: &Begun, result: Option<StepResult>) -> Self {
        let Begun { key: step, number, body, .. } = *begun;
        Self { step, number, body, result, class: None, writes: None }
    }

    pub(crate) fn of(attempt: &Attempt, result: Option<StepResult>) -> Self {
        Self { writes: attempt.take_writes(), ..Self::new(&attempt.begun, result) }
    }
}

/// An attempt in the air.
pub(crate) enum Flight {
    Here(Watched),
    There {
        attempt: Arc<Attempt>,
        result: oneshot::Receiver<Option<StepResult>>,
        /// What the runtime gave back, to be polled here after all.
        inline: Option<BoxFuture<'static, ()>>,
    },
}

impl Flight {
    /// Starts an attempt elsewhere.
    pub(crate) fn send(
        mut watched: Watched,
        task: &Task,
        runtime: &dyn Runtime,
        placement: Placement,
    ) -> Self {
        watched.executor = Some(Arc::clone(&task.executor));
        match placement {
            Placement::InPlace => Self::Here(watched),
            Placement::Spawned => spawn(watched, runtime),
            Placement::Blocking => block(watched, runtime),
        }
    }

    pub(crate) fn attempt(&self) -> &Arc<Attempt> {
        match self {
            Self::Here(watched) => &watched.attempt,
            Self::There { attempt, .. } => attempt,
        }
    }

    pub(crate) fn poll_once(&mut self, context: &mut Context<'_>) -> Poll<Option<StepResult>> {
        match self {
            Self::Here(watched) => watched.poll_once(None, context),
            Self::There { result, inline, .. } => {
                if inline.as_mut().is_some_and(|task| task.as_mut().poll(context).is_ready()) {
                    *inline = None;
                }
                Pin::new(result).poll(context).map(|result| {
                    let lost = || StepError::retryable("the runtime dropped the step");
                    result.unwrap_or_else(|_| Some(Err(lost())))
                })
            }
        }
    }
}

fn spawn(watched: Watched, runtime: &dyn Runtime) -> Flight {
    let attempt = Arc::clone(&watched.attempt);
    let (sender, result) = oneshot::channel();
    let task = Box::pin(async move {
        // Nobody listens any more when the run was dropped meanwhile.
        let _ = sender.send(watched.await);
    });
    Flight::There { attempt, result, inline: runtime.spawn(task).err() }
}

fn block(watched: Watched, runtime: &dyn Runtime) -> Flight {
    let attempt = Arc::clone(&watched.attempt);
    let (sender, result) = oneshot::channel();
    let shared = Arc::new(Mutex::new(Some(watched)));
    let taken = Arc::clone(&shared);
    let work = move || {
        let watched = lock(&taken).take();
        if let Some(watched) = watched {
            let _ = sender.send(futures::executor::block_on(watched));
        }
    };
    let refused = runtime.spawn_blocking(Box::new(work)).is_err();
    let back = if refused { lock(&shared).take() } else { None };
    match back {
        Some(watched) => Flight::Here(watched),
        None => Flight::There { attempt, result, inline: None },
    }
}

impl Future for Flight {
    type Output = Landed;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Landed> {
        let polled = self.poll_once(context);
        polled.map(|result| Landed::of(self.attempt(), result))
    }
}

/// The future of an attempt, with its panics caught, its work measured, and a way to drop it.
pub(crate) struct Watched {
    attempt: Arc<Attempt>,
    /// What makes the future, where the first poll does not bring it along.
    executor: Option<Arc<dyn StepExecutor>>,
    /// Made at the first poll: making it may panic or work, too.
    future: Guarded,
    meter: Option<(Arc<TypeState>, Duration)>,
    span: tracing::Span,
}

impl Watched {
    #[inline]
    pub(crate) fn new(attempt: Arc<Attempt>, task: &Task, measured: bool) -> Self {
        Self {
            attempt,
            executor: None,
            future: Guarded(None),
            meter: measured.then(|| (Arc::clone(&task.kind), Duration::ZERO)),
            span: tracing::Span::none(),
        }
    }

    pub(crate) fn into_attempt(self) -> Arc<Attempt> {
        self.attempt
    }

    fn advance(
        &mut self,
        executor: Option<&Arc<dyn StepExecutor>>,
        context: &mut Context<'_>,
    ) -> Poll<StepResult> {
        let own = self.executor.take();
        if let Some(executor) = executor.or(own.as_ref()) {
            self.span = span(&self.attempt);
            let _entered = self.span.enter();
            let context = ExecutionContext::new(Arc::clone(&self.attempt));
            self.future.0 = Some(match self.attempt.has_store() {
                true => with_store(Arc::clone(&self.attempt), Arc::clone(executor), context),
                false => executor.attempt(executor, context),
            });
        }
        let _entered = self.span.enter();
        match &mut self.future.0 {
            Some(future) => future.as_mut().poll(context),
            None => Poll::Pending,
        }
    }

    /// Polls the attempt once; for the first time with its executor.
    pub(crate) fn poll_once(
        &mut self,
        executor: Option<&Arc<dyn StepExecutor>>,
        context: &mut Context<'_>,
    ) -> Poll<Option<StepResult>> {
        if self.attempt.is_aborted() {
            self.future.clear();
            return Poll::Ready(None);
        }
        let runtime = self.meter.is_some().then(|| Arc::clone(self.attempt.run.runtime()));
        let begin = runtime.as_ref().map(|runtime| runtime.monotonic());
        let polled = catch_unwind(AssertUnwindSafe(|| self.advance(executor, context)));
        if let (Some((kind, busy)), Some(runtime), Some(begin)) = (&mut self.meter, runtime, begin)
        {
            *busy = runtime.monotonic().saturating_sub(begin).max(*busy);
            if !matches!(polled, Ok(Poll::Pending)) {
                kind.measured.add(*busy);
            }
        }
        match polled {
            Ok(Poll::Ready(result)) => Poll::Ready(Some(result)),
            Ok(Poll::Pending) => {
                self.attempt.holder.register(context.waker());
                // It may have been aborted before the waker was there.
                if self.attempt.is_aborted() {
                    self.future.clear();
                    return Poll::Ready(None);
                }
                Poll::Pending
            }
            Err(panic) => {
                self.future.clear();
                let message = format!("the step panicked: {}", message(&*panic));
                Poll::Ready(Some(Err(StepError::new(ErrorClass::Panic, message))))
            }
        }
    }
}

impl Future for Watched {
    type Output = Option<StepResult>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<StepResult>> {
        self.poll_once(None, context)
    }
}

/// The same, with large inputs loaded before and a large output kept elsewhere afterwards.
fn with_store(
    attempt: Arc<Attempt>,
    executor: Arc<dyn StepExecutor>,
    context: ExecutionContext,
) -> BoxFuture<'static, StepResult> {
    Box::pin(async move {
        attempt.load_inputs().await.map_err(StepError::nothing_done)?;
        let output = executor.attempt(&executor, context).await?;
        attempt.keep(output).await
    })
}

/// A step's future; its destructors are the step's code, too, and may panic.
struct Guarded(Option<BoxFuture<'static, StepResult>>);

impl Guarded {
    fn clear(&mut self) {
        if let Some(future) = self.0.take() {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(future)));
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.clear();
    }
}

fn span(attempt: &Attempt) -> tracing::Span {
    if !tracing::enabled!(target: "stepwell", tracing::Level::INFO) {
        return tracing::Span::none();
    }
    let step = attempt.path();
    tracing::info_span!(
        target: "stepwell",
        "workflow.step",
        run_id = %attempt.run.id,
        step,
        attempt = attempt.begun.number,
    )
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
