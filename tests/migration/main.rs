//! Versions of definitions: which one a run has, and how a live run goes over to another.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod engines;
mod following;
mod states;
mod versions;

use std::time::Duration;

use futures::future::select;
use stepwell::journal::Reason;
use stepwell::{Engine, RunHandle, Step, Workflow};

const SECOND: Duration = Duration::from_secs(1);

fn reason() -> Reason {
    Reason::new("ann", "version 2")
}

/// The workflow `w`.
fn flow(version: u32, steps: impl IntoIterator<Item = Step>) -> Workflow {
    Workflow::builder("w").version(version).steps(steps).build().unwrap()
}

/// Drives a run for a while, until nothing moves but time.
async fn drive(engine: &Engine, handle: &RunHandle, length: Duration) {
    let nap = engine.runtime().sleep_until(engine.runtime().now() + length);
    select(Box::pin(handle.outcome()), nap).await;
}
