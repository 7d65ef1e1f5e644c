//! Nothing that stepwell writes to shows a secret: a canary is looked for everywhere.
#![cfg(all(feature = "testing", feature = "secrets"))]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use serde_json::json;
use stepwell::engine::EngineLimits;
use stepwell::executor::LogLevel;
use stepwell::journal::{Event, Operation, Reason, Vote};
use stepwell::runtime::Runtime as _;
use stepwell::secret::{Key, Keyring, Secret};
use stepwell::storage::{BlobStore, Memory, MemoryBlobs, Reply, RunQuery, Storage};
use stepwell::testing::VirtualRuntime;
use stepwell::workflow::{Approval, Lock, Priority, Variable, VariableType};
use stepwell::{
    Engine, EngineBuilder, ErrorKind, Outcome, RunHandle, RunId, RunStatus, StartOptions, Step,
    StepError, Trigger, Wait, Workflow, executor_fn,
};

#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod databases;
#[cfg(feature = "request")]
#[path = "../server/mod.rs"]
mod server;

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

/// A store that answers at once, and tells what was put into it.
#[derive(Clone, Debug)]
struct Kept {
    blobs: Arc<dyn BlobStore>,
    names: Arc<Mutex<Vec<(RunId, String)>>>,
}

impl Kept {
    fn new(blobs: impl BlobStore) -> Self {
        Self { blobs: Arc::new(blobs), names: Arc::default() }
    }

    /// Every name, with the bytes under it.
    fn bytes(&self) -> String {
        let mut all = String::new();
        for (run, name) in self.names.lock().unwrap().iter() {
            let bytes = futures::executor::block_on(self.blobs.get(run, name)).unwrap().unwrap();
            let _ = writeln!(all, "{run} {name}: {}", String::from_utf8(bytes).unwrap());
        }
        all
    }
}

impl BlobStore for Kept {
    fn put(&self, run: &RunId, name: &str, bytes: Vec<u8>) -> Reply<stepwell::Result<()>> {
        self.names.lock().unwrap().push((run.clone(), name.into()));
        // Virtual time would go on before a file is written.
        Reply::ready(futures::executor::block_on(self.blobs.put(run, name, bytes)))
    }

    fn get(&self, run: &RunId, name: &str) -> Reply<stepwell::Result<Option<Vec<u8>>>> {
        Reply::ready(futures::executor::block_on(self.blobs.get(run, name)))
    }

    fn delete(&self, run: &RunId, names: Vec<String>) -> Reply<stepwell::Result<()>> {
        self.blobs.delete(run, names)
    }

    fn delete_run(&self, run: &RunId) -> Reply<stepwell::Result<()>> {
        self.blobs.delete_run(run)
    }
}

#[test]
fn the_canary_is_seen_by_nobody() {
    assert_hidden(&in_memory(None));
}

#[test]
fn the_canary_is_in_no_byte_that_is_kept_elsewhere() {
    let kept = Kept::new(MemoryBlobs::new());
    let mut seen = in_memory(Some(kept.clone()));
    let bytes = kept.bytes();
    assert!(bytes.matches("Bearer [secret]").count() >= 2, "{bytes}");
    seen.push_str(&bytes);
    assert_hidden(&seen);
}

#[cfg(feature = "files")]
#[test]
fn the_canary_is_in_no_file() {
    let folder = std::env::temp_dir().join(format!("stepwell-canary-{}", std::process::id()));
    let kept = Kept::new(stepwell::storage::FileBlobs::open(&folder).unwrap());
    let mut seen = in_memory(Some(kept.clone()));
    let (mut folders, mut files) = (vec![folder.clone()], 0);
    while let Some(inside) = folders.pop() {
        for entry in std::fs::read_dir(inside).unwrap() {
            let path = entry.unwrap().path();
            let _ = writeln!(seen, "{}", path.display());
            if path.is_dir() {
                folders.push(path);
            } else {
                files += 1;
                seen.push_str(&String::from_utf8(std::fs::read(path).unwrap()).unwrap());
            }
        }
    }
    assert_eq!(files, kept.names.lock().unwrap().len());
    std::fs::remove_dir_all(folder).unwrap();
    assert_hidden(&seen);
}

/// Steps that say a secret wherever something can be said.
fn leaking() -> Workflow {
    let task = |id: &str, kind: &str| Step::task(id, kind).input("token", "vars.token");
    let show = Approval::by(["ann"]).show("[leaks.copy, vars.token, vars.shown]");
    let undo = task("undo", "fails").input("what", "output");
    let mut steps = vec![
        task("leaks", "leaks")
            .output("copy", "output")
            .output("sealed", "vars.token")
            .output("text", "'x'")
            .set("shown", "output"),
        task("fails", "fails").on_failure("after"),
        task("panics", "fails").on_failure("after"),
        task("asks", "fails").on_failure("after"),
        task("plans", "plans"),
        Step::dynamic("made", "plans").on_failure("after"),
        task("misplans", "plans"),
        Step::dynamic("not_made", "misplans").on_failure("after"),
        task("names", "names").set("name", "output").on_failure("after"),
        // It holds what the next one waits for.
        Step::wait("decide", Wait::approval(show))
            .after("leaks")
            .after("names")
            .trigger(Trigger::AllDone)
            .lock(Lock::new("l").key("vars.name")),
        task("locked", "leaks")
            .after("names")
            .trigger(Trigger::AllDone)
            .priority(Priority::Low)
            .lock(Lock::new("l").key("vars.name")),
        Step::sequence("undone", [task("done", "leaks").compensate(undo), task("b", "fails")])
            .on_failure("after"),
        Step::task("after", "leaks").input("token", "leaks.sealed").input("why", "fails.error"),
    ];
    if cfg!(feature = "template") {
        let text = task("text", "leaks").input("text", "{{ vars.token }}");
        steps.insert(0, text.on_failure("after"));
        let text = task("other_text", "leaks").input("text", "got {{ leaks.copy.token }}");
        steps.insert(0, text.on_failure("after"));
    }
    Workflow::builder("w")
        .variable("token", secret())
        .variable("shown", Variable::of(VariableType::Any))
        .variable("name", Variable::of(VariableType::String).default_value("n"))
        .steps(steps)
        .build()
        .unwrap()
}

fn leaking_engine(time: &VirtualRuntime, storage: impl Storage) -> EngineBuilder {
    Engine::builder()
        .runtime(time.clone())
        .storage(storage)
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
            "plans",
            executor_fn(|ctx| async move {
                let token = ctx.secret("token")?;
                let config = json!({"token": token.expose()});
                let text = token.expose();
                let when = match ctx.step().as_str() {
                    "plans" => format!("'{text}' == ''"),
                    _ => format!("'{text}' == 1"),
                };
                Ok(json!([
                    {"id": "one", "task": "says", "config": config, "description": text},
                    {"id": "two", "task": "says", "when": when},
                ]))
            }),
        )
        .executor(
            "names",
            executor_fn(|ctx| async move { Ok(ctx.secret("token")?.expose().to_string()) }),
        )
        .executor("says", executor_fn(|ctx| async move { Ok(ctx.config().clone()) }))
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
}

/// Everything that can be seen of a run whose steps say their secret.
fn in_memory(blobs: Option<Kept>) -> String {
    let (time, storage) = (VirtualRuntime::new(1), Memory::new());
    let engine = leaking_engine(&time, storage.clone());
    let limits = EngineLimits { spill_over: 0, ..EngineLimits::default() };
    let engine = match blobs {
        Some(blobs) => engine.blobs(blobs).limits(limits).build(),
        None => engine.build(),
    };
    let mut seen = canary(&time, &engine.unwrap(), &storage);
    let _ = write!(seen, "{storage:?}");
    seen
}

/// The same, but for what only the storage itself knows.
fn canary(time: &VirtualRuntime, engine: &Engine, storage: &impl Storage) -> String {
    let logged = Logged::default();
    let flow = leaking();
    let options = StartOptions::id("r").secret("token", CANARY);
    let mut seen = format!("{options:?} {engine:?} {flow:?} {:?}", flow.plan());
    let _ = write!(seen, "{} {}", flow.plan().to_svg(), flow.plan().to_dot());
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
                let meanwhile = looked_at(&handle);
                let waits = handle.explain("locked").unwrap().to_string();
                assert!(waits.contains("is held by r"), "{waits}");
                let open = handle.approvals();
                assert_eq!(open.len(), 1);
                handle.approve(&open[0].id, Vote::approve("ann").comment("fine")).await.unwrap();
                handle.signal("go", ()).await.unwrap();
                (meanwhile, handle.outcome().await.unwrap())
            };
            let (events, (meanwhile, outcome)) = futures::join!(events.collect::<Vec<_>>(), driven);
            let _ = write!(seen, "{events:?} {meanwhile} {outcome:?} {outcome}");
            seen.push_str(&looked_at(&handle));
            let again = Operation::rerun("asks");
            let again =
                engine.reopen(handle.id(), again, Reason::new("ann", "again")).await.unwrap();
            seen.push_str(&looked_at(&again));
            let told = (handle.journal(0, 10_000).await, engine.list(RunQuery::default()).await);
            assert!(told.0.as_ref().unwrap().len() > 10 && told.1.as_ref().unwrap().len() == 1);
            let _ = write!(seen, "{told:?}");
            outcome
        })
        .unwrap()
    });
    assert!(matches!(run, Outcome::Succeeded(_)), "{run}");
    let stored = time.block_on(storage.load(&RunId::new("r").unwrap())).unwrap().unwrap();
    let stored = stored.unwrap();
    let _ = write!(seen, "{stored:?} {}", serde_json::to_string(&stored.journal).unwrap());
    let _ = write!(seen, "{} {}", flow.to_json().unwrap(), logged.0.lock().unwrap());
    seen
}

/// Everything that a handle shows of a run.
fn looked_at(handle: &RunHandle) -> String {
    let run = handle.snapshot();
    let mut seen = format!("{handle:?} {run:?} {} {:?}", run.summary(), run.progress());
    let _ = write!(seen, "{:?} {:?}", run.outcome(), run.error_history());
    let _ = write!(seen, "{} {} {}", run.to_svg(), run.to_dot(), run.to_mermaid());
    let _ = write!(seen, "{:?} {:?}", handle.approvals(), handle.definition());
    let _ =
        write!(seen, "{:?} {} {:?}", handle.explain_run(), handle.explain_run(), handle.waits());
    for step in &handle.definition().0.steps {
        let path = step.id.to_string();
        let _ = write!(seen, "{:?} {:?}", run.step_output(&path), handle.explain(&path));
        for operation in [
            Operation::rerun(&path),
            Operation::skip([&path]),
            Operation::cancel([&path]),
            Operation::RetryFailed,
        ] {
            let preview = handle.preview(&operation);
            let _ = write!(seen, "{operation} {operation:?} {preview:?}");
            if let Err(refused) = preview {
                let _ = write!(seen, "{refused}");
            }
        }
    }
    seen
}

#[test]
fn where_a_long_message_is_cut_no_half_of_a_secret_is_left() {
    // Text without a period, so that any part of it can be told.
    let long: String = (0..200).map(|n| format!("{n:03}+")).collect();
    let time = VirtualRuntime::new(1);
    let engine = Engine::builder()
        .runtime(time.clone())
        .keys(keys("old"))
        .executor(
            "fails",
            executor_fn(|ctx| async move {
                let token = ctx.secret("token")?;
                let message = format!("{}{}", "x".repeat(3_700), token.expose());
                match ctx.step().as_str() {
                    "panics" => panic!("{message}"),
                    "converts" => Err::<(), _>(std::io::Error::other(message).into()),
                    _ => Err(StepError::fatal(message)),
                }
            }),
        )
        .build()
        .unwrap();
    let steps = ["fails", "panics", "converts"]
        .map(|id| Step::task(id, "fails").input("token", "vars.token"));
    let flow = Workflow::builder("w").variable("token", secret()).steps(steps).build().unwrap();
    let options = StartOptions::default().secret("token", &*long);
    let run = time.block_on(async {
        let handle = engine.start_with(&flow, (), options).await.unwrap();
        handle.outcome().await.unwrap();
        handle.snapshot()
    });
    let failures = run.unwrap().error_history();
    assert_eq!(failures.len(), 3);
    for (step, failed) in failures {
        let message = &failed.failure.message;
        assert!(message.ends_with("xx[secret]"), "{step}: {}", &message[3_600..]);
    }
}

fn assert_hidden(seen: &str) {
    assert!(seen.contains("[secret]"), "the scrubber was at work");
    assert_absent(seen);
}

/// No part of it that would help anybody, in no form that text and bytes usually have.
fn assert_absent(seen: &str) {
    let parts = (0..=CANARY.len() - 12).map(|at| &CANARY[at..at + 12]);
    let bytes = |from: &str| from.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>();
    for part in parts {
        let hex: String = part.bytes().map(|byte| format!("{byte:02x}")).collect();
        let (shown, listed) = (bytes(part).join(", "), bytes(part).join(","));
        for form in [part, &part.to_uppercase(), &hex, &hex.to_uppercase(), &shown, &listed] {
            hides(seen, form);
        }
    }
    // As its bytes stand to those before it.
    for form in ["aHVudGVyMi1jYW5hcnktNz", "h1bnRlcjItY2FuYXJ5LTc3", "odW50ZXIyLWNhbmFyeS03"] {
        hides(seen, form);
    }
}

fn hides(seen: &str, form: &str) {
    if let Some(at) = seen.find(form) {
        let before = seen[..at].chars().rev().take(200).collect::<Vec<_>>();
        let before: String = before.into_iter().rev().collect();
        panic!("{form}: ...{before}{form}");
    }
}

/// Executors that do their work outside of the process.
#[cfg(any(all(feature = "shell", unix), feature = "request"))]
mod outside {
    use serde_json::Value;
    use stepwell::{RetryConfig, Run, StepId};

    use super::*;

    /// Runs steps with a secret, and collects everything that they leave behind.
    fn run(secret_text: &str, steps: impl IntoIterator<Item = Step>) -> (Run, String) {
        let (storage, logged) = (Memory::new(), Logged::default());
        let engine = executors(Engine::builder()).storage(storage.clone()).keys(keys("old"));
        let engine = engine.build().unwrap();
        let flow = Workflow::builder("w").variable("token", secret()).steps(steps).build().unwrap();
        let options = StartOptions::id("r").secret("token", secret_text);
        let (run, mut seen) = tracing::subscriber::with_default(logged.clone(), || {
            futures::executor::block_on(async {
                let handle = engine.start_with(&flow, (), options).await.unwrap();
                let events = handle.events().collect::<Vec<_>>();
                let (events, outcome) = futures::join!(events, handle.outcome());
                let (outcome, snapshot) = (outcome.unwrap(), handle.snapshot());
                let seen =
                    format!("{events:?} {outcome:?} {outcome} {snapshot:?} {}", snapshot.summary());
                (snapshot, seen)
            })
        });
        let stored = storage.load(&stepwell::RunId::new("r").unwrap());
        let stored = futures::executor::block_on(stored).unwrap().unwrap();
        let _ = write!(seen, "{stored:?} {}", serde_json::to_string(&stored.journal).unwrap());
        let _ = write!(seen, "{} {}", flow.to_json().unwrap(), logged.0.lock().unwrap());
        (run, seen)
    }

    fn executors(builder: EngineBuilder) -> EngineBuilder {
        #[cfg(all(feature = "shell", unix))]
        let builder = builder.executor_factory("shell", stepwell::executor::Shell::from_config);
        #[cfg(feature = "request")]
        let builder =
            builder.executor_factory("http", stepwell::executor::HttpRequest::from_config);
        builder
    }

    fn task(id: impl Into<StepId>, kind: &str, config: Value) -> Step {
        let step = Step::task(id, kind).config(config).input("token", "vars.token");
        step.retry(RetryConfig::attempts(1))
    }

    /// How a step fails that comes after one that gives `form`, with a secret inside.
    fn refusal(secret_text: &str, step: Step) -> String {
        let form =
            Step::task("form", "output").input("user", "'ann'").input("password", "vars.token");
        let (run, seen) = run(secret_text, [form, step.after("form")]);
        let Some(Outcome::Failed { failure, .. }) = run.outcome() else { panic!("{run:?}") };
        assert!(!seen.contains(secret_text), "{seen}");
        format!("{}: {}", failure.class, failure.message)
    }

    #[cfg(all(feature = "shell", unix))]
    mod shell {
        use super::*;

        fn script(id: &str, text: &str) -> Step {
            let file = file(id);
            let config = json!({
                "command": ["sh", "-c", text, file.to_str().unwrap()],
                "environment": {"TOKEN": "{token}", "HEADER": "Bearer {token}"}
            });
            task(id, "shell", config)
        }

        fn file(id: &str) -> std::path::PathBuf {
            std::env::temp_dir().join(format!("stepwell-secret-{}-{id}", std::process::id()))
        }

        #[test]
        fn a_program_gets_it_in_its_environment_and_nobody_reads_what_it_says() {
            let says = "printf %s \"$HEADER\" > \"$0\"; echo \"$TOKEN\"; echo \"$HEADER\" >&2; \
                printf %s \"$TOKEN\" | base64; printf '\"%s\"' \"$TOKEN\"; env";
            let fails = "echo \"cannot log in with $TOKEN\" >&2; exit 3";
            let without = Step::task("without", "shell").config(json!({"command": ["env"]}));
            let (run, seen) = run(
                CANARY,
                [script("says", says), script("fails", fails).on_failure("without"), without],
            );
            let got = std::fs::read_to_string(file("says")).unwrap();
            std::fs::remove_file(file("says")).unwrap();
            assert_eq!(got, format!("Bearer {CANARY}"));
            assert_hidden(&seen);
            let says = run.step_output("says").unwrap();
            assert!(says["stdout"].as_str().unwrap().starts_with("[secret]\n"), "{says:?}");
            assert_eq!(says["stderr"], "Bearer [secret]\n");
            let failure = &run.error_history()[0].1.failure;
            let expected = "the program ended with status 3: cannot log in with [secret]";
            assert_eq!(failure.message, expected);
            let others = run.step_output("without").unwrap();
            assert!(!others["stdout"].as_str().unwrap().contains("TOKEN"), "{others:?}");
        }

        #[test]
        fn where_a_long_output_is_cut_no_half_of_it_is_left() {
            let long = "q7".repeat(400);
            let cut = stepwell::executor::OUTPUT_BYTES_MAX - 700;
            // Once where the output is cut, and then on and on to the end of what is read.
            let text =
                format!("head -c {cut} /dev/zero | tr '\\0' x; yes \"$TOKEN\" | head -c 400001");
            let many = "yes \"$TOKEN\" | head -c 1000001";
            let steps = [script("once", &text), script("many", many)];
            let (run, seen) = super::run(&long, steps);
            for step in ["once", "many"] {
                assert_eq!(run.step_output(step).unwrap()["truncated"], true);
            }
            assert!(!seen.contains("q7q7"), "half of it is left");
        }

        #[test]
        fn an_argument_cannot_be_one() {
            let step = script("a", "true");
            for args in ["[vars.token]", "vars.token", "['x', form]"] {
                let refused = refusal(CANARY, step.clone().input("args", args));
                assert!(
                    refused.contains("input `args` is or holds a secret, and every user"),
                    "{refused}"
                );
                assert!(
                    refused.contains("name the input in `environment`, as {name}"),
                    "{refused}"
                );
            }
        }

        #[test]
        fn a_value_with_one_inside_is_no_text() {
            let refused = refusal(CANARY, script("a", "true").input("token", "form"));
            assert!(refused.contains("has a secret inside; take that secret itself"), "{refused}");
        }

        #[test]
        fn what_no_variable_can_hold_is_refused_without_repeating_it() {
            let refused = refusal("hunter2\0canary", script("a", "true"));
            assert!(refused.contains("no variable can hold a NUL character"), "{refused}");
        }
    }

    #[cfg(feature = "request")]
    mod request {
        use super::super::server::{answer, server};
        use super::*;

        fn login(url: &str) -> Step {
            let headers = json!({
                "authorization": "Bearer {token}", "x-api-key": "{token}", "x-trace": "7"
            });
            task("login", "http", json!({"url": url, "headers": headers}))
        }

        #[test]
        fn a_server_gets_it_in_headers_and_in_the_body_and_nobody_reads_what_it_answers() {
            let echo = json!({"you": {"said": [format!("Bearer {CANARY}")]}, CANARY: 1});
            let json = format!("content-type: application/json\r\nx-echo: {CANARY}\r\n");
            let (address, asked) = server(vec![
                answer("200 OK", &json, &echo.to_string()),
                answer("200 OK", "", &format!("hello {CANARY}")),
                // The error repeats the first 200 characters of it, the secret half.
                answer("401 Unauthorized", "", &format!("{}{CANARY}", "x".repeat(192))),
            ]);
            let form =
                Step::task("form", "output").input("user", "'ann'").input("password", "vars.token");
            let post = json!({"url": address, "method": "POST"});
            let (run, seen) = run(
                CANARY,
                [
                    form,
                    login(&address),
                    task("form_login", "http", post).input("body", "[form]").after("login"),
                    task(
                        "refused",
                        "http",
                        json!({
                            "url": address, "headers": {"authorization": "{token}"}
                        }),
                    )
                    .after("form_login"),
                ],
            );
            let asked = asked.join().unwrap();
            for line in
                [format!("authorization: Bearer {CANARY}\r\n"), format!("x-api-key: {CANARY}\r\n")]
            {
                assert!(asked[0].contains(&line), "{}", asked[0]);
            }
            let (_, sent) = asked[1].split_once("\r\n\r\n").unwrap();
            let sent: Value = serde_json::from_str(sent).unwrap();
            assert_eq!(sent, json!([{"user": "ann", "password": CANARY}]));
            assert_hidden(&seen);
            assert!(!seen.contains("xxhunter2"), "half of it is left");
            let output = run.step_output("login").unwrap();
            assert_eq!(output["body"]["you"]["said"][0], "Bearer [secret]");
            assert_eq!(output["headers"]["x-echo"], "[secret]");
            assert_eq!(run.step_output("form_login").unwrap()["body"], "hello [secret]");
        }

        #[test]
        fn it_stays_with_the_server_that_it_was_meant_for() {
            // Another port is another server.
            let (other, other_asked) = server(vec![
                answer("302 Found", "location: /again\r\n", ""),
                answer("200 OK", "", ""),
            ]);
            let (address, asked) = server(vec![
                answer("302 Found", "location: /moved\r\n", ""),
                answer("307 Temporary Redirect", &format!("location: {other}/\r\n"), ""),
            ]);
            let (run, _) = run(CANARY, [login(&address)]);
            assert_eq!(run.step_output("login").unwrap()["status"], 200);
            for asked in asked.join().unwrap() {
                assert_eq!(asked.matches(CANARY).count(), 2, "{asked}");
            }
            for asked in other_asked.join().unwrap() {
                assert!(asked.contains("x-trace: 7\r\n") && !asked.contains("authorization"));
                assert!(!asked.contains(CANARY), "{asked}");
            }
        }

        #[test]
        fn a_url_cannot_hold_one() {
            let plain = |url: &str| task("a", "http", json!({"url": url}));
            let by_value = plain("http://127.0.0.1:1/").input("query", "form");
            let only = plain("http://127.0.0.1:1/").input("query", "vars.token");
            for (step, input) in [
                (plain("http://127.0.0.1:1/{token}"), "token"),
                (plain("http://127.0.0.1:1/?form={form}").input("form", "form"), "form"),
                (by_value, "query"),
                (only, "query"),
            ] {
                let refused = refusal(CANARY, step);
                let expected = format!("input `{input}` is or holds a secret, and servers");
                assert!(refused.contains(&expected), "{refused}");
                assert!(refused.contains("name the input in `headers`, as {name}"), "{refused}");
            }
        }

        #[test]
        fn what_no_header_can_hold_is_refused_without_repeating_it() {
            let refused = refusal("hunter2\ncanary", login("http://127.0.0.1:1/"));
            assert!(refused.contains("such as a line break"), "{refused}");
            let refused = refusal(CANARY, login("http://127.0.0.1:1/").input("token", "form"));
            assert!(refused.contains("has a secret inside; take that secret itself"), "{refused}");
        }
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

#[test]
fn rotation_reaches_what_is_in_blobs() {
    let time = VirtualRuntime::new(1);
    let (storage, blobs) = (Memory::new(), MemoryBlobs::new());
    let builder = |current: &str| {
        let limits = EngineLimits { spill_over: 0, ..EngineLimits::default() };
        let builder = Engine::builder().runtime(time.clone()).storage(storage.clone());
        let builder = builder.limits(limits).keys(keys(current));
        builder
            .executor(
                "keeps",
                executor_fn(|ctx| async move { ctx.seal("own", &Secret::new(CANARY)) }),
            )
            .executor("hands", executor_fn(|ctx| async move { Ok(json!([ctx.inputs()["kept"]])) }))
            .executor(
                "opens",
                executor_fn(|ctx| async move { Ok(ctx.secret("token")?.expose().len()) }),
            )
    };
    let engine = |current: &str| builder(current).blobs(blobs.clone()).build().unwrap();
    let flow = Workflow::builder("w")
        .step(Step::task("a", "keeps"))
        .step(Step::task("b", "hands").input("kept", "a"))
        .step(Step::wait("w", stepwell::Wait::signal("go")).after("b"))
        .step(Step::task("c", "opens").input("token", "a").after("w"))
        .build()
        .unwrap();
    time.block_on(async {
        let first = engine("old");
        let handle = first.start_with(&flow, (), StartOptions::id("r")).await.unwrap();
        let id = handle.id().clone();
        let soon = stepwell::runtime::Runtime::sleep(&time, std::time::Duration::from_secs(1));
        futures::future::select(Box::pin(handle.outcome()), soon).await;
        drop((handle, first));
        // Nobody is told that all is done by who cannot see all.
        let reason = || Reason::new("ann", "rotation");
        let blind = builder("both").build().unwrap().reseal(&id, reason()).await.unwrap_err();
        assert_eq!(blind.kind(), ErrorKind::Configuration, "{blind}");
        let both = engine("both");
        assert_eq!(both.reseal(&id, reason()).await.unwrap(), 1);
        assert_eq!(both.reseal(&id, reason()).await.unwrap(), 0);
        drop(both);
        let new = engine("new");
        let handle = new.run(&id).await.unwrap();
        handle.signal("go", ()).await.unwrap();
        let outcome = handle.outcome().await.unwrap();
        let length =
            handle.load(outcome.output().unwrap_or_else(|| panic!("{outcome}"))).await.unwrap();
        assert_eq!(*length, json!(CANARY.len()));
        let journal = handle.journal(0, 1_000).await.unwrap();
        let said = |event: &Event| matches!(event, Event::Operated { .. });
        assert_eq!(journal.iter().filter(|(_, it)| said(&it.event)).count(), 1, "and who did so");
    })
    .unwrap();
}

#[test]
fn rotation_reaches_what_could_not_be_undone_yet() {
    let time = VirtualRuntime::new(1);
    let storage = Memory::new();
    let engine = |current: &str, undoes: bool| {
        Engine::builder()
            .runtime(time.clone())
            .storage(storage.clone())
            .keys(keys(current))
            .executor("works", executor_fn(|_| async { Ok(()) }))
            .executor("fails", executor_fn(|_| async { Err::<(), _>(StepError::fatal("no")) }))
            .executor(
                "undoes",
                executor_fn(move |ctx| async move {
                    ctx.secret("token")?;
                    if undoes { Ok(()) } else { Err(StepError::fatal("not now")) }
                }),
            )
            .build()
            .unwrap()
    };
    let undo = Step::task("undo", "undoes").input("token", "vars.token");
    let flow = Workflow::builder("w")
        .variable("token", secret())
        .step(Step::task("a", "works").compensate(undo))
        .step(Step::task("b", "fails").after("a"))
        .build()
        .unwrap();
    time.block_on(async {
        let options = StartOptions::id("r").secret("token", CANARY);
        let first = engine("both", false);
        let handle = engine("old", false).start_with(&flow, (), options).await.unwrap();
        let outcome = handle.outcome().await.unwrap().to_string();
        assert!(outcome.contains("`a` was not undone: fatal: not now"), "{outcome}");
        let id = handle.id().clone();
        drop(handle);
        assert_eq!(first.reseal(&id, Reason::new("ann", "rotation")).await.unwrap(), 1);
        drop(first);
        let again = Operation::rerun_alone("b");
        let handle =
            engine("new", true).reopen(&id, again, Reason::new("ann", "again")).await.unwrap();
        let outcome = handle.outcome().await.unwrap().to_string();
        assert!(!outcome.contains("was not undone"), "{outcome}");
        let failed: Vec<String> =
            handle.snapshot().error_history().into_iter().map(|(path, _)| path).collect();
        assert_eq!(failed, ["a[undo]/undo", "b", "b"]);
    })
    .unwrap();
}
