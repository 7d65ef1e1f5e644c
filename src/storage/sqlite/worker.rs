//! Threads that do what they are sent, and end with whoever sends.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, Builder, JoinHandle};

/// A thread and the way to send something to it. Dropping it waits until all that was sent is done.
pub(super) struct Worker<J> {
    queue: Option<Sender<J>>,
    thread: Option<JoinHandle<()>>,
}

impl<J: Send + 'static> Worker<J> {
    pub(super) fn spawn(
        name: &str,
        work: impl FnOnce(Receiver<J>) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let thread = Builder::new().name(name.to_owned()).spawn(move || work(receiver))?;
        Ok(Self { queue: Some(sender), thread: Some(thread) })
    }

    /// Whether it was sent; not when the thread has ended.
    pub(super) fn send(&self, job: J) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.send(job).is_ok())
    }
}

impl<J> Drop for Worker<J> {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            // Whoever hears an answer may drop the last of what it came from.
            && thread.thread().id() != thread::current().id()
        {
            // It does not panic; if it did, there would be nothing to do about it here.
            let _ = thread.join();
        }
    }
}
