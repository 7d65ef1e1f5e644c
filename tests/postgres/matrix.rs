//! Engines, while programs are killed and calls fail.

use super::*;

#[test]
fn programs_that_are_killed_come_to_their_ends() {
    conformance::crashes(&InSchemas::new(), 0..10);
}

#[test]
fn whichever_call_fails_runs_come_to_their_ends() {
    conformance::failures(&InSchemas::new(), 20);
}
