//! The storage in a PostgreSQL database, on a real server.
#![cfg(all(feature = "postgres", feature = "testing"))]
#![allow(clippy::unwrap_used)]

mod server;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use futures::executor::block_on;
use server::server;
use stepwell::storage::{Memory, PostgresOptions, Storage};
use stepwell::testing::conformance::{self, StorageFactory};

/// The name of a schema that nobody else has.
fn fresh(name: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name: String = name.chars().take(50).collect();
    format!("{name}_{number}")
}

/// Each in a schema of its own.
struct InSchemas {
    prefix: String,
    pooled: bool,
    migrated: Mutex<BTreeSet<String>>,
}

impl InSchemas {
    fn new() -> Self {
        Self { prefix: fresh("s"), pooled: false, migrated: Mutex::default() }
    }

    fn pooled() -> Self {
        Self { pooled: true, ..Self::new() }
    }
}

impl StorageFactory for InSchemas {
    fn open(&self, name: &str) -> Arc<dyn Storage> {
        let Some(server) = server() else { return Arc::new(Memory::new()) };
        let name: String = format!("{}_{name}", self.prefix).chars().take(60).collect();
        let mut options = PostgresOptions::new().schema(&name);
        if self.pooled {
            options = options.behind_a_pooler();
        }
        let storage = block_on(options.connect(&server.url())).unwrap();
        if self.migrated.lock().unwrap().insert(name) {
            block_on(storage.migrate()).unwrap();
        }
        Arc::new(storage)
    }

    fn survives_reopen(&self) -> bool {
        server().is_some()
    }

    fn is_shared(&self) -> bool {
        server().is_some()
    }
}

mod contract {
    stepwell::storage_conformance!(super::InSchemas::new());
}

mod contract_behind_a_pooler {
    stepwell::storage_conformance!(super::InSchemas::pooled());
}

#[test]
fn random_operations_are_answered_by_postgres_as_by_memory() {
    conformance::differential(&InSchemas::new(), 0..20, 100);
}
