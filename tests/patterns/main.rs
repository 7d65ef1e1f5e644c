//! The 43 control-flow patterns of the Workflow Patterns Initiative: one test for each that the guide
//! claims, named after its number, and one that holds the guide's table against these tests.
//!
//! Each test shows what sets its pattern apart from its neighbours, in virtual time: seconds at which
//! work began and ended.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod branches;
mod instances;
mod joins;
mod states;
mod world;

use std::collections::BTreeMap;

const SOURCES: [&str; 4] = [
    include_str!("branches.rs"),
    include_str!("instances.rs"),
    include_str!("joins.rs"),
    include_str!("states.rs"),
];
const GUIDE: &str = include_str!("../../src/guide/patterns.md");

/// Claimed patterns whose tests are still to be written, and what those are to show.
const PENDING: [(u32, &str); 5] = [
    (
        15,
        "While two instances run, a change of the live run puts a third beside them and among what \
         `next` waits for. `next` begins once, when all three have ended.",
    ),
    (
        17,
        "Three steps share a lock, and one comes after another. Each runs once, no two overlap, the \
         partial order is kept, and the free one may run between the other two.",
    ),
    (
        25,
        "One command cancels a step that runs, one that waits and one not reached yet, in branches \
         that have nothing to do with each other. All else goes on, and the run ends by itself.",
    ),
    (
        39,
        "Two composite steps in different branches hold one lock. The first step inside the second \
         begins only after the last step inside the first has ended; steps outside go on meanwhile.",
    ),
    (
        40,
        "Four steps share a lock and have no order. Each runs once, no two overlap, the step after \
         them begins when the last has ended.",
    ),
];

/// A row of the guide's table.
struct Row {
    name: String,
    claimed: bool,
    how: String,
}

fn rows() -> BTreeMap<u32, Row> {
    let mut rows = BTreeMap::new();
    for line in GUIDE.lines() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let Some(number) = cells[0].parse::<u32>().ok() else { continue };
        let [_, name, claimed, how] = cells[..] else {
            panic!("pattern {number} is no row: {line}")
        };
        let claimed = match claimed {
            "yes" => true,
            "no" => false,
            other => panic!("pattern {number} is claimed `{other}`"),
        };
        let row = Row { name: name.into(), claimed, how: how.into() };
        assert!(rows.insert(number, row).is_none(), "pattern {number} has two rows");
    }
    rows
}

/// The names of all test functions of patterns, by number.
fn tests() -> BTreeMap<u32, String> {
    let mut tests = BTreeMap::new();
    for source in SOURCES {
        let lines: Vec<&str> = source.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some(rest) = line.strip_prefix("fn wcp_") else { continue };
            assert_eq!(lines[at - 1], "#[test]", "{line}");
            let (number, name) = rest.split_once('_').unwrap();
            let name = name.split_once("()").unwrap().0;
            assert!(tests.insert(number.parse().unwrap(), name.into()).is_none(), "{line}");
        }
    }
    tests
}

/// `Multi-Choice` as `multi_choice`.
fn slug(name: &str) -> String {
    name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

#[test]
fn the_guide_claims_what_is_tested() {
    let rows = rows();
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), (1..=43).collect::<Vec<_>>());

    let mut backed = tests();
    for (number, row) in &rows {
        if let Some(test) = backed.get(number) {
            assert_eq!(*test, slug(&row.name), "the test of pattern {number}");
        }
    }
    for (number, what) in PENDING {
        assert!(backed.insert(number, what.into()).is_none(), "{number} is tested, not pending");
    }
    let claimed: Vec<u32> =
        rows.iter().filter(|(_, row)| row.claimed).map(|(number, _)| *number).collect();
    assert_eq!(claimed, backed.into_keys().collect::<Vec<_>>());
    assert!(claimed.len() >= 35, "only {} are claimed", claimed.len());

    for (number, row) in &rows {
        // A sentence, be it how or why not.
        let sentence = row.how.ends_with('.') && row.how.split_whitespace().count() >= 6;
        assert!(sentence, "pattern {number} says too little: {}", row.how);
    }
}
