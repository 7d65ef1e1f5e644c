//! Large values: limits, and where they go instead.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::json;
use stepwell::engine::EngineLimits;
use stepwell::storage::MemoryBlobs;
use stepwell::testing::VirtualRuntime;
use stepwell::workflow::Limits;
use stepwell::{Engine, ErrorKind, Outcome, Step, Wait, Workflow, executor_fn};

fn engine(time: &VirtualRuntime, blobs: Option<MemoryBlobs>) -> Engine {
    let limits = EngineLimits { spill_over: 1_000, ..EngineLimits::default() };
    let mut builder = Engine::builder()
        .runtime(time.clone())
        .limits(limits)
        .executor(
            "makes",
            executor_fn(|ctx| async move {
                let rows: usize = ctx.input("rows")?;
                Ok(json!({"rows": (0..rows).collect::<Vec<_>>(), "note": "x".repeat(rows)}))
            }),
        )
        .executor(
            "counts",
            executor_fn(|ctx| async move {
                let table: serde_json::Value = ctx.input("table")?;
                Ok(table["rows"].as_array().map_or(0, Vec::len))
            }),
        )
        .executor(
            "reads",
            executor_fn(|ctx| async move {
                let kept = ctx.output_of("make").unwrap();
                let loaded = ctx.load(&kept).await?;
                Ok(json!([kept["$blob"]["bytes"].is_u64(), loaded["rows"][7]]))
            }),
        );
    if let Some(blobs) = blobs {
        builder = builder.blobs(blobs);
    }
    builder.build().unwrap()
}

fn flow(limits: Limits, steps: impl IntoIterator<Item = Step>) -> Workflow {
    Workflow::builder("w").limits(limits).steps(steps).build().unwrap()
}

fn make() -> Step {
    Step::task("make", "makes").input("rows", "input")
}

fn outcome(time: &VirtualRuntime, engine: &Engine, flow: &Workflow, input: i64) -> Outcome {
    let run = async { engine.start(flow, input).await.unwrap().outcome().await.unwrap() };
    time.block_on(run).unwrap()
}

#[test]
fn a_large_output_goes_to_the_store_and_comes_back_as_an_input() {
    let time = VirtualRuntime::new(1);
    let engine = engine(&time, Some(MemoryBlobs::new()));
    let steps = [
        make(),
        Step::task("count", "counts").input("table", "make"),
        Step::task("read", "reads").after("make"),
    ];
    let flow = flow(Limits::default(), steps);
    let large = outcome(&time, &engine, &flow, 5_000);
    assert_eq!(large.output().unwrap(), &json!({"count": 5_000, "read": [true, 7]}));
    // A small one stays where it is.
    let small = outcome(&time, &engine, &flow, 10);
    assert_eq!(small.output().unwrap(), &json!({"count": 10, "read": [false, 7]}));
}

#[test]
fn what_the_journal_would_refuse_goes_to_the_store_however_small_it_is() {
    let time = VirtualRuntime::new(1);
    let limits = Limits { max_value_bytes: 500, ..Limits::default() };
    let flow = flow(limits, [make(), Step::task("read", "reads").after("make")]);
    // More than the workflow allows, and less than the engine would keep elsewhere by itself.
    let with = outcome(&time, &engine(&time, Some(MemoryBlobs::new())), &flow, 60);
    assert_eq!(with.output().unwrap(), &json!([true, 7]));
    let without = outcome(&time, &engine(&time, None), &flow, 60).to_string();
    assert!(without.contains("the limit is 500"), "{without}");
    let small = outcome(&time, &engine(&time, Some(MemoryBlobs::new())), &flow, 10);
    assert_eq!(small.output().unwrap(), &json!([false, 7]));
}

#[test]
fn the_output_of_a_run_can_be_loaded() {
    let time = VirtualRuntime::new(1);
    let engine = engine(&time, Some(MemoryBlobs::new()));
    let flow = flow(Limits::default(), [make()]);
    time.block_on(async {
        let handle = engine.start(&flow, 2_000).await.unwrap();
        let outcome = handle.outcome().await.unwrap();
        let kept = outcome.output().unwrap();
        assert!(kept.get("$blob").is_some());
        assert_eq!(handle.load(kept).await.unwrap()["rows"][1_999], 1_999);
    })
    .unwrap();
}

#[test]
fn nobody_reads_null_from_what_is_kept_elsewhere() {
    let time = VirtualRuntime::new(1);
    let engine = engine(&time, Some(MemoryBlobs::new()));
    let steps = [make(), Step::task("b", "counts").when("make.note == 'x'")];
    let failed = outcome(&time, &engine, &flow(Limits::default(), steps), 5_000).to_string();
    assert!(failed.contains("kept elsewhere"), "{failed}");
}

#[test]
fn what_is_kept_elsewhere_was_checked_before() {
    let time = VirtualRuntime::new(1);
    let engine = engine(&time, Some(MemoryBlobs::new()));
    let schema = json!({"type": "object", "properties": {"note": {"type": "number"}}});
    let failed =
        outcome(&time, &engine, &flow(Limits::default(), [make().output_schema(schema)]), 5_000);
    assert!(failed.to_string().contains("output.note"), "{failed}");
}

#[test]
fn without_a_store_what_is_too_large_is_refused() {
    let time = VirtualRuntime::new(1);
    let engine = engine(&time, None);
    let limits = Limits { max_value_bytes: 10_000, max_run_bytes: 15_000, ..Limits::default() };
    let one = flow(limits.clone(), [make()]);
    assert!(matches!(outcome(&time, &engine, &one, 500), Outcome::Succeeded(_)));
    let failed = outcome(&time, &engine, &one, 5_000).to_string();
    assert!(failed.contains("the limit is 10000") && failed.contains("blob store"), "{failed}");
    // Many small ones are too much for the run.
    let each = Step::for_each("each", "[1, 2, 3, 4]", [make()]);
    let failed = outcome(&time, &engine, &flow(limits.clone(), [each]), 500).to_string();
    assert!(failed.contains("more than 15000 bytes"), "{failed}");
    // Inputs and payloads, too.
    let waits = flow(limits, [Step::wait("a", Wait::signal("go"))]);
    time.block_on(async {
        let long = "x".repeat(20_000);
        let refused = engine.start(&waits, long.clone()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Configuration);
        let handle = engine.start(&waits, ()).await.unwrap();
        let refused = handle.signal("go", long).await.unwrap_err();
        assert!(refused.to_string().contains("the payload takes"), "{refused}");
        handle.signal("go", "short").await.unwrap();
        assert!(matches!(handle.outcome().await.unwrap(), Outcome::Succeeded(_)));
    })
    .unwrap();
}

#[test]
fn a_store_that_fails_fails_the_attempt() {
    let time = VirtualRuntime::new(1);
    let with = engine(&time, Some(MemoryBlobs::new()));
    let flow = flow(
        Limits::default(),
        [
            make(),
            Step::wait("w", Wait::signal("go")).after("make"),
            Step::task("count", "counts").input("table", "make").after("w"),
        ],
    );
    // Another engine without the store cannot read what the first one kept.
    let storage = stepwell::storage::Memory::new();
    let build = |blobs: Option<MemoryBlobs>| {
        let limits = EngineLimits { spill_over: 1_000, ..EngineLimits::default() };
        let builder =
            Engine::builder().runtime(time.clone()).storage(storage.clone()).limits(limits);
        let builder = builder
            .executor("makes", executor_fn(|_| async { Ok("x".repeat(5_000)) }))
            .executor("counts", executor_fn(|_| async { Ok(()) }));
        match blobs {
            Some(blobs) => builder.blobs(blobs).build().unwrap(),
            None => builder.build().unwrap(),
        }
    };
    drop(with);
    time.block_on(async {
        let first = build(Some(MemoryBlobs::new()));
        let handle = first.start(&flow, 1).await.unwrap();
        handle.signal("early", ()).await.unwrap();
        let id = handle.id().clone();
        let nap =
            first.runtime().sleep_until(first.runtime().now() + std::time::Duration::from_secs(1));
        futures::future::select(Box::pin(handle.outcome()), nap).await;
        drop((handle, first));
        // A store that has lost it.
        let second = build(Some(MemoryBlobs::new()));
        let handle = second.run(&id).await.unwrap();
        handle.signal("go", ()).await.unwrap();
        let outcome = handle.outcome().await.unwrap().to_string();
        assert!(outcome.contains("is gone from the blob store"), "{outcome}");
    })
    .unwrap();
}
