//! Sealing what a run keeps with another key.

use std::collections::{BTreeMap, BTreeSet};

use super::{Engine, Inner};
use crate::error::{Error, ErrorKind, Result};
use crate::executor::facilities;
use crate::id::RunId;
use crate::journal::{Operation, Reason};
use crate::run::replace_sealed;
use crate::secret::{KeyProvider, SecretError, sealed_texts};
use crate::value::{Json, Value, each_reference};

impl Engine {
    /// Seals the secrets that a run keeps with the current key, also those in its blobs, so that it
    /// needs the old one no more; how many. What the journal holds from before stays as it was, and can
    /// be opened by nobody once the old key is gone. A run that has ended stays ended. Dropping the
    /// future leaves some of them resealed, and all of them good as long as both keys are there: call it
    /// again.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such run; [`ErrorKind::Configuration`] when the engine
    /// has no keys, or not the one that a secret was sealed with, or no blob store and the run has a
    /// blob; what the storage and the blob store say.
    #[cfg_attr(docsrs, doc(cfg(feature = "secrets")))]
    pub async fn reseal(&self, id: &RunId, reason: Reason) -> Result<usize> {
        let engine = &*self.0;
        let wrong = |why: String| Error::new(ErrorKind::Configuration, why).of_run(id);
        let keys = engine.facilities.keys.clone();
        let keys = keys.ok_or_else(|| wrong("the engine has no keys".into()))?;
        let (handle, revived) = self.revive(id).await?;
        let mut rotation = Rotation { engine, keys: &*keys, id, replaced: BTreeMap::new() };
        let values = handle.sealed_and_blobs();
        for value in &values {
            rotation.seal_again(value)?;
        }
        let replaced = rotation.replaced.clone();
        rotation.in_blobs(&values).await?;
        let count = rotation.replaced.len();
        if count > 0 {
            // Somebody has done so, even where the journal holds nothing of it.
            handle.operate(Operation::Reseal { replaced }, reason).await?;
        }
        revived.leave(&handle).await?;
        Ok(count)
    }
}

struct Rotation<'a> {
    engine: &'a Inner,
    keys: &'a dyn KeyProvider,
    id: &'a RunId,
    /// What stands in sealed values, and what is to stand there.
    replaced: BTreeMap<String, String>,
}

impl Rotation<'_> {
    /// Seals all that a value holds. Whether any of that is to be replaced.
    fn seal_again(&mut self, value: &Json) -> Result<bool> {
        let mut any = false;
        for old in sealed_texts(value) {
            if self.replaced.contains_key(&old) {
                any = true;
                continue;
            }
            let nonce = self.engine.facilities.nonce();
            match crate::secret::reseal(self.keys, nonce, self.id.as_str(), &old) {
                Ok(Some(new)) => {
                    self.replaced.insert(old, new);
                    any = true;
                }
                Ok(None) => {}
                Err(error @ SecretError::UnknownKey(_)) => {
                    let wrong = Error::new(ErrorKind::Configuration, error.to_string());
                    return Err(wrong.of_run(self.id));
                }
                // What only looks sealed, or was sealed for another run, came from outside, and
                // nobody can open it here.
                Err(error) => {
                    tracing::warn!(target: "stepwell", run_id = %self.id, %error, "not resealed");
                }
            }
        }
        Ok(any)
    }

    /// The same in all blobs that these values name, and in those that are named in them. A blob has its
    /// name to itself: nobody else writes it meanwhile.
    async fn in_blobs(&mut self, values: &[Value]) -> Result<()> {
        let mut left: Vec<Json> = Vec::new();
        let add = |left: &mut Vec<Json>, value: &Json| {
            each_reference(value, &mut |blob| left.push(blob.clone()));
        };
        values.iter().for_each(|value| add(&mut left, value));
        let mut seen = BTreeSet::new();
        while let Some(blob) = left.pop() {
            let Some(name) = facilities::name_of(&blob).map(str::to_owned) else { continue };
            if !seen.insert(name.clone()) {
                continue;
            }
            let Some(blobs) = &self.engine.facilities.blobs else {
                let message =
                    format!("the value `{name}` is in a blob store, and this engine has none");
                return Err(Error::new(ErrorKind::Configuration, message).of_run(self.id));
            };
            let Some(bytes) = blobs.get(self.id, &name).await? else {
                tracing::warn!(target: "stepwell", run_id = %self.id, name, "the blob is gone");
                continue;
            };
            let Ok(mut value) = serde_json::from_slice::<Json>(&bytes) else {
                tracing::warn!(target: "stepwell", run_id = %self.id, name, "the blob is damaged");
                continue;
            };
            add(&mut left, &value);
            if self.seal_again(&value)? {
                replace_sealed(&mut value, &self.replaced);
                blobs.put(self.id, &name, value.to_string().into_bytes()).await?;
            }
        }
        Ok(())
    }
}
