//! What becomes of definitions when the runs that name them are removed.

use futures::executor::block_on;
use stepwell::storage::{Created, Holding, NewRun, Purge, Storage};

use super::{A, load, new_run, workflow};

/// Asks how many definitions there are, and how many sub-workflows of runs.
pub(crate) type Rows<'a> = &'a dyn Fn() -> (i64, i64);

fn add(storage: &impl Storage, name: &str, of: &str, linked: &[&str], holding: Holding) {
    let linked = linked.iter().map(|name| workflow(name)).collect();
    let run = NewRun { linked, ..new_run(name, &workflow(of), holding) };
    assert!(matches!(block_on(storage.create(run)).unwrap(), Created::New));
}

/// A run that has ended.
fn end(storage: &impl Storage, name: &str, of: &str, linked: &[&str]) {
    add(storage, name, of, linked, Holding::Finished);
}

/// At most so many, and their ids are free.
fn purge(storage: &impl Storage, limit: usize) -> Vec<String> {
    let all = Purge { owner: A, before: None, keep: Some(0), workflow: None, limit };
    let runs = block_on(storage.purge(all)).unwrap();
    let names = runs.iter().map(ToString::to_string).collect();
    block_on(storage.clear(A, runs)).unwrap();
    names
}

/// Each run has a definition and a sub-workflow of its own, and another sub-workflow that all have.
pub(crate) fn none_outlives_its_runs(storage: &impl Storage, rows: Rows<'_>) {
    for number in 0..50 {
        let [name, of, own] = ["r", "w", "own"].map(|word| format!("{word}{number:02}"));
        end(storage, &name, &of, &[&own, "shared"]);
    }
    assert_eq!(rows(), (101, 100));
    assert_eq!(purge(storage, 0), [""; 0]);
    assert_eq!(rows(), (101, 100));
    for batch in 1..=7 {
        assert_eq!(purge(storage, 7).len(), 7);
        assert_eq!(rows(), (101 - 14 * batch, 100 - 14 * batch));
    }
    assert_eq!(load(storage, "r49").linked, [workflow("own49"), workflow("shared")]);
    assert_eq!(purge(storage, 7), ["r49"]);
    assert_eq!(rows(), (0, 0));
}

/// However it is named.
pub(crate) fn one_that_is_named_stays(storage: &impl Storage, rows: Rows<'_>) {
    end(storage, "old", "x", &["y", "z", "z"]);
    add(storage, "new", "y", &["x"], Holding::Held(A));
    assert_eq!(rows(), (3, 4));
    assert_eq!(purge(storage, 9), ["old"]);
    assert_eq!(rows(), (2, 1), "only `z` is gone");
    let stored = load(storage, "new");
    assert_eq!((stored.workflow, stored.linked), (workflow("y"), vec![workflow("x")]));
}

/// By whoever knew it when it was there, and by whoever did not remove it.
pub(crate) fn one_that_was_removed_is_written_again(
    one: &impl Storage,
    two: &impl Storage,
    rows: Rows<'_>,
) {
    for turn in 0..4 {
        end(one, "a", "w", &["inner"]);
        end(two, "b", "w", &["inner"]);
        assert_eq!(rows(), (2, 2));
        let purged = if turn % 2 == 0 { purge(one, 9) } else { purge(two, 9) };
        assert_eq!(purged, ["a", "b"]);
        assert_eq!(rows(), (0, 0));
        // These may have the numbers that those had.
        end(one, "c", "inner", &[&format!("v{turn}")]);
        end(two, "d", "w", &["inner"]);
        end(one, "e", "w", &["inner"]);
        assert_eq!(rows(), (3, 3));
        for name in ["d", "e"] {
            for stored in [load(one, name), load(two, name)] {
                assert_eq!(stored.workflow, workflow("w"));
                assert_eq!(stored.linked, [workflow("inner")]);
            }
        }
        let stored = load(two, "c");
        assert_eq!((stored.workflow.id(), stored.linked[0].id()), ("inner", &*format!("v{turn}")));
        assert_eq!(purge(one, 9), ["c", "d", "e"]);
    }
    assert_eq!(rows(), (0, 0));
}
