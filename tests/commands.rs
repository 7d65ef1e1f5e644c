//! The commands in the guide are of tests that there are.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of each test program.
fn programs() -> BTreeMap<String, String> {
    let mut programs = BTreeMap::new();
    for entry in std::fs::read_dir(here("tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        if path.is_dir() && path.join("main.rs").exists() {
            programs.insert(name, all_of(&path));
        } else if path.is_file() {
            programs.insert(name, std::fs::read_to_string(path).unwrap_or_default());
        }
    }
    programs
}

fn all_of(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &all_of(&path);
        } else {
            // A module can be meant, too.
            text += &format!("\nmod {}\n", path.file_stem().unwrap().to_str().unwrap());
            text += &std::fs::read_to_string(path).unwrap_or_default();
        }
    }
    text
}

/// What stands between back quotes, if it is a command or sets a variable.
fn commands(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let quoted = text.split('`').skip(1).step_by(2).filter(|quoted| !quoted.contains('\n'));
    let words = quoted.map(|quoted| quoted.split_whitespace().collect::<Vec<_>>());
    words.filter(|words| {
        let sets =
            |word: &&str| word.contains('=') && word.starts_with(|c: char| c.is_ascii_uppercase());
        words.starts_with(&["cargo", "test"]) || words.first().is_some_and(sets)
    })
}

#[test]
fn each_command_about_tests_means_some_that_there_are() {
    let text = std::fs::read_to_string(here("src/guide/durability.md")).unwrap();
    let manifest = std::fs::read_to_string(here("Cargo.toml")).unwrap();
    let programs = programs();
    let mut count = 0;
    for words in commands(&text) {
        count += 1;
        let after = |flag| words.iter().skip_while(|word| **word != flag).nth(1).copied();
        if let Some(name) = after("--test") {
            let program = programs.get(name).unwrap_or_else(|| panic!("{words:?}: no test {name}"));
            let filter = words.iter().skip_while(|word| **word != "--test").nth(2);
            for part in filter.into_iter().flat_map(|filter| filter.split("::")) {
                let is_there = [format!("fn {part}"), format!("mod {part}")];
                assert!(is_there.iter().any(|it| program.contains(it)), "{words:?}: no {part}");
            }
        }
        for feature in after("--features").into_iter().flat_map(|features| features.split(',')) {
            assert!(manifest.contains(&format!("\n{feature} = [")), "{words:?}: no {feature}");
        }
        for (variable, _) in words.iter().filter_map(|word| word.split_once('=')) {
            let quoted = format!("\"{variable}\"");
            assert!(programs.values().any(|text| text.contains(&quoted)), "no {variable}");
        }
    }
    assert!(count > 30, "{count} commands");
}
