//! A storage that fails where a test wants it to.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::BoxFuture;

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::Runtime;
use crate::storage::around::around_storage;
use crate::storage::{Reply, Storage};

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It fails, and nothing has happened.
    Before,
    /// It is done, and its answer is that it failed.
    After,
    /// It is not done, and its answer never comes.
    Hangs,
    /// It is done, and its answer never comes.
    HangsAfter,
    /// It is done, and its answer comes so much later. Needs a [`runtime`](Faulty::runtime).
    AnswersLate(Duration),
    /// It is done so much later, and then answered, if anybody still waits for that. Needs a
    /// [`runtime`](Faulty::runtime), and one that can spawn; others do it only for who waits.
    DoneLate(Duration),
}

/// One call of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// Counted from 1.
    pub number: u64,
    /// The method.
    pub method: &'static str,
}

/// A storage whose calls fail when a function says so, and that answers at once otherwise, so that it
/// can be used in virtual time whatever it does inside.
///
/// Clones share the storage and the count of the calls.
///
/// ```
/// use stepwell::storage::Memory;
/// use stepwell::testing::{Fault, Faulty, VirtualRuntime};
/// use stepwell::{Engine, Step, Workflow, executor_fn};
///
/// // The second commit is done, and the engine hears that it failed.
/// let mut commits = 0;
/// let storage = Faulty::new(Memory::new(), move |call| {
///     commits += u32::from(call.method == "commit");
///     (call.method == "commit" && commits == 2).then_some(Fault::After)
/// });
/// let time = VirtualRuntime::new(1);
/// let engine = Engine::builder()
///     .runtime(time.clone())
///     .storage(storage)
///     .executor("work", executor_fn(|_| async { Ok(1) }))
///     .build()?;
/// let workflow = Workflow::builder("w").step(Step::task("a", "work")).build()?;
/// time.block_on(async {
///     let run = engine.start(&workflow, ()).await?;
///     // Whoever drives it hears of the failure, and may go on.
///     while run.outcome().await.is_err() {}
///     assert_eq!(run.outcome().await?.output().unwrap(), &1);
///     Ok::<(), stepwell::Error>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Faulty<S> {
    storage: Arc<S>,
    plan: Arc<Mutex<Plan>>,
    runtime: Option<Arc<dyn Runtime>>,
}

struct Plan {
    calls: u64,
    decide: Box<dyn FnMut(Call) -> Option<Fault> + Send>,
}

impl<S: Storage> Faulty<S> {
    /// This storage, with what the function says happening to its calls.
    pub fn new(storage: S, decide: impl FnMut(Call) -> Option<Fault> + Send + 'static) -> Self {
        let plan = Plan { calls: 0, decide: Box::new(decide) };
        Self { storage: Arc::new(storage), plan: Arc::new(Mutex::new(plan)), runtime: None }
    }

    /// In whose time answers are late. Without one what is late never comes.
    #[must_use]
    pub fn runtime(mut self, runtime: impl Runtime) -> Self {
        self.runtime = Some(Arc::new(runtime));
        self
    }

    /// How many calls there have been.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).calls
    }

    fn call<T: Send + Unpin + 'static>(
        &self,
        method: &'static str,
        work: impl FnOnce(&S) -> Reply<Result<T>> + Send + 'static,
    ) -> Reply<Result<T>> {
        let (number, fault) = {
            let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
            plan.calls += 1;
            let call = Call { number: plan.calls, method };
            (call.number, (plan.decide)(call))
        };
        let failed = || {
            let message = format!("call {number}, `{method}`, fails because the test wants it");
            Reply::ready(Err(Error::new(ErrorKind::Storage, message)))
        };
        match fault {
            None => Reply::ready(wait(work(&self.storage))),
            Some(Fault::Before) => failed(),
            Some(Fault::After) => {
                drop(wait(work(&self.storage)));
                failed()
            }
            Some(Fault::Hangs) => Reply::later(std::future::pending()),
            Some(Fault::HangsAfter) => {
                drop(wait(work(&self.storage)));
                Reply::later(std::future::pending())
            }
            Some(Fault::AnswersLate(by)) => {
                let answer = wait(work(&self.storage));
                let late = self.nap(by);
                Reply::later(async move {
                    late.await;
                    answer
                })
            }
            Some(Fault::DoneLate(by)) => self.later(by, work),
        }
    }

    fn later<T: Send + Unpin + 'static>(
        &self,
        by: Duration,
        work: impl FnOnce(&S) -> Reply<Result<T>> + Send + 'static,
    ) -> Reply<Result<T>> {
        let Some(runtime) = &self.runtime else { return Reply::later(std::future::pending()) };
        let (storage, late) = (Arc::clone(&self.storage), self.nap(by));
        let (answer, answered) = oneshot::channel();
        let call = Box::pin(async move {
            late.await;
            // Whoever asked may not wait any more.
            let _ = answer.send(wait(work(&storage)));
        });
        let left = runtime.spawn(call).err();
        Reply::later(async move {
            if let Some(call) = left {
                call.await;
            }
            match answered.await {
                Ok(answer) => answer,
                // The runtime has dropped the call.
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn nap(&self, length: Duration) -> BoxFuture<'static, ()> {
        match &self.runtime {
            Some(runtime) => runtime.sleep(length),
            None => Box::pin(std::future::pending()),
        }
    }
}

/// Waits for an answer on this thread, inside of whatever executor.
fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread, AtomicBool);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.1.store(true, Ordering::Release);
            self.0.unpark();
        }
    }
    let mut future = pin!(future);
    let unpark = Arc::new(Unpark(std::thread::current(), AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&unpark));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => return answer,
            // Somebody else who parks on this thread may have heard what was meant for this.
            Poll::Pending => {
                while !unpark.1.swap(false, Ordering::Acquire) {
                    std::thread::park();
                }
            }
        }
    }
}

impl<S> Clone for Faulty<S> {
    fn clone(&self) -> Self {
        Self {
            storage: Arc::clone(&self.storage),
            plan: Arc::clone(&self.plan),
            runtime: self.runtime.clone(),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Faulty<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({:?})", self.storage)
    }
}

impl<S: Storage> Storage for Faulty<S> {
    around_storage!(owned);

    fn poll_every(&self) -> std::time::Duration {
        self.storage.poll_every()
    }

    fn takes_writes(&self) -> bool {
        self.storage.takes_writes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RunId;
    use crate::storage::{Memory, Message, Owner};
    use crate::testing::VirtualRuntime;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_late_answer_comes_although_its_call_was_done() {
        let time = VirtualRuntime::new(1);
        let memory = Memory::new();
        let late = |_| Some(Fault::AnswersLate(MINUTE));
        let storage = Faulty::new(memory.clone(), late).runtime(time.clone());
        let (before, owner) = (time.now(), Owner(1));
        let answer = time.block_on(storage.beat(owner)).unwrap();
        assert_eq!((answer.unwrap().len(), time.now().since(before)), (1, MINUTE));
    }

    #[test]
    fn a_late_call_is_done_although_nobody_waits_for_it() {
        let time = VirtualRuntime::new(1);
        let memory = Memory::new();
        let late = |_| Some(Fault::DoneLate(MINUTE));
        let storage = Faulty::new(memory.clone(), late).runtime(time.clone());
        drop(storage.beat(Owner(1)));
        let alive = || wait(memory.beat(Owner(2))).unwrap().len();
        assert_eq!(alive(), 1);
        time.block_on(time.sleep_until(time.now() + 2 * MINUTE)).unwrap();
        assert_eq!(alive(), 2);
        let run = RunId::new("r").unwrap();
        let reason = crate::journal::Reason::new("ann", "");
        let answer = time.block_on(storage.post(&run, Message::Pause(reason))).unwrap();
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
