//! The layers, the sizes of files and the words of the architecture, enforced.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// From the leaf upwards; a module imports only from lines below its own, or what `BESIDE` lists.
const LAYERS: [&[&str]; 8] = [
    &["id", "time", "value", "error"],
    &["expr", "retry", "secret", "template"],
    &["workflow", "plan", "ready"],
    &["run", "journal", "queue"],
    &["storage", "executor", "runtime"],
    &["engine"],
    &[
        "storage/files",
        "storage/memory",
        "storage/postgres",
        "storage/sqlite",
        "runtime/clock",
        "runtime/host",
        "runtime/threads",
        "runtime/tokio",
        "runtime/smol",
    ],
    &["testing", "guide", "lib"],
];

/// Imports between modules of one line; together they have no circle.
const BESIDE: [(&str, &str); 14] = [
    ("error", "id"),
    ("error", "time"),
    ("error", "value"),
    ("template", "expr"),
    ("workflow", "plan"),
    ("ready", "workflow"),
    ("run", "journal"),
    ("run", "queue"),
    ("executor", "runtime"),
    ("executor", "storage"),
    ("storage/files", "storage"),
    ("storage/memory", "storage"),
    ("storage/postgres", "storage"),
    ("storage/sqlite", "storage"),
];

fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().with_extension("");
            (name.to_string_lossy().replace('\\', "/"), fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// The module that a file belongs to: itself, if it stands in the table, or the folder around it that
/// does.
fn module(file: &str) -> &str {
    match file.rsplit_once('/') {
        Some((folder, _)) if layer(file).is_none() => module(folder),
        _ => file,
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|line| line.contains(&module))
}

/// Code without tests and comments.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_module_imports_only_from_below() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        if file.ends_with("tests") || file == "engine/defaults" || file == "lib" {
            continue;
        }
        let from = module(&file);
        let own = layer(from).unwrap_or_else(|| panic!("{file} stands in no layer"));
        for part in code(&text).split("crate::").skip(1) {
            let name: String =
                part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let Some(to) = layer(&name) else { continue };
            let same = from == name || from.starts_with(&format!("{name}/"));
            if !same && to >= own && !BESIDE.contains(&(from, &name)) {
                wrong.push(format!("{file} imports {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn imports_beside_have_no_circle() {
    for (from, to) in BESIDE {
        assert!(!BESIDE.contains(&(to, from)), "{from} and {to}");
    }
}

#[test]
fn files_are_small() {
    let mut sizes: Vec<(usize, String)> =
        sources().into_iter().map(|(file, text)| (text.lines().count(), file)).collect();
    sizes.sort();
    let median = sizes[sizes.len() / 2].0;
    assert!(median < 200, "the median file has {median} lines");
    let (largest, file) = sizes.last().unwrap();
    assert!(*largest <= 800, "{file} has {largest} lines");
}

#[test]
fn the_core_has_no_clock_no_chance_and_no_async() {
    const BANNED: [&str; 9] = [
        "SystemTime",
        "Instant::",
        "rand::",
        "async fn",
        ".await",
        "std::fs",
        "std::net",
        "Utc::now",
        "thread::",
    ];
    for (file, text) in sources() {
        if layer(module(&file)).is_none_or(|layer| layer > 3) || file.ends_with("tests") {
            continue;
        }
        for word in BANNED {
            assert!(!code(&text).contains(word), "{file} mentions {word}");
        }
    }
}

#[test]
fn only_one_file_reads_the_clock() {
    for (file, text) in sources() {
        if file != "runtime/clock" {
            for word in ["SystemTime::now", "Instant::now", "Utc::now"] {
                assert!(!code(&text).contains(word), "{file} calls {word}");
            }
        }
    }
}

#[test]
fn names_are_the_fields_standard_terms() {
    const BANNED: [&str; 7] = [
        "fn process",
        "fn handle_",
        "fn manage",
        "Helper",
        "Utils",
        "struct Service",
        "DataManager",
    ];
    let mut counts = BTreeMap::new();
    for (file, text) in sources() {
        for word in BANNED {
            *counts.entry(word).or_insert(0) += code(&text).matches(word).count();
            assert!(!code(&text).contains(word), "{file}: {word}");
        }
    }
}
