//! Where values that are too large for a journal go: the port, and the in-memory default.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use super::Reply;
use crate::error::{Error, ErrorKind, Result};
use crate::id::RunId;

/// Keeps bytes by run and name.
///
/// A journal says that there is a blob only after `put` said `Ok`; what a crash leaves behind without
/// that is found by nobody and goes with its run.
///
/// # Contract
/// - Any name of up to [`BLOB_NAME_BYTES_MAX`] bytes is good: names and run ids that differ in
///   anything, be it in case, are different blobs, and none reaches outside the store.
/// - `put` is all or nothing, even across a crash: a later `get` gives either the bytes of before or
///   the new ones. The same name again replaces.
/// - After `Ok`, the bytes outlast whatever the store says that it outlasts.
/// - `get` gives none when there is nothing, not an error.
/// - `delete` removes these of a run, and no others; it is fine if some are not there. If it fails, some of
///   them may be gone.
/// - `delete_run` removes all of a run, and nothing of other runs; it is fine if there is nothing.
pub trait BlobStore: Send + Sync + fmt::Debug + 'static {
    /// Keeps these bytes under this name. Fails with `LimitExceeded` if the name is too long.
    fn put(&self, run: &RunId, name: &str, bytes: Vec<u8>) -> Reply<Result<()>>;

    /// The bytes of this name; none when there are none.
    fn get(&self, run: &RunId, name: &str) -> Reply<Result<Option<Vec<u8>>>>;

    /// Forgets these of a run, at most [`BLOBS_AT_ONCE`].
    fn delete(&self, run: &RunId, names: Vec<String>) -> Reply<Result<()>>;

    /// Forgets everything of a run.
    fn delete_run(&self, run: &RunId) -> Reply<Result<()>>;
}

/// Longest name of a blob, in bytes: as a path of hexadecimal digits it still fits everywhere.
pub const BLOB_NAME_BYTES_MAX: usize = 1_000;

/// How many blobs an engine deletes with one call, at most: as many as object stores take.
pub const BLOBS_AT_ONCE: usize = 1_000;

pub(super) fn check_name(run: &RunId, name: &str) -> Result<()> {
    if name.len() <= BLOB_NAME_BYTES_MAX {
        return Ok(());
    }
    let message =
        format!("a blob's name of {} bytes is too long (limit {BLOB_NAME_BYTES_MAX})", name.len());
    Err(Error::new(ErrorKind::LimitExceeded, message).of_run(run))
}

/// Blobs that last as long as the process. Clones share them.
///
/// ```
/// use futures::executor::block_on;
/// use stepwell::RunId;
/// use stepwell::storage::{BlobStore, MemoryBlobs};
///
/// let blobs = MemoryBlobs::new();
/// let run = RunId::new("order-4711")?;
/// block_on(blobs.put(&run, "invoice", b"...".to_vec()))?;
/// assert_eq!(block_on(blobs.get(&run, "invoice"))?.as_deref(), Some(&b"..."[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct MemoryBlobs(Arc<Mutex<Runs>>);

type Runs = FxHashMap<RunId, BTreeMap<String, Vec<u8>>>;

impl MemoryBlobs {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn runs(&self) -> MutexGuard<'_, Runs> {
        // Every change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlobStore for MemoryBlobs {
    fn put(&self, run: &RunId, name: &str, bytes: Vec<u8>) -> Reply<Result<()>> {
        let kept = check_name(run, name)
            .map(|()| drop(self.runs().entry(run.clone()).or_default().insert(name.into(), bytes)));
        Reply::ready(kept)
    }

    fn get(&self, run: &RunId, name: &str) -> Reply<Result<Option<Vec<u8>>>> {
        Reply::ready(Ok(self.runs().get(run).and_then(|blobs| blobs.get(name)).cloned()))
    }

    fn delete(&self, run: &RunId, names: Vec<String>) -> Reply<Result<()>> {
        if let Some(blobs) = self.runs().get_mut(run) {
            names.iter().for_each(|name| drop(blobs.remove(name)));
        }
        Reply::ready(Ok(()))
    }

    fn delete_run(&self, run: &RunId) -> Reply<Result<()>> {
        self.runs().remove(run);
        Reply::ready(Ok(()))
    }
}

impl fmt::Debug for MemoryBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryBlobs({} runs)", self.runs().len())
    }
}
