//! Removes blobs that nothing names any more, beside the run that goes on.

use std::sync::Arc;
use std::task::Context;

use futures::future::BoxFuture;

use crate::executor::RunContext;
use crate::storage::{BLOBS_AT_ONCE, BlobStore};

/// A removal, if one is under way. What it does not come to, the one after the next snapshot does.
#[derive(Default)]
pub(super) struct Removal(Option<BoxFuture<'static, ()>>);

impl Removal {
    pub(super) const fn is_under_way(&self) -> bool {
        self.0.is_some()
    }

    /// Begins, unless the last one is still under way: the snapshot that says so is stored.
    #[cold]
    pub(super) fn begin(&mut self, run: &Arc<RunContext>) {
        let Some(blobs) = run.facilities.blobs.as_ref().filter(|_| self.0.is_none()) else {
            return;
        };
        let names = run.state().unnamed_blobs();
        if !names.is_empty() {
            self.0 = Some(Box::pin(remove(Arc::clone(run), Arc::clone(blobs), names)));
        }
    }

    /// Goes on; whether it is over by that.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> bool {
        let is_over = |future: &mut BoxFuture<'_, ()>| future.as_mut().poll(context).is_ready();
        self.0.take_if(is_over).is_some()
    }
}

async fn remove(run: Arc<RunContext>, blobs: Arc<dyn BlobStore>, names: Vec<String>) {
    for names in names.chunks(BLOBS_AT_ONCE) {
        match blobs.delete(&run.id, names.to_vec()).await {
            Ok(()) => run.state().forget_blobs(names),
            // The run has nothing to do with it.
            Err(error) => {
                let run_id = &run.id;
                tracing::warn!(target: "stepwell", %run_id, %error, "blobs were not removed");
                return;
            }
        }
    }
}
