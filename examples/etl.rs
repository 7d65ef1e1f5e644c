//! A ready-made ETL workflow: sales of some regions into one table.
//!
//! The first run tolerates a region that cannot be read, the second takes back what it has loaded.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value as Json, json};
use stepwell::ready::Etl;
use stepwell::workflow::Amount;
use stepwell::{Engine, StartOptions, StepError, Workflow, executor_fn};

/// One row per sale, and none twice.
type Table = Arc<Mutex<BTreeSet<String>>>;

fn pipeline() -> stepwell::Result<Workflow> {
    Etl::new("sales")
        .tolerates(Amount::Percent(34))
        .schema(json!({"type": "array", "items": {"type": "string"}}))
        .gate("quality.score >= 95%")
        .batch_size(2)
        .load_concurrency(1)
        .build()
}

fn read(region: &str) -> Result<&'static str, StepError> {
    match region {
        "north" => Ok("n1 10\nn2 20\nn3 5"),
        "south" => Ok("s1 100\ns2 5"),
        "east" => Ok("e1 7\ne2 9"),
        _ => Err(StepError::fatal(format!("there is no file of {region}"))),
    }
}

/// All rows or none, like a transaction.
fn insert(table: &Table, rows: Vec<String>) -> Result<(), StepError> {
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = rows.iter().find(|row| table.contains(*row)) {
        return Err(StepError::fatal(format!("{known} is there already")));
    }
    table.extend(rows);
    Ok(())
}

fn engine(table: &Table) -> stepwell::Result<Engine> {
    let (loading, unloading) = (Arc::clone(table), Arc::clone(table));
    Engine::builder()
        .executor(
            "extract",
            executor_fn(|ctx| async move {
                let region: String = ctx.input("source")?;
                Ok(read(&region)?.lines().map(Json::from).collect::<Json>())
            }),
        )
        .executor(
            "transform",
            executor_fn(|ctx| async move {
                // A region that could not be read is null.
                let regions: Vec<Option<Vec<String>>> = ctx.input("sources")?;
                let rows = regions.into_iter().flatten().flatten();
                Ok(rows.map(|row| row.replace(' ', ": ")).collect::<Json>())
            }),
        )
        .executor(
            "quality",
            executor_fn(|ctx| async move {
                let rows: Vec<String> = ctx.input("data")?;
                let good = rows.iter().filter(|row| row.contains(": ")).count();
                Ok(json!({"score": 100 * good / rows.len().max(1)}))
            }),
        )
        .executor(
            "split",
            executor_fn(|ctx| async move {
                let (rows, size): (Vec<Json>, usize) = (ctx.input("data")?, ctx.input("size")?);
                Ok(rows.chunks(size).map(Json::from).collect::<Json>())
            }),
        )
        .executor(
            "load",
            executor_fn(move |ctx| {
                let loaded = ctx.input("batch").and_then(|rows| insert(&loading, rows));
                async { loaded }
            }),
        )
        .executor(
            "unload",
            executor_fn(move |ctx| {
                println!("unloading batch {}", ctx.inputs());
                let mut table = unloading.lock().unwrap_or_else(PoisonError::into_inner);
                let rows = ctx.input::<Vec<String>>("batch");
                let unloaded = rows.map(|rows| table.retain(|row| !rows.contains(row)));
                async { unloaded }
            }),
        )
        .executor(
            "report",
            executor_fn(|ctx| async move {
                println!("report: {}", ctx.inputs());
                Ok(())
            }),
        )
        .build()
}

fn main() -> stepwell::Result<()> {
    let table = Table::default();
    let (engine, workflow) = (engine(&table)?, pipeline()?);
    for regions in [["north", "south", "west"], ["east", "south", "north"]] {
        let options = StartOptions::default().variable("sources", json!(regions));
        futures::executor::block_on(async {
            let handle = engine.start_with(&workflow, (), options).await?;
            println!("{}\n{}", handle.outcome().await?, handle.snapshot().summary());
            stepwell::Result::Ok(())
        })?;
        println!("in the table: {:?}\n", table.lock().unwrap_or_else(PoisonError::into_inner));
    }
    Ok(())
}
