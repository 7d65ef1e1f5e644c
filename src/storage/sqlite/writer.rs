//! The one connection that writes: in place for a lone caller, else all that wait in one transaction.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::oneshot;
use rusqlite::Connection;
use rustc_hash::FxBuildHasher;

use super::fault::Fault;
use super::guests::{at_the_end, carried};
use super::schema;
use super::worker::Worker;
use crate::error::{Error, Result};
use crate::id::RunId;
use crate::storage::Reply;

/// What a piece of work came to: an error of the database, which undoes everything that it shares a
/// transaction with, or an answer, which may be a refusal that has changed nothing.
pub(super) type Done<T> = rusqlite::Result<Result<T>>;

/// Pieces of work that share a transaction, at most: the first waits for the last.
const TOGETHER_MAX: usize = 1_024;

/// Writes. Who is alone does so on their own thread, others on one that all share.
pub(super) struct Writer {
    shared: Arc<Shared>,
    worker: Worker<Box<dyn Job>>,
    /// Whose run was last written, as a hash.
    last: AtomicU64,
}

struct Shared {
    connection: Mutex<Connection>,
    /// How much has been sent to the thread and has not been done.
    waiting: AtomicUsize,
    patience: Duration,
    fault: Fault,
}

impl Writer {
    /// Takes over a connection; it waits this long for other processes.
    pub(super) fn new(connection: Connection, patience: Duration, fault: Fault) -> Result<Self> {
        let shared = Arc::new(Shared {
            connection: Mutex::new(connection),
            waiting: AtomicUsize::new(0),
            patience,
            fault,
        });
        let writing = Arc::clone(&shared);
        let worker = Worker::spawn("stepwell-sqlite-write", move |queue| writing.serve(&queue));
        let worker = worker.map_err(|error| shared.fault.thread(error))?;
        Ok(Self { shared, worker, last: AtomicU64::new(0) })
    }

    /// Does this in a transaction; may do so more than once, but what was undone leaves no trace.
    ///
    /// Who writes to one run after the other will soon be followed by others, so that is not done in
    /// place: what comes together is committed together.
    pub(super) fn write<T: Send + 'static>(
        &self,
        run: Option<&RunId>,
        work: impl Fn(&Connection) -> Done<T> + Send + 'static,
    ) -> Reply<Result<T>> {
        let again = run.is_some_and(|run| {
            let hash = FxBuildHasher.hash_one(run);
            self.last.swap(hash, Ordering::Relaxed) == hash
        });
        if again && let Some(answer) = self.shared.in_place(&work) {
            return Reply::ready(answer);
        }
        let (sender, receiver) = oneshot::channel();
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        let sent = self.worker.send(Box::new(Piece { work, answer: None, sender }));
        let fault = self.shared.fault.clone();
        if !sent {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            return Reply::ready(Err(fault.closed()));
        }
        Reply::later(async move { receiver.await.unwrap_or_else(|_| Err(fault.closed())) })
    }
}

impl Shared {
    /// Nothing when somebody else is writing or waits for it.
    fn in_place<T>(&self, work: &impl Fn(&Connection) -> Done<T>) -> Option<Result<T>> {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let connection = self.connection.try_lock().ok()?;
        // Another process may be writing: that is waited for on the thread.
        connection.busy_timeout(Duration::ZERO).ok()?;
        begin(&connection).ok()?;
        let done = work(&connection).and_then(|answer| commit(&connection).map(|()| answer));
        Some(done.unwrap_or_else(|error| {
            undo(&connection);
            Err(self.fault.writing(error))
        }))
    }

    fn serve(&self, queue: &Receiver<Box<dyn Job>>) {
        while let Ok(first) = queue.recv() {
            let mut jobs = vec![first];
            let connection = self.lock();
            jobs.extend(queue.try_iter().take(TOGETHER_MAX - 1));
            // If it cannot be told, an attempt does not wait, and fails.
            let _ = connection.busy_timeout(self.patience);
            self.all(&connection, &mut jobs);
            drop(connection);
            self.waiting.fetch_sub(jobs.len(), Ordering::Relaxed);
            jobs.into_iter().for_each(|job| job.reply());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // Whatever was left open is undone before anything else begins.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self, connection: &Connection, jobs: &mut [Box<dyn Job>]) {
        let done = match begin(connection) {
            Ok(()) => {
                let done = jobs.iter_mut().try_for_each(|job| job.run(connection));
                let of_one = done.is_err();
                match done.and_then(|()| commit(connection)) {
                    Err(error) if jobs.len() > 1 && (of_one || carried(&error).is_some()) => {
                        undo(connection);
                        // One of them cannot be done; the others are not to suffer for it.
                        jobs.chunks_mut(1).for_each(|job| self.all(connection, job));
                        return;
                    }
                    done => done,
                }
            }
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            undo(connection);
            self.fail(jobs, error);
        }
    }

    fn fail(&self, jobs: &mut [Box<dyn Job>], error: rusqlite::Error) {
        let error = Arc::new(error);
        jobs.iter_mut().for_each(|job| job.fail(self.fault.writing(Arc::clone(&error))));
    }
}

fn begin(connection: &Connection) -> rusqlite::Result<()> {
    if !connection.is_autocommit() {
        undo(connection);
    }
    // Immediate: what it reads it decides on, and nobody may write in between.
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    schema::must_be_known(connection)
}

fn commit(connection: &Connection) -> rusqlite::Result<()> {
    let done = connection.prepare_cached("COMMIT")?.execute([]).map(drop);
    done.map_err(at_the_end)
}

fn undo(connection: &Connection) {
    // An error may have undone it already.
    let _ = connection.execute_batch("ROLLBACK");
}

/// Something that the thread is to do.
trait Job: Send {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    fn fail(&mut self, error: Error);
    fn reply(self: Box<Self>);
}

struct Piece<W, T> {
    work: W,
    answer: Option<Result<T>>,
    sender: oneshot::Sender<Result<T>>,
}

impl<W: Fn(&Connection) -> Done<T> + Send, T: Send> Job for Piece<W, T> {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.answer = Some((self.work)(connection)?);
        Ok(())
    }

    fn fail(&mut self, error: Error) {
        self.answer = Some(Err(error));
    }

    fn reply(self: Box<Self>) {
        if let Some(answer) = self.answer {
            // Nobody may want to know any more.
            let _ = self.sender.send(answer);
        }
    }
}
