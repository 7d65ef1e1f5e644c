//! The only place that names the default storage and runtime.

use std::sync::Arc;

use crate::runtime::{Host, Runtime};
use crate::storage::{Memory, Storage};

pub(super) fn storage() -> Arc<dyn Storage> {
    Arc::new(Memory::new())
}

/// With the feature `tokio`, an engine built inside tokio uses it unasked; [`Host`] works everywhere.
pub(super) fn runtime() -> Arc<dyn Runtime> {
    #[cfg(feature = "tokio")]
    if let Some(tokio) = crate::runtime::Tokio::current() {
        return Arc::new(tokio);
    }
    Arc::new(Host::default())
}
