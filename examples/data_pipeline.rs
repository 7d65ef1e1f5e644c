//! Extract, transform each region in parallel, join, load: a pipeline written as YAML.
//!
//! Run it with `cargo run --example data_pipeline --features yaml`.

use serde_json::{Value as Json, json};
use stepwell::{Engine, Workflow, executor_fn};

const PIPELINE: &str = r#"
id: sales
steps:
  - id: extract
    task: extract
  - id: regions
    foreach: extract.regions
    concurrency: 2
    steps:
      - id: clean
        task: clean
        inputs: {rows: item.rows}
      - id: total
        task: sum
        inputs: {rows: clean.rows}
  - id: report
    task: process
    config:
      set:
        regions: len(steps.regions.output)
        best: max(steps.regions.output)
    after: regions
  - id: load
    task: load
    when: report.best > 100
    inputs: {report: steps.report.output}
"#;

fn main() -> stepwell::Result<()> {
    let engine = Engine::builder()
        .executor(
            "extract",
            executor_fn(|_| async {
                Ok(json!({"regions": [
                    {"name": "north", "rows": [10, 20, null]},
                    {"name": "south", "rows": [100, 5]},
                    {"name": "west", "rows": []},
                ]}))
            }),
        )
        .executor(
            "clean",
            executor_fn(|ctx| async move {
                let rows: Vec<Option<i64>> = ctx.input("rows")?;
                Ok(json!({"rows": rows.into_iter().flatten().collect::<Vec<_>>()}))
            }),
        )
        .executor(
            "sum",
            executor_fn(|ctx| async move {
                let rows: Vec<i64> = ctx.input("rows")?;
                Ok(rows.iter().sum::<i64>())
            }),
        )
        .executor(
            "load",
            executor_fn(|ctx| async move {
                let report: Json = ctx.input("report")?;
                println!("loading {report}");
                Ok(())
            }),
        )
        .build()?;
    let workflow = Workflow::from_yaml(PIPELINE)?;
    println!("{}", workflow.plan().to_mermaid());
    let run = futures::executor::block_on(engine.execute(&workflow, ()))?;
    println!("{}", run.summary());
    Ok(())
}
