//! Nothing that is awaited is left out: what the sources declare is compared with what is dropped here.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::scenarios::SCENARIOS;
use super::{steps, storages};

/// `Type::name` of every public function that is `async`, gives a future or a stream, or a `Reply` by a
/// trait.
fn awaited() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    look(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found
}

fn look(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            look(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            declared(&fs::read_to_string(&path).unwrap(), found);
        }
    }
}

fn declared(source: &str, found: &mut BTreeSet<String>) {
    let (mut owner, mut of_trait) = (String::new(), false);
    // A signature may take several lines; it ends with its body, or a semicolon.
    let mut open = String::new();
    for line in source.lines() {
        if line.starts_with("impl") || line.starts_with("pub trait ") {
            of_trait = line.starts_with("pub trait ");
            owner = owner_of(line);
        }
        let text = line.trim();
        let begins = text.starts_with("pub async fn ")
            || text.starts_with("pub fn ")
            || of_trait && (text.starts_with("fn ") || text.starts_with("async fn "));
        if begins || !open.is_empty() {
            open.push_str(text);
            open.push(' ');
        }
        if text.ends_with('{') || text.ends_with(';') || text.ends_with('}') {
            let signature = std::mem::take(&mut open);
            let result = signature.rsplit_once("->").map_or("", |(_, result)| result.trim());
            let is_awaited = signature.contains("async fn ")
                || ["Reply<", "impl Future", "BoxFuture"].iter().any(|way| result.starts_with(way))
                || ["impl Stream", "BoxStream"].iter().any(|way| result.contains(way));
            if is_awaited {
                found.insert(format!("{owner}::{}", name_of(&signature)));
            }
        }
    }
}

fn owner_of(line: &str) -> String {
    let head = line.trim_start_matches("pub trait ").trim_start_matches("impl");
    // Without its parameters, as in `impl<T> Reply<T>`.
    let head = match head.starts_with('<') {
        true => head.split_once("> ").map_or(head, |(_, rest)| rest),
        false => head,
    };
    let head = head.split(" for ").last().unwrap_or(head).trim();
    head.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn name_of(signature: &str) -> String {
    let (_, rest) = signature.split_once("fn ").unwrap();
    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Ports that the host brings, with nothing of stepwell's in them.
const PORTS: [&str; 7] = [
    "AiModel::complete",
    "Runtime::sleep",
    "Runtime::sleep_until",
    "StepExecutor::attempt",
    "StepExecutor::execute",
    "StepExecutor::post_execute",
    "StepExecutor::pre_execute",
];

/// Dropped where there is a server, in `tests/postgres/dropped.rs`.
const WITH_A_SERVER: [&str; 5] = [
    "Postgres::connect",
    "Postgres::migrate",
    "Postgres::with_pool",
    "PostgresOptions::connect",
    "PostgresOptions::with_pool",
];

#[test]
fn everything_that_is_awaited_is_dropped_here() {
    let mut dropped: BTreeSet<String> = BTreeSet::from(PORTS.map(str::to_string));
    dropped.extend(WITH_A_SERVER.map(str::to_string));
    dropped.extend(SCENARIOS.iter().map(|scenario| scenario.of.to_string()));
    dropped.extend(steps::FUNCTIONS.map(str::to_string));
    dropped.extend(storages::FUNCTIONS.map(str::to_string));
    #[cfg(not(feature = "secrets"))]
    dropped.insert("Engine::reseal".into());
    let declared = awaited();
    let missing: Vec<&String> = declared.difference(&dropped).collect();
    assert!(missing.is_empty(), "no scenario drops {missing:?}: add one to `scenarios.rs`");
    let gone: Vec<&String> = dropped.difference(&declared).collect();
    assert!(gone.is_empty(), "{gone:?} are declared nowhere");
}

#[test]
fn functions_are_found_however_they_are_written() {
    let source = "impl Engine {\n    pub async fn a(&self) {}\n    pub async fn b(\n        &self,\n    \
                  ) -> Result<()>\n    {\n    }\n    pub fn c(&self) -> impl Future<Output = ()> {\n    \
                  }\n    pub fn d(&self) -> u32 { 1 }\n    async fn e() {}\n    pub fn s(&self) -> Result<impl Stream<Item = ()>> {\n    }\n}\npub trait T {\n    fn \
                  f(&self) -> Reply<()>;\n    fn g(&self);\n    async \
                  fn i(&self);\n}\nimpl<T> X<T> {\n    pub async fn h() \
                  {}\n}\n";
    let mut found = BTreeSet::new();
    declared(source, &mut found);
    let names: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(names, ["Engine::a", "Engine::b", "Engine::c", "Engine::s", "T::f", "T::i", "X::h"]);
}
