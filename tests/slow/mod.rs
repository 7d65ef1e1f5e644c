//! Storages whose answers take their time, and whose calls have had their effect, or not, when nobody
//! waits for the answer any more.
#![allow(dead_code, reason = "each test program needs some of it")]

mod calls;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use smol::block_on;
use smol::future::yield_now;
use stepwell::journal::Recorded;
use stepwell::runtime::Runtime as _;
use stepwell::storage::{
    Acquire, Answer, Beat, BlobStore, Claim, Claimed, Commit, Created, Denied, Message, NewRun,
    Owner, Purge, Reply, RunQuery, Storage, StoredRun, Summary,
};
use stepwell::testing::VirtualRuntime;
use stepwell::{Result, RunId, Timestamp};

use self::calls::reads_and_writes;

/// When a call has its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Before its answer can be dropped. A storage with threads of its own is waited for.
    AtOnce,
    /// At the second poll, and never if it is dropped before: as with a connection that each call has
    /// for itself.
    WhenPolled,
    /// A while after it was called, dropped or not, each after the one before it: as with a thread that
    /// does the writing. What is read is not behind.
    Behind,
}

pub(crate) const EFFECTS: [Effect; 3] = [Effect::AtOnce, Effect::WhenPolled, Effect::Behind];

/// How far a write is behind.
const BEHIND: Duration = Duration::from_millis(50);

type Job = BoxFuture<'static, ()>;

pub(crate) struct Slow<S: ?Sized> {
    pub(crate) inner: Arc<S>,
    effect: Effect,
    poll_every: Option<Duration>,
    time: VirtualRuntime,
    queue: Arc<Mutex<VecDeque<Job>>>,
}

impl<S: ?Sized + Send + Sync + 'static> Slow<S> {
    pub(crate) fn new(inner: Arc<S>, effect: Effect, time: &VirtualRuntime) -> Self {
        Self { inner, effect, poll_every: None, time: time.clone(), queue: Arc::default() }
    }

    /// Has engines ask as seldom as this.
    pub(crate) const fn poll_every(mut self, every: Duration) -> Self {
        self.poll_every = Some(every);
        self
    }

    fn read<T: Send + Unpin + 'static>(
        &self,
        call: impl FnOnce(&S) -> Reply<Result<T>> + Send + 'static,
    ) -> Reply<Result<T>> {
        match self.effect {
            Effect::Behind => {
                let answer = call(&self.inner);
                Reply::later(async move {
                    yield_now().await;
                    answer.await
                })
            }
            _ => self.write(call),
        }
    }

    fn write<T: Send + Unpin + 'static>(
        &self,
        call: impl FnOnce(&S) -> Reply<Result<T>> + Send + 'static,
    ) -> Reply<Result<T>> {
        let inner = Arc::clone(&self.inner);
        match self.effect {
            Effect::AtOnce => {
                let answer = call(&inner);
                Reply::later(async move {
                    // Others may call meanwhile; virtual time may not pass.
                    yield_now().await;
                    block_on(answer)
                })
            }
            Effect::WhenPolled => Reply::later(async move {
                yield_now().await;
                let answer = call(&inner).await;
                yield_now().await;
                answer
            }),
            Effect::Behind => {
                let (sender, receiver) = oneshot::channel();
                self.queue.lock().unwrap().push_back(Box::pin(async move {
                    let _ = sender.send(call(&inner).await);
                }));
                let (queue, due) = (Arc::clone(&self.queue), self.time.now() + BEHIND);
                let sleep = self.time.sleep_until(due);
                let work = async move {
                    sleep.await;
                    // The oldest, whoever of those who sleep wakes first.
                    let oldest = queue.lock().unwrap().pop_front();
                    oldest.unwrap().await;
                };
                assert!(self.time.spawn(Box::pin(work)).is_ok());
                Reply::later(async move { receiver.await.unwrap() })
            }
        }
    }
}

impl<S: ?Sized> Clone for Slow<S> {
    fn clone(&self) -> Self {
        let (inner, queue) = (Arc::clone(&self.inner), Arc::clone(&self.queue));
        let (effect, poll_every, time) = (self.effect, self.poll_every, self.time.clone());
        Self { inner, effect, poll_every, time, queue }
    }
}

impl Storage for Slow<dyn Storage> {
    reads_and_writes!();

    fn poll_every(&self) -> Duration {
        self.poll_every.unwrap_or_else(|| self.inner.poll_every())
    }

    fn news(&self, owner: Owner) -> BoxStream<'static, ()> {
        self.inner.news(owner)
    }

    fn takes_writes(&self) -> bool {
        self.inner.takes_writes()
    }
}

impl BlobStore for Slow<dyn BlobStore> {
    fn put(&self, run: &RunId, name: &str, bytes: Vec<u8>) -> Reply<Result<()>> {
        let (run, name) = (run.clone(), name.to_owned());
        self.write(move |blobs| blobs.put(&run, &name, bytes))
    }

    fn get(&self, run: &RunId, name: &str) -> Reply<Result<Option<Vec<u8>>>> {
        let (run, name) = (run.clone(), name.to_owned());
        self.read(move |blobs| blobs.get(&run, &name))
    }

    fn delete(&self, run: &RunId, names: Vec<String>) -> Reply<Result<()>> {
        let run = run.clone();
        self.write(move |blobs| blobs.delete(&run, names))
    }

    fn delete_run(&self, run: &RunId) -> Reply<Result<()>> {
        let run = run.clone();
        self.write(move |blobs| blobs.delete_run(&run))
    }
}

impl<S: ?Sized> fmt::Debug for Slow<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slow({:?})", self.effect)
    }
}
