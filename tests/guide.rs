//! The documents in the guide and in the README are read as they stand there.
#![cfg(all(feature = "yaml", feature = "template"))]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

use stepwell::Workflow;

/// A document in a text, and the line that it begins in.
#[derive(Debug, PartialEq)]
struct Block {
    line: usize,
    yaml: String,
}

/// Every block of YAML. One that is only a list of steps is put into a workflow; what that has besides
/// stands in a comment before the block, which nobody sees:
///
/// ```text
/// <!-- around
/// variables: {total: {type: number}}
/// steps:
///   - {id: ticket, task: mail}
/// -->
/// ```
fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut around = String::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let line = line.trim();
        if line == "<!-- around" {
            around = until(&mut lines, "-->");
        } else if let Some(language) = line.strip_prefix("```") {
            let body = until(&mut lines, "```");
            if language.starts_with("yaml") || language.starts_with("yml") {
                let yaml = if body.starts_with("- ") { steps(&around, &body) } else { body };
                found.push(Block { line: at + 1, yaml });
            }
            around.clear();
        }
    }
    found
}

fn until<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>, end: &str) -> String {
    let inside = lines.map(|(_, line)| line).take_while(|line| line.trim() != end);
    inside.flat_map(|line| [line, "\n"]).collect()
}

fn steps(around: &str, body: &str) -> String {
    let head = if around.contains("steps:\n") { "" } else { "steps:\n" };
    let body: String = body.lines().map(|line| format!("  {line}\n")).collect();
    format!("id: guide\n{around}{head}{body}")
}

fn texts() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let chapters = std::fs::read_dir(root.join("src/guide")).unwrap();
    let mut found: Vec<_> = chapters.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    found.push(root.join("README.md"));
    found.sort();
    found
}

#[test]
fn every_document_builds() {
    let (mut wrong, mut count) = (String::new(), 0);
    for path in texts() {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy();
        for Block { line, yaml } in blocks(&text) {
            count += 1;
            if let Err(error) = Workflow::from_yaml(&yaml) {
                wrong += &format!("{name}, line {line}: {error}\n{yaml}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(count >= 7, "only {count} documents were found");
}

#[test]
fn what_is_a_list_of_steps_is_put_into_a_workflow() {
    let text = "a\n```yaml\nid: w\n```\n```\nlet code = \"- \";\n```\n\n<!-- around\nvariables: {v: {}}\n\
                steps:\n  - {id: z, task: t}\n-->\n```yaml\n- id: a\n  task: t\n```\n```yml\n- {id: b, \
                task: t}\n```\n";
    let found = blocks(text);
    let yaml: Vec<_> = found.iter().map(|block| (block.line, block.yaml.as_str())).collect();
    assert_eq!(
        yaml,
        [
            (2, "id: w\n"),
            (
                14,
                "id: guide\nvariables: {v: {}}\nsteps:\n  - {id: z, task: t}\n  - id: a\n    task: t\n"
            ),
            (18, "id: guide\nsteps:\n  - {id: b, task: t}\n"),
        ]
    );
    assert!(found[1..].iter().all(|block| Workflow::from_yaml(&block.yaml).is_ok()));
}
