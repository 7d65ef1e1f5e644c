//! Nothing that stepwell writes to shows a secret: a canary is looked for everywhere.
#![cfg(all(feature = "testing", feature = "secrets"))]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use serde_json::json;
use stepwell::executor::LogLevel;
use stepwell::journal::Reason;
use stepwell::runtime::Runtime as _;
use stepwell::secret::{Key, Keyring, Secret};
use stepwell::storage::{Memory, Storage};
use stepwell::testing::VirtualRuntime;
use stepwell::workflow::{Variable, VariableType};
use stepwell::{
    Engine, ErrorKind, Outcome, RunStatus, StartOptions, Step, StepError, Workflow, executor_fn,
};

const CANARY: &str = "hunter2-canary-77";

fn keys(current: &str) -> Keyring {
    match current {
        "old" => Keyring::new("old", Key::from_bytes([1; 32])),
        "both" => {
            Keyring::new("new", Key::from_bytes([2; 32])).and("old", Key::from_bytes([1; 32]))
        }
        _ => Keyring::new("new", Key::from_bytes([2; 32])),
    }
}

fn secret() -> Variable {
    Variable::of(VariableType::Secret).required()
}

/// Collects everything that is logged.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<String>>);

impl tracing::Subscriber for Logged {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let _ = write!(self.0.lock().unwrap(), "{span:?}");
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        let _ = write!(self.0.lock().unwrap(), "{values:?}");
    }
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let _ = writeln!(self.0.lock().unwrap(), "{event:?}");
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn the_canary_is_seen_by_nobody() {
    let time = VirtualRuntime::new(1);
    let (storage, logged) = (Memory::new(), Logged::default());
    let engine = Engine::builder()
        .runtime(time.clone())
        .storage(storage.clone())
        .keys(keys("old"))
        .executor(
            "leaks",
            executor_fn(|ctx| async move {
                let token = ctx.secret("token")?;
                assert_eq!(token.expose(), CANARY);
                // Everything that a careless step might do.
                ctx.log(LogLevel::Info, format!("the token is {}", token.expose()));
                ctx.progress(0.5, token.expose());
                let all = format!("{:?} {:?}", ctx.inputs(), ctx.variables());
                assert!(!all.contains(CANARY), "{all}");
                Ok(json!({"token": token.expose(), token.expose(): [{"deep": format!("Bearer {}", token.expose())}]}))
            }),
        )
        .executor(
            "fails",
            executor_fn(|ctx| async move {
                let token = ctx.secret("token")?;
                match ctx.step().as_str() {
                    "panics" => panic!("cannot log in with {}", token.expose()),
                    "asks" if ctx.signal().is_none() => {
                        Err::<(), _>(StepError::wait_for_signal("go", json!([token.expose()]), None))
                    }
                    _ => Err(StepError::fatal(format!("{} was refused", token.expose()))),
                }
            }),
        )
        .build()
        .unwrap();
    let task = |id: &str, kind: &str| Step::task(id, kind).input("token", "vars.token");
    let flow = Workflow::builder("w")
        .variable("token", secret())
        .step(task("leaks", "leaks").output("copy", "output").output("sealed", "vars.token"))
        .step(task("fails", "fails").on_failure("after"))
        .step(task("panics", "fails").on_failure("after"))
        .step(task("asks", "fails").on_failure("after"))
        .step(
            Step::task("after", "leaks").input("token", "leaks.sealed").input("why", "fails.error"),
        )
        .build()
        .unwrap();
    let options = StartOptions::id("r").secret("token", CANARY);
    let mut seen = format!("{options:?} {engine:?}");
    let run = tracing::subscriber::with_default(logged.clone(), || {
        time.block_on(async {
            let handle = engine.start_with(&flow, (), options).await.unwrap();
            let events = handle.events();
            let driven = async {
                let outcome = Box::pin(handle.outcome());
                let nap = engine
                    .runtime()
                    .sleep_until(engine.runtime().now() + std::time::Duration::from_secs(60));
                futures::future::select(outcome, nap).await;
                let asks = handle.explain("asks").unwrap();
                handle.signal("go", ()).await.unwrap();
                (asks, handle.outcome().await.unwrap())
            };
            let (events, (asks, outcome)) = futures::join!(events.collect::<Vec<_>>(), driven);
            let snapshot = handle.snapshot();
            let _ = write!(seen, "{events:?} {asks:?} {outcome:?} {outcome} {snapshot:?}");
            let _ = write!(seen, "{} {:?}", snapshot.summary(), handle);
            outcome
        })
        .unwrap()
    });
    assert!(matches!(run, Outcome::Succeeded(_)), "{run}");
    let stored = time.block_on(storage.load(&stepwell::RunId::new("r").unwrap())).unwrap().unwrap();
    let stored = stored.unwrap();
    let _ = write!(seen, "{stored:?} {}", serde_json::to_string(&stored.journal).unwrap());
    let _ = write!(seen, "{} {}", flow.to_json().unwrap(), logged.0.lock().unwrap());
    assert!(seen.contains("[secret]"), "the scrubber was at work");
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    for form in [CANARY, "aHVudGVyMi1jYW5hcnktNz", &hex] {
        let at = seen.find(form);
        assert!(at.is_none(), "{form}: ...{}", &seen[at.unwrap().saturating_sub(200)..]);
    }
}

#[test]
fn secrets_are_refused_where_they_would_lie_open() {
    let time = VirtualRuntime::new(1);
    let flow =
        Workflow::builder("w").variable("token", secret()).step(Step::task("a", "t")).build();
    let flow = flow.unwrap();
    let builder = || {
        let builder = Engine::builder().runtime(time.clone());
        builder.executor("t", executor_fn(|_| async { Ok(()) }))
    };
    let with = builder().keys(keys("old")).build().unwrap();
    let without = builder().build().unwrap();
    let refused = |engine: &Engine, options: StartOptions| {
        let error = time.block_on(engine.start_with(&flow, (), options)).unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(!error.to_string().contains("hunter2"), "{error}");
        error.to_string()
    };
    let open = StartOptions::default().variable("token", "hunter2");
    assert!(refused(&with, open).contains("expected a sealed secret"));
    assert!(refused(&with, StartOptions::default()).contains("a value is required"));
    assert!(refused(&with, StartOptions::default().secret("other", "x")).contains("no secret"));
    let sealed = StartOptions::default().secret("token", "hunter2");
    assert!(refused(&without, sealed).contains("has no keys"));
}

#[test]
fn only_the_step_that_takes_it_opens_it_and_only_in_its_run() {
    let time = VirtualRuntime::new(1);
    let stolen: Arc<Mutex<Option<serde_json::Value>>> = Arc::default();
    let thief = Arc::clone(&stolen);
    let engine = Engine::builder()
        .runtime(time.clone())
        .keys(keys("old"))
        .executor(
            "copies",
            executor_fn(move |ctx| {
                thief.lock().unwrap().get_or_insert_with(|| ctx.variables()["token"].clone());
                async move { ctx.secret("token").map(|_| ()) }
            }),
        )
        .executor(
            "opens",
            executor_fn(|ctx| async move { Ok(ctx.secret("token")?.expose().len()) }),
        )
        .executor(
            "fetches",
            executor_fn(|ctx| async move { ctx.seal("session", &Secret::new("s3ss10n-key")) }),
        )
        .build()
        .unwrap();
    let run = |steps: Vec<Step>, input: serde_json::Value| {
        let flow = Workflow::builder("w").variable("token", secret()).steps(steps).build().unwrap();
        let options = StartOptions::default().secret("token", CANARY);
        time.block_on(async {
            engine.start_with(&flow, input, options).await.unwrap().outcome().await.unwrap()
        })
        .unwrap()
        .to_string()
    };
    // It stands in the variables, sealed; without an input there is nothing to open.
    let outcome = run(vec![Step::task("a", "copies")], json!(null));
    assert!(outcome.contains("there is no such input"), "{outcome}");
    // The sealed text of one run is worth nothing in another.
    let text = stolen.lock().unwrap().clone().unwrap();
    let outcome = run(vec![Step::task("a", "opens").input("token", "input")], text);
    assert!(outcome.contains("secret `token`"), "{outcome}");
    // What one step seals another opens.
    let fetched = vec![Step::task("a", "fetches"), Step::task("b", "opens").input("token", "a")];
    assert_eq!(run(fetched, json!(null)), "succeeded: 11");
}

#[test]
fn rotation_leaves_nothing_that_needs_the_old_key() {
    let time = VirtualRuntime::new(1);
    let storage = Memory::new();
    let engine = |current: &str| {
        Engine::builder()
            .runtime(time.clone())
            .storage(storage.clone())
            .keys(keys(current))
            .executor(
                "opens",
                executor_fn(|ctx| async move { Ok(ctx.secret("token")?.expose().len()) }),
            )
            .build()
            .unwrap()
    };
    let flow = Workflow::builder("w")
        .variable("token", secret())
        .step(Step::task("a", "opens").input("token", "vars.token").output("copy", "vars.token"))
        .step(Step::wait("w", stepwell::Wait::signal("go")).after("a"))
        .step(Step::task("b", "opens").input("token", "a.copy").after("w"))
        .build()
        .unwrap();
    time.block_on(async {
        let first = engine("old");
        let options = StartOptions::id("r").secret("token", CANARY);
        let handle = first.start_with(&flow, (), options).await.unwrap();
        let id = handle.id().clone();
        let nap = time.clone();
        let soon = time.now() + std::time::Duration::from_secs(1);
        futures::future::select(
            Box::pin(handle.outcome()),
            stepwell::runtime::Runtime::sleep_until(&nap, soon),
        )
        .await;
        drop((handle, first));
        let both = engine("both");
        assert_eq!(both.reseal(&id, Reason::new("ann", "rotation")).await.unwrap(), 1);
        assert_eq!(both.reseal(&id, Reason::new("ann", "again")).await.unwrap(), 0);
        drop(both);
        // The old key is gone.
        let new = engine("new");
        let handle = new.run(&id).await.unwrap();
        handle.signal("go", ()).await.unwrap();
        assert_eq!(handle.outcome().await.unwrap().to_string(), "succeeded: 17");
        let ended = new.reseal(&id, Reason::new("ann", "it has ended")).await.unwrap();
        assert_eq!((ended, new.run(&id).await.unwrap().status()), (0, RunStatus::Succeeded));
        let lost = engine("old").reseal(&id, Reason::new("ann", "wrong key")).await.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::Configuration);
    })
    .unwrap();
}
