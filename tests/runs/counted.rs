//! What is left of runs that were removed: how many they were.

use std::collections::BTreeMap;

use futures::executor::block_on;
use stepwell::storage::{Holding, Purge, Storage};

use super::{A, id, new_run, workflow};

/// Asks for the runs that there are, and for how many of which workflow were removed.
pub(crate) type Counts<'a> = &'a dyn Fn() -> (i64, BTreeMap<String, i64>);

/// Whatever is removed, in whatever batches, all that there has ever been is accounted for.
pub(crate) fn none_is_unaccounted_for(storage: &impl Storage, counts: Counts<'_>) {
    let purge = |of: &str, limit: usize| {
        let (keep, workflow) = (Some(1), Some(of.to_owned()));
        block_on(storage.purge(Purge { owner: A, before: None, keep, workflow, limit })).unwrap()
    };
    let all = |removed: &[(&str, i64)]| {
        let (runs, counted) = counts();
        let removed = removed.iter().map(|(workflow, runs)| (workflow.to_string(), *runs));
        assert_eq!(counted, removed.collect());
        assert_eq!(runs + counted.values().sum::<i64>(), 10);
    };
    for number in 0..10 {
        let name = if number < 6 { "often" } else { "seldom" };
        let run = new_run(&format!("r{number}"), &workflow(name), Holding::Finished);
        block_on(storage.create(run)).unwrap();
    }
    all(&[]);
    assert_eq!(purge("often", 2).len(), 2);
    all(&[("often", 2)]);
    // Those that nobody has cleared are named again, and were counted.
    purge("often", 2);
    let named = purge("often", 100);
    assert!(named.contains(&id("r0")));
    all(&[("often", 5)]);
    block_on(storage.clear(A, named)).unwrap();
    assert!(purge("often", 100).is_empty());
    assert_eq!(purge("seldom", 100).len(), 3);
    all(&[("often", 5), ("seldom", 3)]);
}
