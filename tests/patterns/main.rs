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

    let backed = tests();
    for (number, row) in &rows {
        if let Some(test) = backed.get(number) {
            assert_eq!(*test, slug(&row.name), "the test of pattern {number}");
        }
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
