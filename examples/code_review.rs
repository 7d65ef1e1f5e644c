//! A ready-made code review: tools and a model look at a change, then people.
//!
//! The first change is merged, the second is sent back without bothering anybody.

use futures::StreamExt;
use serde::Deserialize;
use serde_json::json;
use stepwell::executor::{Ai, ScriptedModel};
use stepwell::journal::Vote;
use stepwell::ready::CodeReview;
use stepwell::workflow::Approval;
use stepwell::{Engine, Step, Workflow, executor_fn};

#[derive(Deserialize)]
struct Change {
    title: String,
    added: Vec<String>,
    tests_fail: u32,
}

fn workflow() -> stepwell::Result<Workflow> {
    let prompt =
        "Review this change. Answer with {\"severe\": number, \"remarks\": [...]}. {change}";
    CodeReview::new("review")
        .approval(Approval::by(["ann", "bob", "cem"]).quorum(2).prompt("Merge it?"))
        .task(Step::task("ai_review", "ai").config(json!({"prompt": prompt})))
        .build()
}

fn engine() -> stepwell::Result<Engine> {
    // A real one would implement `AiModel` with a call of its API.
    let model = ScriptedModel::new([
        json!({"severe": 0, "remarks": ["a name could be longer"]}),
        json!({"severe": 1, "remarks": ["the lock is held while it waits"]}),
    ]);
    Engine::builder()
        .executor("ai", Ai::new(model))
        .executor(
            "analysis",
            executor_fn(|ctx| async move {
                let change: Change = ctx.input("change")?;
                let bad = change.added.iter().filter(|line| line.contains("unwrap()"));
                let remarks: Vec<String> = bad.map(|line| format!("panics: {line}")).collect();
                Ok(json!({"severe": remarks.len(), "remarks": remarks}))
            }),
        )
        .executor(
            "tests",
            executor_fn(|ctx| async move {
                let change: Change = ctx.input("change")?;
                Ok(json!({"severe": change.tests_fail}))
            }),
        )
        .executor(
            "request_changes",
            executor_fn(|ctx| async move {
                println!("sent back for {}", ctx.inputs()["findings"]);
                Ok("sent back")
            }),
        )
        .executor(
            "merge",
            executor_fn(|ctx| async move {
                let change: Change = ctx.input("change")?;
                Ok(format!("merged {:?}", change.title))
            }),
        )
        .executor(
            "announce",
            executor_fn(|ctx| async move {
                let merged: bool = ctx.input("merged")?;
                println!("to #reviews: {}", if merged { "merged" } else { "not merged" });
                Ok(())
            }),
        )
        .build()
}

fn main() -> stepwell::Result<()> {
    let (workflow, engine) = (workflow()?, engine()?);
    let good = json!({"title": "Cache pages", "added": ["cache.insert(page)"], "tests_fail": 0});
    let bad = json!({"title": "Go fast", "added": ["lock().unwrap()"], "tests_fail": 2});
    for change in [good, bad] {
        futures::executor::block_on(async {
            let handle = engine.start(&workflow, change).await?;
            let mut events = handle.events();
            let people = async {
                while events.next().await.is_some() {
                    for asked in handle.approvals() {
                        println!("{:?} are asked: {}", asked.approvers, asked.show);
                        handle.approve(&asked.id, Vote::reject("bob").comment("later")).await?;
                        handle.approve(&asked.id, Vote::approve("ann")).await?;
                        handle.approve(&asked.id, Vote::approve("cem")).await?;
                    }
                }
                stepwell::Result::Ok(())
            };
            let (outcome, voted) = futures::join!(handle.outcome(), people);
            println!("{}\n{}\n", outcome?, handle.snapshot().summary());
            voted
        })?;
    }
    Ok(())
}
