//! The connections that read: one in place for what takes microseconds, one on a thread for the rest.

use std::sync::{Mutex, PoisonError};

use futures::channel::oneshot;
use rusqlite::Connection;

use super::fault::Fault;
use super::worker::Worker;
use super::writer::Done;
use crate::error::Result;
use crate::storage::Reply;

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// Reads. In the write-ahead log a read sees all that was committed before it began, and keeps
/// nobody from writing.
pub(super) struct Reader {
    small: Mutex<Connection>,
    worker: Worker<Job>,
    fault: Fault,
}

impl Reader {
    pub(super) fn new(small: Connection, large: Connection, fault: Fault) -> Result<Self> {
        let worker = Worker::spawn("stepwell-sqlite-read", move |queue| {
            queue.into_iter().for_each(|job: Job| job(&large));
        });
        let worker = worker.map_err(|error| fault.thread(error))?;
        Ok(Self { small: Mutex::new(small), worker, fault })
    }

    /// Reads at once a few rows that an index leads to.
    pub(super) fn small<T>(&self, read: impl FnOnce(&Connection) -> Done<T>) -> Reply<Result<T>> {
        let connection = self.small.lock().unwrap_or_else(PoisonError::into_inner);
        Reply::ready(read(&connection).unwrap_or_else(|error| Err(self.fault.reading(error))))
    }

    /// Reads what may be much, as of one moment.
    pub(super) fn large<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Done<T> + Send + 'static,
    ) -> Reply<Result<T>> {
        let (sender, receiver) = oneshot::channel();
        let fault = self.fault.clone();
        let job = move |connection: &Connection| {
            let moment = connection.unchecked_transaction();
            let done = moment.and_then(|_moment| read(connection));
            // Nobody may want to know any more.
            let _ = sender.send(done.unwrap_or_else(|error| Err(fault.reading(error))));
        };
        let fault = self.fault.clone();
        if !self.worker.send(Box::new(job)) {
            return Reply::ready(Err(fault.closed()));
        }
        Reply::later(async move { receiver.await.unwrap_or_else(|_| Err(fault.closed())) })
    }
}
