//! First sight.
use serde_json::json;
use stepwell::{Engine, Step, Workflow, executor_fn};

#[test]
fn the_first_workflow_runs() {
    let engine = Engine::builder()
        .executor("run_tests", executor_fn(|_| async { Ok(json!({"coverage": 91.5})) }))
        .executor("deploy", executor_fn(|_| async { Ok(()) }))
        .executor("ticket", executor_fn(|_| async { Ok(()) }))
        .build()
        .unwrap();
    let workflow = Workflow::builder("review")
        .step(Step::task("test", "run_tests"))
        .step(Step::task("deploy", "deploy").when("test.coverage > 80%").otherwise("ticket"))
        .step(Step::task("ticket", "ticket"))
        .build()
        .unwrap();
    let run = futures::executor::block_on(engine.execute(&workflow, json!({}))).unwrap();
    println!("{}", run.summary());
    assert_eq!(run.summary().lines().count(), 4);
}
