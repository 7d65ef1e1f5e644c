//! What the crate brings along: licences that allow everybody to use it, and no async runtime.
#![allow(clippy::unwrap_used)]

use std::process::Command;

fn tree(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--prefix", "none"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_default_features_bring_no_runtime() {
    let tree = tree(&["-e", "normal"]);
    assert!(tree.contains("futures v"));
    for runtime in ["tokio v", "smol v", "async-std v", "async-executor v", "async-io v"] {
        assert!(!tree.lines().any(|line| line.starts_with(runtime)), "{runtime}");
    }
}

#[test]
fn postgres_brings_no_tokio_unless_it_is_asked_for() {
    let alone = tree(&["-e", "normal", "--features", "postgres"]);
    assert!(alone.contains("sqlx v"));
    assert!(!alone.lines().any(|line| line.starts_with("tokio v")));
    let both = tree(&["-e", "normal", "--features", "postgres,tokio", "-f", "{p} {f}"]);
    let uses_tokio = |line: &str| line.starts_with("sqlx-core v") && line.contains("_rt-tokio");
    assert!(both.lines().any(uses_tokio), "its connections use tokio's");
}

#[test]
fn every_dependency_has_a_permissive_licence() {
    let tree = tree(&["--all-features", "-f", "{p}|{l}"]);
    let allowed = include_str!("../deny.toml");
    let allowed = allowed.lines().find(|line| line.starts_with("allow = ")).unwrap();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (package, licence) = line.split_once('|').unwrap();
        let licence = licence.trim_end_matches(" (*)").replace('/', " OR ");
        // One alternative of an OR is enough; all parts of an AND are needed.
        let fits = licence.split(" OR ").any(|alternative| {
            alternative.split(" AND ").all(|part| {
                let part = part.trim().trim_matches(['(', ')']);
                let part = part.split(" WITH ").next().unwrap();
                allowed.contains(&format!("\"{part}\""))
            })
        });
        assert!(fits, "{package}: {licence}");
    }
}
