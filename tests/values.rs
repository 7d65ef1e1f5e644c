//! Large values: limits, and where they go instead.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::json;
use stepwell::engine::EngineLimits;
use stepwell::journal::{Operation, Reason, Signal, Vote};
use stepwell::run::{
    Command, PERSON_BYTES_MAX, REASON_BYTES_MAX, Rejection, Report, RunState, SIGNAL_NAME_BYTES_MAX,
};
use stepwell::storage::MemoryBlobs;
use stepwell::testing::VirtualRuntime;
use stepwell::workflow::{Approval, Limits, Variable, VariableType};
use stepwell::{
    Engine, ErrorKind, Outcome, RunId, Step, StepError, StepKey, StepStatus, Timestamp, Value,
    Wait, Workflow, executor_fn,
};

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

/// A run of a workflow that decides, waits and works, at its beginning.
fn begun(show: &str) -> RunState {
    let approval = Approval::by(["ann", "bob"]).quorum(2).show("input");
    let workflow = Workflow::builder("w")
        .variable("v", Variable::of(VariableType::String))
        .limits(Limits { max_run_bytes: 1_000_000, ..Limits::default() })
        .step(Step::wait("decide", Wait::approval(approval)))
        .step(Step::wait("wait", Wait::signal("go")))
        .step(Step::wait("keyed", Wait::signal("go").key("input")))
        .step(Step::task("work", "t"))
        .build()
        .unwrap();
    let mut state = RunState::new(RunId::new("r").unwrap(), workflow.program().clone());
    let variables = json!({"v": null}).into();
    let grace = std::time::Duration::ZERO;
    ask(&mut state, Command::Start { input: show.into(), variables, seed: 1, grace }).unwrap();
    state
}

fn ask(state: &mut RunState, command: Command) -> Result<(), Rejection> {
    state.decide(command, Timestamp::EPOCH).map(drop)
}

fn operate(operation: Operation) -> Command {
    Command::Operate { operation: operation.into(), by: Box::default() }
}

fn vote(by: &str, comment: &str) -> Command {
    let vote = Box::new(Vote::approve(by).comment(comment));
    Command::Vote { approval: "decide".into(), vote }
}

#[test]
fn texts_that_people_and_programs_say_have_a_limit() {
    let mut state = begun("k");
    let too_long = |answer: Result<(), Rejection>, limit: usize| {
        let refused = answer.unwrap_err();
        assert!(matches!(refused, Rejection::TooLong { .. }), "{refused}");
        let text = refused.to_string();
        let expected = format!("takes {} bytes; the limit is {limit}", limit + 1);
        assert!(text.ends_with(&expected) && text.len() < 100, "{text}");
    };
    let x = |bytes: usize| "x".repeat(bytes);
    let signal = |name: String| Command::Signal(Signal::new(name, ()));
    let most = SIGNAL_NAME_BYTES_MAX;
    too_long(ask(&mut state, signal(x(most + 1))), most);
    let keyed = Signal::keyed("n", x(most - 2), ());
    too_long(ask(&mut state, Command::Signal(keyed)), most);
    ask(&mut state, signal(x(most))).unwrap();
    let by = |bytes: usize| Command::Signal(Signal::new("n", ()).by(x(bytes)));
    too_long(ask(&mut state, by(PERSON_BYTES_MAX + 1)), PERSON_BYTES_MAX);
    ask(&mut state, by(PERSON_BYTES_MAX)).unwrap();
    let most = REASON_BYTES_MAX;
    too_long(ask(&mut state, vote("ann", &x(most + 1))), most);
    ask(&mut state, vote("ann", &x(most))).unwrap();
    too_long(ask(&mut state, vote(&x(PERSON_BYTES_MAX + 1), "")), PERSON_BYTES_MAX);
    let commands: [fn(Reason) -> Command; 5] = [
        |by| Command::Pause(by.into()),
        |by| Command::Resume(by.into()),
        |by| Command::Operate {
            operation: Operation::set_variable("v", "x").into(),
            by: by.into(),
        },
        |by| Command::Cancel { by: by.into(), grace: None },
        |by| Command::Terminate(by.into()),
    ];
    for command in commands {
        too_long(ask(&mut state, command(Reason::new("ann", x(most + 1)))), most);
        let by = Reason::new(x(PERSON_BYTES_MAX + 1), "");
        too_long(ask(&mut state, command(by)), PERSON_BYTES_MAX);
    }
    let by = || Reason::new(x(PERSON_BYTES_MAX), x(most)).into();
    ask(&mut state, Command::Pause(by())).unwrap();
    ask(&mut state, Command::Resume(by())).unwrap();
    ask(&mut state, Command::Cancel { by: by(), grace: None }).unwrap();
}

#[test]
fn what_nobody_could_say_is_not_waited_for() {
    let long = "x".repeat(SIGNAL_NAME_BYTES_MAX);
    let mut state = begun(&long);
    let keyed = state.find("keyed").unwrap();
    assert_eq!(state.step_status(keyed), Some(StepStatus::Failed));
    let why = state.failure(keyed).unwrap().to_string();
    assert!(why.contains("the signal's name, with its key, takes 516 bytes"), "{why}");
    let step = state.find("work").unwrap();
    ask(&mut state, Command::Dispatch { step }).unwrap();
    let wait = StepError::wait_for_signal(format!("{long}x"), (), None);
    let result = Report::Suspended(wait.into_failure().unwrap_err().into());
    ask(&mut state, Command::Report { step, attempt: 1, result }).unwrap();
    let why = state.failure(step).unwrap().to_string();
    assert!(why.contains("takes 513 bytes; the limit is 512"), "{why}");
    let by = Approval::by(["x".repeat(PERSON_BYTES_MAX + 1)]);
    let flow = flow(Limits::default(), [Step::wait("a", Wait::approval(by))]);
    let mut state = RunState::new(RunId::new("r").unwrap(), flow.program().clone());
    let (input, variables, grace) = (Value::NULL, Value::NULL, std::time::Duration::ZERO);
    ask(&mut state, Command::Start { input, variables, seed: 1, grace }).unwrap();
    let why = state.failure(StepKey::root(0)).unwrap().to_string();
    assert!(why.contains("the name of a person takes 257 bytes"), "{why}");
}

/// How many bytes more the journal of a run takes.
fn room(state: &RunState) -> usize {
    let fits = |bytes: &usize| {
        let signal = Signal::new("x", "x".repeat(*bytes));
        ask(&mut state.clone(), Command::Signal(signal)).is_ok()
    };
    let (mut low, mut high) = (0_usize, 1_000_000);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(&middle) { low = middle } else { high = middle - 1 }
    }
    low
}

#[test]
fn everything_that_a_journal_keeps_counts() {
    let long = || "x".repeat(1_000);
    // The input stands in the beginning of the run and in what is shown, once each.
    let costs = room(&begun("")) - room(&begun(&"x".repeat(500)));
    assert_eq!(costs, 3 * 500, "the input, what is shown, and the name of what is waited for");
    let changed = |state: &RunState| {
        let mut definition = (**state.definition().unwrap()).clone();
        definition.description = Some(long());
        let workflow = Box::new(Workflow::from_definition(definition).unwrap());
        Operation::Modify {
            workflow,
            linked: Vec::new(),
            revision: state.revision(),
            mapping: None,
        }
    };
    let mut state = begun("");
    let resealed = [(format!("{}1", long()), long())].into();
    let commands = [
        (Command::Signal(Signal::new("n".repeat(500), long())), 1_500),
        (vote("ann", &long()), 1_000),
        (Command::Pause(Reason::new("ann", long()).into()), 1_000),
        (Command::Resume(Reason::new("ann", long()).into()), 1_000),
        // Once as what was asked, and once as what it comes to.
        (operate(Operation::set_variable("v", long())), 2_000),
        (operate(changed(&state)), 2_000),
        (operate(Operation::Reseal { replaced: resealed }), 4_000),
    ];
    for (at, (command, least)) in commands.into_iter().enumerate() {
        let before = room(&state);
        ask(&mut state, command).unwrap();
        let costs = before - room(&state);
        // A definition is more than what it is for.
        assert!((least..least + 2_000).contains(&costs), "{costs} for command {at}");
    }
    // When there is no room any more, a run can still be stopped.
    let payload = "x".repeat(room(&state));
    ask(&mut state, Command::Signal(Signal::new("x", payload))).unwrap();
    let change = operate(changed(&state));
    let refused = ask(&mut state, change).unwrap_err().to_string();
    assert!(
        refused.starts_with("what is asked would make the run's values more than"),
        "{refused}"
    );
    ask(&mut state, operate(Operation::cancel(["wait"]))).unwrap();
    ask(&mut state, Command::Cancel { by: Box::default(), grace: None }).unwrap();
}
