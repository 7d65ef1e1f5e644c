//! The suite of the storage contract, on the in-memory storage.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use stepwell::storage::{Memory, Storage};
use stepwell::testing::conformance::{self, StorageFactory};

/// Keeps each under its name, so that the groups `reopen` and `shared` are asked of it, too.
#[derive(Default)]
struct InMemory(Mutex<BTreeMap<String, Memory>>);

impl StorageFactory for InMemory {
    fn open(&self, name: &str) -> Arc<dyn Storage> {
        Arc::new(self.0.lock().unwrap().entry(name.to_string()).or_default().clone())
    }

    fn survives_reopen(&self) -> bool {
        true
    }

    fn is_shared(&self) -> bool {
        true
    }
}

mod memory {
    stepwell::storage_conformance!(super::InMemory::default());
}

/// Of the sequences of random operations: so many, or as many as somebody wants.
fn seeds(usual: u64) -> Range<u64> {
    0..std::env::var("STEPWELL_TEST_DIFFERENTIAL").map_or(usual, |count| count.parse().unwrap())
}

#[test]
fn random_operations_are_answered_as_the_contract_says() {
    conformance::differential(&InMemory::default(), seeds(300), 150);
}

#[test]
fn cases_have_names_of_their_own() {
    let names: BTreeSet<String> = conformance::cases().iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), conformance::cases().len());
    assert!(names.len() >= 250, "{} cases", names.len());
}

/// Each in a file of its own, in a folder that goes with the factory.
#[cfg(feature = "sqlite")]
struct InFiles(std::path::PathBuf);

#[cfg(feature = "sqlite")]
impl InFiles {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("stepwell-conformance-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

#[cfg(feature = "sqlite")]
impl Drop for InFiles {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(feature = "sqlite")]
impl StorageFactory for InFiles {
    fn open(&self, name: &str) -> Arc<dyn Storage> {
        use stepwell::storage::{SqliteOptions, Synchronous};
        // Nobody cuts the power here.
        let options = SqliteOptions::new().synchronous(Synchronous::Normal);
        Arc::new(options.open(self.0.join(name)).unwrap())
    }

    fn survives_reopen(&self) -> bool {
        true
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn forgets_owners(&self) -> bool {
        true
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    stepwell::storage_conformance!(super::InFiles::new());
}

#[cfg(feature = "sqlite")]
#[test]
fn random_operations_are_answered_by_sqlite_as_by_memory() {
    conformance::differential(&InFiles::new(), seeds(40), 120);
}

/// Engines, while programs are killed and calls fail.
mod matrix {
    use super::*;

    #[test]
    fn programs_that_are_killed_come_to_their_ends() {
        conformance::crashes(&InMemory::default(), 0..300);
    }

    #[test]
    fn whichever_call_fails_runs_come_to_their_ends() {
        conformance::failures(&InMemory::default(), 1);
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn programs_on_sqlite_that_are_killed_come_to_their_ends() {
        conformance::crashes(&InFiles::new(), 0..30);
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn whichever_call_of_sqlite_fails_runs_come_to_their_ends() {
        conformance::failures(&InFiles::new(), 10);
    }
}
