//! The suite of the storage contract, on the in-memory storage.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
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

stepwell::storage_conformance!(InMemory::default());

#[test]
fn random_operations_are_answered_as_the_contract_says() {
    conformance::differential(&InMemory::default(), 0..300, 150);
}

#[test]
fn cases_have_names_of_their_own() {
    let names: BTreeSet<String> = conformance::cases().iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), conformance::cases().len());
    assert!(names.len() >= 250, "{} cases", names.len());
}
