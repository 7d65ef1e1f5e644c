//! What steps reach through their run: keys for secrets, a store for large values.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde_json::json;

use crate::error::{ErrorClass, StepError};
use crate::id::RunId;
use crate::runtime::Runtime;
#[cfg(feature = "secrets")]
use crate::secret::KeyProvider;
use crate::storage::BlobStore;
use crate::value::{BLOB, HOLDS, Json, Value, each_blob, each_reference, is_blob};

/// What an engine gives the steps of all its runs.
#[derive(Clone)]
pub(crate) struct Facilities {
    pub(crate) runtime: Arc<dyn Runtime>,
    #[cfg(feature = "secrets")]
    pub(crate) keys: Option<Arc<dyn KeyProvider>>,
    pub(crate) blobs: Option<Arc<dyn BlobStore>>,
    /// Outputs of more bytes than this go to the store.
    pub(crate) spill_over: usize,
    /// Whether steps can write into the engine's storage.
    pub(crate) takes_writes: bool,
}

impl Facilities {
    /// A random nonce.
    #[cfg(feature = "secrets")]
    pub(crate) fn nonce(&self) -> [u8; 24] {
        let mut nonce = [0; 24];
        for part in nonce.chunks_exact_mut(8) {
            part.copy_from_slice(&self.runtime.random().to_le_bytes());
        }
        nonce
    }

    /// Puts a value of more than so many bytes into the store, if there is one; what stands for it in
    /// the journal.
    pub(crate) async fn spill(
        &self,
        run: &RunId,
        name: &str,
        value: Value,
        most: usize,
    ) -> Result<Value, StepError> {
        let Some(blobs) = self.blobs.as_ref().filter(|_| value.bytes() > most) else {
            return Ok(value);
        };
        let bytes = serde_json::to_vec(&*value)?;
        let mut reference = json!({"name": name, "bytes": bytes.len()});
        // Nobody sees from outside what is needed as long as this is.
        let mut inner = BTreeSet::new();
        each_blob(&value, &mut |name, _| {
            inner.insert(name);
        });
        if !inner.is_empty() {
            reference[HOLDS] = json!(inner);
        }
        let stored = blobs.put(run, name, bytes).await;
        stored.map_err(|error| unwell(&error))?;
        Ok(json!({ BLOB: reference }).into())
    }

    /// A value as it was before it went to the store; others come back as they are.
    pub(crate) async fn load(&self, run: &RunId, value: &Json) -> Result<Json, StepError> {
        let Some(name) = name_of(value) else { return Ok(value.clone()) };
        let Some(blobs) = &self.blobs else {
            let message =
                format!("the value `{name}` is in a blob store, and this engine has none");
            return Err(StepError::new(ErrorClass::Configuration, message));
        };
        let bytes = blobs.get(run, name).await.map_err(|error| unwell(&error))?;
        let gone = || StepError::fatal(format!("the value `{name}` is gone from the blob store"));
        Ok(serde_json::from_slice(&bytes.ok_or_else(gone)?)?)
    }

    /// The inputs of a step with all values that are in the store, wherever in them; none if there are
    /// no such.
    pub(crate) async fn load_inputs(
        &self,
        run: &RunId,
        inputs: &Json,
    ) -> Result<Option<Value>, StepError> {
        let mut names = Vec::new();
        each_reference(inputs, &mut |blob| names.push(blob.clone()));
        if names.is_empty() {
            return Ok(None);
        }
        let mut loaded = Vec::with_capacity(names.len());
        for blob in &names {
            loaded.push(self.load(run, blob).await?);
        }
        let mut all = inputs.clone();
        let mut loaded = loaded.into_iter();
        put_back(&mut all, &mut loaded);
        Ok(Some(all.into()))
    }
}

/// The name of what a value refers to, if it does that.
pub(crate) fn name_of(value: &Json) -> Option<&str> {
    let blob = value.get(BLOB).filter(|_| is_blob(value))?;
    Some(blob.get("name")?.as_str().unwrap_or_default())
}

/// Replaces every reference in a value, in the same order.
fn put_back(value: &mut Json, loaded: &mut impl Iterator<Item = Json>) {
    match value {
        blob if is_blob(blob) => *blob = loaded.next().unwrap_or_default(),
        Json::Array(items) => items.iter_mut().for_each(|item| put_back(item, loaded)),
        Json::Object(fields) => fields.values_mut().for_each(|field| put_back(field, loaded)),
        _ => {}
    }
}

/// A store that is not well may be so later.
fn unwell(error: &crate::error::Error) -> StepError {
    if error.kind() == crate::error::ErrorKind::LimitExceeded {
        return StepError::fatal(format!("the blob store: {error}"));
    }
    StepError::retryable(format!("the blob store: {error}"))
}

impl fmt::Debug for Facilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facilities")
            .field("runtime", &self.runtime)
            .field("blobs", &self.blobs)
            .finish_non_exhaustive()
    }
}
