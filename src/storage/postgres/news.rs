//! Hints that somebody has put something there: `NOTIFY`, heard on a connection of its own.
//!
//! They may be lost, with the connection or before there is one, so that they only make what polling
//! finds anyway be found sooner.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use futures_timer::Delay;
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{Acquire, Connection};

use super::access::{Access, within};
use crate::storage::Owner;

/// How long it takes until somebody listens again after the connection was lost.
const LISTENS_AGAIN: Duration = Duration::from_secs(5);

/// What is said to one owner, or to everybody.
pub(super) fn news(access: Arc<Access>, owner: Owner) -> BoxStream<'static, ()> {
    if access.sql.is_pooled() {
        // A session that one may listen on is not to be had.
        return stream::pending().boxed();
    }
    stream::unfold(None, move |listener| {
        let access = Arc::clone(&access);
        async move { Some(((), Some(next(&access, listener, owner).await))) }
    })
    .boxed()
}

/// Waits for the next word, or until somebody listens again: something may have been missed.
async fn next(access: &Access, listener: Option<PgListener>, owner: Owner) -> PgListener {
    if let Some(mut listener) = listener {
        if hears(access, &mut listener, owner).await {
            return listener;
        }
        drop(listener);
        Delay::new(LISTENS_AGAIN).await;
    }
    loop {
        match within(access.patience, listen(access)).await {
            Some(Ok(listener)) => return listener,
            Some(Err(error)) => {
                tracing::debug!(target: "stepwell", error = %access.fault.of(&error), "nobody listens");
            }
            None => {
                tracing::debug!(target: "stepwell", "the server does not let this engine listen")
            }
        }
        Delay::new(LISTENS_AGAIN).await;
    }
}

/// Whether there is a word, before the connection is lost.
async fn hears(access: &Access, listener: &mut PgListener, owner: Owner) -> bool {
    loop {
        match within(access.patience, listener.try_recv()).await {
            Some(Ok(Some(word))) if is_for(owner, word.payload()) => {
                // What is there already is looked for together.
                while let Some(_heard) = listener.next_buffered() {}
                return true;
            }
            Some(Ok(Some(_))) => {}
            // It may listen again, or not.
            Some(Ok(None) | Err(_)) => return false,
            // A network that has forgotten the connection says nothing either.
            None => match within(access.patience, is_alive(listener)).await {
                Some(Ok(())) => {}
                Some(Err(_)) | None => return false,
            },
        }
    }
}

async fn is_alive(listener: &mut PgListener) -> sqlx::Result<()> {
    listener.acquire().await?.ping().await
}

/// Not one of the pool's connections: a host may have given it only a few.
async fn listen(access: &Access) -> sqlx::Result<PgListener> {
    let options = (*access.pool.connect_options()).clone();
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
    let mut listener = PgListener::connect_with(&pool).await?;
    // Who hears that the connection is lost listens anew.
    listener.eager_reconnect(false);
    listener.listen(access.sql.name()).await?;
    Ok(listener)
}

fn is_for(owner: Owner, word: &str) -> bool {
    word.is_empty() || word.parse().is_ok_and(|to: uuid::Uuid| to.as_u128() == owner.0)
}
