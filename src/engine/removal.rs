//! Removes blobs that nothing names any more, beside the run that goes on.

use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use futures::future::{BoxFuture, Either, select};

use crate::executor::RunContext;
use crate::storage::{BLOBS_AT_ONCE, BlobStore};
use crate::value::Value;

/// How long a store may take to remove some before who holds the run gives that up: the run is not parked
/// meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// A removal, if one is under way. What it does not come to, the one after the next snapshot does.
#[derive(Default)]
pub(super) struct Removal(Option<BoxFuture<'static, ()>>);

impl Removal {
    pub(super) const fn is_under_way(&self) -> bool {
        self.0.is_some()
    }

    /// Begins, unless the last one is still under way: the snapshot that says so is stored. Steps have
    /// these values in hand, and may be about to read what they refer to.
    #[cold]
    pub(super) fn begin(&mut self, run: &Arc<RunContext>, in_hand: &[&Value]) {
        let blobs = run.facilities.blobs.clone().filter(|_| !self.is_under_way());
        let Some(blobs) = blobs else { return };
        let names = run.state().unnamed_blobs(in_hand);
        if !names.is_empty() {
            self.0 = Some(Box::pin(remove(Arc::clone(run), blobs, names)));
        }
    }

    /// Goes on; whether it is over by that.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> bool {
        let is_over = |future: &mut BoxFuture<'_, ()>| future.as_mut().poll(context).is_ready();
        self.0.take_if(is_over).is_some()
    }
}

async fn remove(run: Arc<RunContext>, blobs: Arc<dyn BlobStore>, names: Vec<String>) {
    let run_id = &run.id;
    let mut late = run.runtime().sleep(PATIENCE);
    for names in names.chunks(BLOBS_AT_ONCE) {
        match select(blobs.delete(run_id, names.to_vec()), &mut late).await {
            Either::Left((Ok(()), _)) => run.state().forget_blobs(names),
            // The run has nothing to do with it.
            Either::Left((Err(error), _)) => {
                tracing::warn!(target: "stepwell", %run_id, %error, "blobs were not removed");
                return;
            }
            Either::Right(_) => {
                tracing::warn!(target: "stepwell", %run_id, "blobs take too long to remove");
                return;
            }
        }
    }
}
