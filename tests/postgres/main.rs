//! The storage in a PostgreSQL database, on a real server.
#![cfg(all(feature = "postgres", feature = "testing"))]
#![allow(clippy::unwrap_used, clippy::panic)]

mod dropped;
mod engines;
mod matrix;
#[path = "../dropped/polled.rs"]
mod polled;
mod pooler;
mod proxy;
mod purging;
mod queries;
#[path = "../runs/mod.rs"]
mod runs;
#[cfg(any(feature = "smol", feature = "tokio"))]
mod runtimes;
mod schemas;
mod server;
mod shared;
mod together;
mod writes;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::executor::block_on;
use runs::*;
use server::{Server, server};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use stepwell::journal::{Recorded, Signal};
use stepwell::storage::{
    Beat, Claim, Commit, Created, Holding, Memory, Message, NewRun, Owner, Postgres,
    PostgresOptions, Storage,
};
use stepwell::testing::conformance::{self, StorageFactory};
use stepwell::{
    Engine, Event, Outcome, Result, RunId, RunStatus, Step, StepKey, Value, Workflow, executor_fn,
};

const B: Owner = Owner(u128::MAX);

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
        // Where there is no server, that has been said, and something else has to pass.
        let Some(server) = server() else { return Arc::new(Memory::new()) };
        // The names of seeds differ at their ends.
        let end = name.len().saturating_sub(40);
        let name = format!("{}_{}", self.prefix, &name[end..]);
        let mut options = PostgresOptions::new().schema(&name).connections(5);
        let mut url = server.url();
        if self.pooled {
            options = options.behind_a_pooler();
            url = pooler::url().unwrap();
        }
        // Tables of hosts, as those that the cases make, are where the connections look.
        url.push_str(&format!("&options[search_path]={name}_host"));
        let storage = block_on(options.connect(&url)).unwrap();
        if self.migrated.lock().unwrap().insert(name.clone()) {
            sql(server, &format!("CREATE SCHEMA \"{name}_host\""));
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

#[test]
fn random_operations_are_answered_by_postgres_as_by_memory() {
    let sequences = std::env::var("STEPWELL_TEST_DIFFERENTIAL");
    let sequences = sequences.map_or(20, |count| count.parse().unwrap());
    conformance::differential(&InSchemas::new(), 0..sequences, 100);
}

/// A storage in a schema of its own, and the name of that.
fn opened(name: &str) -> Option<(Postgres, String)> {
    let schema = fresh(name);
    let options = PostgresOptions::new().schema(&schema);
    let storage = block_on(options.connect(&server()?.url())).unwrap();
    block_on(storage.migrate()).unwrap();
    Some((storage, schema))
}

/// Rows as text, which differ from those of a prepared statement.
fn raw(server: &Server, text: &str) -> Vec<PgRow> {
    block_on(async {
        let mut connection =
            <PgConnection as sqlx::Connection>::connect(&server.url()).await.unwrap();
        let text = AssertSqlSafe(text.to_owned());
        sqlx::raw_sql(text).fetch_all(&mut connection).await.unwrap()
    })
}

fn sql(server: &Server, text: &str) {
    raw(server, text);
}

fn rows(server: &Server, text: &str) -> Vec<PgRow> {
    block_on(async {
        let mut connection =
            <PgConnection as sqlx::Connection>::connect(&server.url()).await.unwrap();
        sqlx::query(AssertSqlSafe(text.to_owned())).fetch_all(&mut connection).await.unwrap()
    })
}

fn number(server: &Server, text: &str) -> i64 {
    rows(server, text)[0].get(0)
}

/// Waits for what another thread or the server does.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    assert!((0..10_000).any(|_| is_so()), "in vain: {what}");
}

fn started() -> Recorded {
    started_with("ä \"quoted\" {} \0")
}
