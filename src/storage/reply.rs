//! An answer that may be there already.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;

/// An answer: there already, or a future.
///
/// A storage in memory answers at once; boxing a future for that would cost more than the answer.
pub enum Reply<T> {
    /// Here it is; none once it was taken.
    Ready(Option<T>),
    /// It will come.
    Later(BoxFuture<'static, T>),
}

impl<T> Reply<T> {
    /// An answer that is there.
    pub const fn ready(answer: T) -> Self {
        Self::Ready(Some(answer))
    }

    /// An answer that will come.
    pub fn later(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }
}

impl<T: Unpin> Future for Reply<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match &mut *self {
            // Polling again after the answer is against the contract of futures; it waits for ever.
            Self::Ready(answer) => answer.take().map_or(Poll::Pending, Poll::Ready),
            Self::Later(future) => future.as_mut().poll(context),
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(_) => "Reply::Ready",
            Self::Later(_) => "Reply::Later",
        })
    }
}
