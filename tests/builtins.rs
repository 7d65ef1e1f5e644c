//! The executors that come with the crate, through an engine.
#![cfg(all(feature = "testing", feature = "schema"))]
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::json;
use stepwell::executor::{Ai, ScriptedModel};
use stepwell::testing::VirtualRuntime;
use stepwell::workflow::Limits;
use stepwell::{
    Engine, ErrorClass, ErrorKind, Json, Outcome, Run, RunStatus, Step, StepStatus, Value, Workflow,
};

#[cfg(feature = "request")]
mod server;

fn workflow(steps: impl IntoIterator<Item = Step>) -> Workflow {
    let limits = Limits { max_cpu_percent: 100, ..Limits::default() };
    Workflow::builder("w").limits(limits).steps(steps).build().unwrap()
}

fn run(steps: impl IntoIterator<Item = Step>, input: Json) -> Run {
    let time = VirtualRuntime::new(1);
    let engine = Engine::builder().runtime(time.clone()).build().unwrap();
    time.block_on(engine.execute(&workflow(steps), input)).unwrap().unwrap()
}

fn refusal(step: Step) -> String {
    let time = VirtualRuntime::new(1);
    let engine = Engine::builder().runtime(time.clone()).build().unwrap();
    let refused = time.block_on(engine.execute(&workflow([step]), ())).unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Configuration);
    refused.to_string()
}

#[test]
fn process_builds_values_from_expressions() {
    let set = json!({"set": {"total": "input.price * input.count", "name": "upper(input.name)"}});
    let steps = [
        Step::task("a", "process").config(set),
        Step::task("b", "process").config(json!({"value": "a.total + 1"})).after("a"),
    ];
    let run = run(steps, json!({"price": 3, "count": 4, "name": "ann"}));
    assert_eq!(run.step_output("a").unwrap(), json!({"total": 12, "name": "ANN"}));
    assert_eq!(run.output().unwrap(), 13);
    let bad = refusal(Step::task("a", "process").config(json!({"set": {"x": "1 +"}})));
    assert!(bad.contains("steps.a.task") && bad.contains("`set.x`"), "{bad}");
    let both = refusal(Step::task("a", "process").config(json!({"set": {}, "value": "1"})));
    assert!(both.contains("give it `set`"), "{both}");
}

#[test]
fn what_a_configuration_reads_must_come_before() {
    let first = Step::task("first", "process").config(json!({"value": "1"}));
    let reads = |text: &str| Step::task("reads", "process").config(json!({"value": text}));
    let time = VirtualRuntime::new(1);
    let engine = Engine::builder().runtime(time.clone()).build().unwrap();
    let start = |steps: [Step; 2]| {
        let started = time.block_on(engine.execute(&workflow(steps), ())).unwrap();
        started.map(|run| run.output().unwrap()).map_err(|error| error.to_string())
    };
    let refused = start([first.clone(), reads("first + 1")]).unwrap_err();
    assert!(refused.contains("steps.reads.config: `first + 1` reads `first`, which does not come"));
    let refused = start([first.clone(), reads("frist + 1")]).unwrap_err();
    assert!(refused.contains("there is no step `frist` to be seen"), "{refused}");
    assert_eq!(start([first.clone(), reads("first + 1").after("first")]).unwrap(), 2);
    // From inside a body, what comes before the step around it.
    let outer = Step::sequence("outer", [reads("first + 2")]).after("first");
    assert_eq!(start([first, outer]).unwrap(), 3);
}

#[test]
fn condition_gives_the_value_of_the_first_case_that_holds() {
    let cases = json!({
        "cases": [{"when": "input.n > 10", "value": "many"}, {"when": "input.n > 1", "value": "some"}],
        "default": "few"
    });
    for (n, expected) in [(11, "many"), (5, "some"), (0, "few")] {
        let run = run([Step::task("a", "condition").config(cases.clone())], json!({"n": n}));
        assert_eq!(run.output().unwrap(), expected);
    }
    let failed = run([Step::task("a", "condition").config(cases)], json!({"n": []}));
    let Some(Outcome::Failed { failure, .. }) = failed.outcome() else { panic!("{failed:?}") };
    assert_eq!(failure.class, ErrorClass::Validation);
    let unknown = refusal(Step::task("a", "condition").config(json!({"cases": [], "else": 1})));
    assert!(unknown.contains("no field `else`; known: cases, default"), "{unknown}");
}

#[test]
fn output_gives_its_inputs() {
    let step = Step::task("a", "output").input("x", "input.n + 1").input("y", "'text'");
    assert_eq!(run([step], json!({"n": 1})).output().unwrap(), json!({"x": 2, "y": "text"}));
}

#[test]
fn validate_names_every_place_that_does_not_fit() {
    let schema = json!({
        "type": "object",
        "required": ["id"],
        "properties": {"id": {"type": "integer"}, "tags": {"items": {"type": "string"}}}
    });
    let step =
        || Step::task("a", "validate").config(json!({"schema": schema})).input("value", "input");
    let good = json!({"id": 1, "tags": ["x"]});
    assert_eq!(run([step()], good.clone()).output().unwrap(), good);
    let bad = run([step()], json!({"id": "one", "tags": ["x", 2]}));
    let Some(Outcome::Failed { failure, .. }) = bad.outcome() else { panic!("{bad:?}") };
    assert_eq!(failure.class, ErrorClass::Validation);
    for place in ["/id: ", "/tags/1: "] {
        assert!(failure.message.contains(place), "{}", failure.message);
    }
    assert_eq!(bad.error_history().len(), 1, "wrong data is not tried again");
    let wrong = refusal(Step::task("a", "validate").config(json!({"schema": {"type": 5}})));
    assert!(wrong.contains("steps.a.task"), "{wrong}");
}

#[test]
fn input_asks_again_until_nothing_is_missing() {
    let time = VirtualRuntime::new(1);
    let engine = Engine::builder().runtime(time.clone()).build().unwrap();
    let ask = json!({"prompt": "Who and why?", "required": ["name", "reason"], "timeout": "10m"});
    let flow = workflow([Step::task("ask", "input").config(ask)]);
    let (run, waiting) = time
        .block_on(async {
            let handle = engine.start(&flow, ()).await.unwrap();
            let answers = async {
                handle.signal("ask", json!({"name": "Ann"})).await.unwrap();
                engine.runtime().sleep_until(engine.runtime().now() + Duration::from_secs(1)).await;
                let waiting = handle.snapshot().step_status("ask");
                handle.signal("ask", json!({"name": "Ann", "reason": "x"})).await.unwrap();
                waiting
            };
            let (_, waiting) = futures::join!(handle.outcome(), answers);
            (handle.snapshot(), waiting)
        })
        .unwrap();
    assert_eq!(waiting, Some(StepStatus::Waiting));
    assert_eq!(run.output().unwrap(), json!({"name": "Ann", "reason": "x"}));

    let late = time.block_on(engine.execute(&flow, ())).unwrap().unwrap();
    let Some(Outcome::Failed { failure, .. }) = late.outcome() else { panic!("{late:?}") };
    assert_eq!(failure.class, ErrorClass::Timeout);
}

#[test]
fn ai_asks_the_model_with_the_inputs_filled_in() {
    let model = ScriptedModel::new([json!({"verdict": "fine"})]);
    let time = VirtualRuntime::new(1);
    let engine = Engine::builder()
        .runtime(time.clone())
        .executor("ai", Ai::new(model.clone()))
        .build()
        .unwrap();
    let prompt = "Review {diff} of {n} {unknown} {";
    let config = json!({"prompt": prompt, "system": "strict", "model": "m1"});
    let step = Step::task("a", "ai").config(config).input("diff", "'+{n}'").input("n", "7");
    let flow = workflow([step]);
    let first = time.block_on(engine.execute(&flow, ())).unwrap().unwrap();
    assert_eq!(first.output().unwrap(), json!({"verdict": "fine"}));
    let asked = &model.asked()[0];
    assert_eq!(asked.prompt, "Review +{n} of 7 {unknown} {");
    assert_eq!((asked.system.as_deref(), asked.model.as_deref()), (Some("strict"), Some("m1")));
    assert_eq!(asked.inputs, Value::from(json!({"diff": "+{n}", "n": 7})));

    let second = time.block_on(engine.execute(&flow, ())).unwrap().unwrap();
    let Some(Outcome::Failed { failure, .. }) = second.outcome() else { panic!("{second:?}") };
    assert_eq!(failure.message, "the script has no more answers");
}

#[cfg(all(feature = "shell", unix))]
mod shell {
    use super::*;

    use stepwell::RetryConfig;
    use stepwell::executor::{OUTPUT_BYTES_MAX, Shell};
    use stepwell::journal::Reason;

    fn engine() -> Engine {
        Engine::builder().executor_factory("shell", Shell::from_config).build().unwrap()
    }

    fn step(command: &[&str]) -> Step {
        Step::task("a", "shell").config(json!({"command": command}))
    }

    fn run(step: Step) -> Run {
        let once = step.retry(RetryConfig::attempts(1));
        futures::executor::block_on(
            engine().execute(&workflow([once]), json!({"file": "; ls", "nul": "a\0b"})),
        )
        .unwrap()
    }

    #[test]
    fn arguments_reach_the_program_as_they_are() {
        let done =
            run(step(&["printf", "<%s>", "a b", "$HOME", "`id`"])
                .input("args", "['x', input.file]"));
        let output = done.output().unwrap();
        assert_eq!(output["stdout"], "<a b><$HOME><`id`><x><; ls>");
        assert_eq!((&output["status"], &output["truncated"]), (&json!(0), &json!(false)));
    }

    #[test]
    fn only_allowed_variables_are_handed_on() {
        let config = json!({
            "command": ["env"],
            "environment": {"GREETING": "hello"},
            "keep_environment": ["CARGO_MANIFEST_DIR", "NOT_SET_ANYWHERE"]
        });
        let done = run(Step::task("a", "shell").config(config));
        let output = done.output().unwrap();
        let mut names: Vec<&str> = output["stdout"]
            .as_str()
            .unwrap()
            .lines()
            .filter_map(|l| Some(l.split_once('=')?.0))
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["CARGO_MANIFEST_DIR", "GREETING", "PATH"]);
    }

    #[test]
    fn inputs_stand_in_the_environment_as_they_are() {
        let config = json!({
            "command": ["sh", "-c", "printf %s \"$TEXT\""],
            "environment": {"TEXT": "<{file}> {\"{file}\"} {}"}
        });
        let step = |file: &str| Step::task("a", "shell").config(config.clone()).input("file", file);
        let output = run(step("input.file + '{file}'")).output().unwrap();
        assert_eq!(output["stdout"], "<; ls{file}> {\"; ls{file}\"} {}");
        for (step, complaint) in [
            (step("input.nul"), "`environment.TEXT`: no variable can hold a NUL"),
            (
                Step::task("a", "shell").config(config.clone()),
                "`environment.TEXT`: the step has no input `file`; add it",
            ),
        ] {
            let failed = run(step);
            let Some(Outcome::Failed { failure, .. }) = failed.outcome() else {
                panic!("{failed:?}")
            };
            assert!(failure.message.contains(complaint), "{failure}");
        }
    }

    #[test]
    fn a_status_other_than_zero_fails_with_the_last_line() {
        let failed = run(step(&["sh", "-c", "echo first >&2; echo last >&2; exit 3"]));
        let Some(Outcome::Failed { failure, .. }) = failed.outcome() else { panic!("{failed:?}") };
        assert_eq!(failure.message, "the program ended with status 3: last");
        let missing = run(step(&["no-such-program-anywhere"]));
        let Some(Outcome::Failed { failure, .. }) = missing.outcome() else {
            panic!("{missing:?}")
        };
        assert!(failure.message.contains("No such file"), "{failure}");
    }

    #[test]
    fn a_program_that_leaves_another_behind_is_not_waited_for() {
        let done = run(step(&["sh", "-c", "sleep 30 & echo done"]));
        assert_eq!(done.output().unwrap()["stdout"], "done\n");
        let progress = done.progress();
        assert!(progress.elapsed < Duration::from_secs(20), "{progress}");
    }

    #[test]
    fn long_output_is_cut_and_said_to_be() {
        let done = run(step(&["sh", "-c", "yes | head -c 1000000; yes e | head -c 1000000 >&2"]));
        let output = done.output().unwrap();
        for stream in ["stdout", "stderr"] {
            assert_eq!(output[stream].as_str().unwrap().len(), OUTPUT_BYTES_MAX);
        }
        assert_eq!(output["truncated"], true);
    }

    #[test]
    fn wrong_configurations_are_refused_before_the_run_starts() {
        for (config, complaint) in [
            (json!({"command": []}), "`command` is empty"),
            (json!({"command": "ls"}), "expected a sequence"),
            (json!({"command": ["ls"], "shell": true}), "unknown field `shell`"),
        ] {
            let flow = workflow([Step::task("a", "shell").config(config)]);
            let refused = futures::executor::block_on(engine().start(&flow, ())).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Configuration);
            assert!(refused.to_string().contains(complaint), "{refused}");
        }
    }

    /// A program that writes its process id into a file and would then sleep for very long.
    fn sleeper(name: &str) -> (Step, std::path::PathBuf) {
        let file = std::env::temp_dir().join(format!("stepwell-{}-{name}", std::process::id()));
        let script = "echo $$ > \"$0.part\" && mv \"$0.part\" \"$0\" && exec sleep 1000";
        (step(&["sh", "-c", script, file.to_str().unwrap()]), file)
    }

    async fn begun(engine: &Engine, file: &std::path::Path) -> u32 {
        loop {
            if let Ok(text) = std::fs::read_to_string(file) {
                std::fs::remove_file(file).unwrap();
                return text.trim().parse().unwrap();
            }
            nap(engine).await;
        }
    }

    async fn nap(engine: &Engine) {
        engine.runtime().sleep_until(engine.runtime().now() + Duration::from_millis(2)).await;
    }

    /// Waits until the process is gone, or dead and not yet collected; for ever if it lives.
    async fn gone(engine: &Engine, process: u32) {
        while let Ok(stat) = std::fs::read_to_string(format!("/proc/{process}/stat")) {
            if stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')) {
                return;
            }
            nap(engine).await;
        }
    }

    #[test]
    fn a_cancelled_program_is_killed() {
        let engine = engine();
        let (step, file) = sleeper("cancel");
        futures::executor::block_on(async {
            let handle = engine.start(&workflow([step]), ()).await.unwrap();
            let stops = async {
                let process = begun(&engine, &file).await;
                handle.cancel(Reason::new("test", "enough")).await.unwrap();
                process
            };
            let (outcome, process) = futures::join!(handle.outcome(), stops);
            assert_eq!(outcome.unwrap(), Outcome::Cancelled);
            gone(&engine, process).await;
        });
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed() {
        let engine = engine();
        let (step, file) = sleeper("timeout");
        let step = step.attempt_timeout(Duration::from_millis(500)).retry(RetryConfig::attempts(1));
        futures::executor::block_on(async {
            let handle = engine.start(&workflow([step]), ()).await.unwrap();
            let (outcome, process) = futures::join!(handle.outcome(), begun(&engine, &file));
            assert_eq!(outcome.unwrap().status(), RunStatus::Failed);
            gone(&engine, process).await;
        });
    }
}

#[cfg(feature = "request")]
mod request {
    use std::net::TcpListener;

    use super::server::{answer, server};
    use super::*;

    use stepwell::RetryConfig;
    use stepwell::executor::{ANSWER_BYTES_MAX, HttpRequest};

    fn run(step: Step, input: Json) -> Run {
        let engine =
            Engine::builder().executor_factory("http", HttpRequest::from_config).build().unwrap();
        futures::executor::block_on(engine.execute(&workflow([step]), input)).unwrap()
    }

    #[test]
    fn values_cannot_lead_elsewhere_and_json_comes_back_as_json() {
        let json = "content-type: application/json; charset=utf-8\r\nx-trace: 7\r\n";
        let (address, asked) = server(vec![answer("200 OK", json, r#"{"name": "Ann"}"#)]);
        let config = json!({
            "url": format!("{address}/users/{{id}}/posts?sort=new"),
            "headers": {"Accept": "application/json"}
        });
        let step = Step::task("a", "http")
            .config(config)
            .input("id", "input.id")
            .input("query", "input.query");
        let done = run(step, json!({"id": "../x?y#z é", "query": {"q": "a b&c", "n": 3}}));
        let output = done.output().unwrap();
        assert_eq!(output["body"], json!({"name": "Ann"}));
        assert_eq!((&output["status"], &output["headers"]["x-trace"]), (&json!(200), &json!("7")));
        let asked = asked.join().unwrap().remove(0);
        let line = asked.lines().next().unwrap();
        assert_eq!(
            line,
            "GET /users/..%2Fx%3Fy%23z%20%C3%A9/posts?sort=new&n=3&q=a%20b%26c HTTP/1.1"
        );
        assert!(asked.contains("accept: application/json\r\n"), "{asked}");
        assert!(!asked.contains("idempotency-key"), "{asked}");
    }

    #[test]
    fn dots_are_refused() {
        let config = json!({"url": "http://127.0.0.1:1/users/{id}"});
        let failed = run(Step::task("a", "http").config(config).input("id", "'..'"), Json::Null);
        let Some(Outcome::Failed { failure, .. }) = failed.outcome() else { panic!("{failed:?}") };
        assert_eq!(failure.class, ErrorClass::Validation);
    }

    #[test]
    fn a_failing_server_is_asked_again_under_the_same_key() {
        let answers = vec![
            answer("503 Service Unavailable", "", "busy"),
            answer("201 Created", "content-type: text/plain\r\n", "done"),
        ];
        let (address, asked) = server(answers);
        let step = Step::task("a", "http")
            .config(json!({"url": address, "method": "POST"}))
            .input("body", "input")
            .retry(RetryConfig::attempts(2).base_delay(Duration::ZERO));
        let done = run(step, json!({"amount": 5}));
        assert_eq!(done.output().unwrap()["body"], "done");
        assert_eq!(done.error_history()[0].1.failure.class, ErrorClass::ServerError);
        let asked = asked.join().unwrap();
        let key = |asked: &str| {
            let line = asked.lines().find(|line| line.starts_with("idempotency-key: "));
            line.unwrap().to_string()
        };
        assert_eq!(key(&asked[0]), key(&asked[1]));
        assert!(asked[1].ends_with(r#"{"amount":5}"#), "{}", asked[1]);
    }

    #[test]
    fn inputs_stand_in_headers_as_they_are() {
        let (address, asked) = server(vec![answer("200 OK", "", "")]);
        let config = json!({"url": address, "headers": {"x-trace": "<{id}> {\"{id}\"} {}"}});
        let step = || Step::task("a", "http").config(config.clone());
        assert!(run(step().input("id", "input"), json!("a {id}")).output().is_some());
        let asked = asked.join().unwrap().remove(0);
        assert!(asked.contains("x-trace: <a {id}> {\"a {id}\"} {}\r\n"), "{asked}");
        for (step, input, complaint) in [
            (step().input("id", "input"), "a\r\nb: c", "no header can hold"),
            (step(), "", "`headers.x-trace`: the step has no input `id`"),
        ] {
            let failed = run(step, json!(input));
            let Some(Outcome::Failed { failure, .. }) = failed.outcome() else {
                panic!("{failed:?}")
            };
            assert!(failure.message.contains(complaint), "{failure}");
        }
    }

    #[test]
    fn redirects_are_followed_five_times_and_never_with_a_body() {
        let moved = |status: &str| answer(status, "location: ../b?c=d\r\n", "");
        let (address, asked) = server(vec![
            moved("303 See Other"),
            moved("307 Temporary Redirect"),
            answer("200 OK", "", "x"),
        ]);
        let config = json!({"url": format!("{address}/a/a"), "method": "POST"});
        let step = Step::task("a", "http").config(config).input("body", "input");
        assert_eq!(run(step, json!([1])).output().unwrap()["body"], "x");
        let asked = asked.join().unwrap();
        let lines: Vec<_> = asked.iter().map(|asked| asked.lines().next().unwrap()).collect();
        let expected = ["POST /a/a HTTP/1.1", "GET /b?c=d HTTP/1.1", "GET /b?c=d HTTP/1.1"];
        assert_eq!(lines, expected);
        assert!(!asked[1].contains("content-type"), "{}", asked[1]);

        for (status, location, times, method, complaint) in [
            ("302 Found", "location: /\r\n", 6, "GET", "too many redirects"),
            ("302 Found", "", 1, "GET", "but not where to ask"),
            ("302 Found", "location: file:///etc/passwd\r\n", 1, "GET", "is no place to ask"),
            ("308 Permanent Redirect", "location: /b\r\n", 1, "PUT", "write that address as `url`"),
        ] {
            let (address, asked) = server(vec![answer(status, location, ""); times]);
            let step = Step::task("a", "http").config(json!({"url": address, "method": method}));
            let failed = run(step.retry(RetryConfig::attempts(1)), Json::Null);
            let Some(Outcome::Failed { failure, .. }) = failed.outcome() else {
                panic!("{failed:?}")
            };
            assert!(failure.message.contains(complaint), "{failure}");
            asked.join().unwrap();
        }
    }

    #[test]
    fn refusals_have_the_class_that_fits_them() {
        for (status, class) in [
            ("400 Bad Request", ErrorClass::Validation),
            ("401 Unauthorized", ErrorClass::Authentication),
            ("403 Forbidden", ErrorClass::Permission),
            ("429 Too Many Requests", ErrorClass::Temporary),
            ("500 Internal Server Error", ErrorClass::ServerError),
        ] {
            let (address, asked) = server(vec![answer(status, "retry-after: 120\r\n", "no way")]);
            let step = Step::task("a", "http").config(json!({"url": address}));
            let failed = run(step.retry(RetryConfig::attempts(1)), Json::Null);
            let Some(Outcome::Failed { failure, .. }) = failed.outcome() else {
                panic!("{failed:?}")
            };
            assert_eq!(failure.class, class, "{status}");
            assert_eq!(failure.retry_after, Some(Duration::from_secs(120)));
            assert_eq!(failure.message, format!("the server said {status}: no way"));
            asked.join().unwrap();
        }
    }

    #[test]
    fn what_does_not_come_is_an_error_of_its_class() {
        let once = |config: Json| {
            let step = Step::task("a", "http").config(config).retry(RetryConfig::attempts(1));
            let failed = run(step, Json::Null);
            let Some(Outcome::Failed { failure, .. }) = failed.outcome() else {
                panic!("{failed:?}")
            };
            failure.class
        };
        // Nobody listens there any more.
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(once(json!({"url": format!("http://{gone}")})), ErrorClass::Connection);
        // Somebody listens and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        assert_eq!(once(json!({"url": url, "timeout": "50ms"})), ErrorClass::Timeout);
        // Too much.
        let body = "x".repeat(ANSWER_BYTES_MAX as usize + 1);
        let (url, asked) = server(vec![answer("200 OK", "", &body)]);
        assert_eq!(once(json!({"url": url})), ErrorClass::Validation);
        asked.join().unwrap();
        // Not what it says.
        let kind = "content-type: application/json\r\n";
        let (url, asked) = server(vec![answer("200 OK", kind, "<html>")]);
        assert_eq!(once(json!({"url": url})), ErrorClass::ServerError);
        asked.join().unwrap();
    }

    #[test]
    fn wrong_configurations_are_refused_before_the_run_starts() {
        for (config, complaint) in [
            (json!({"url": "file:///etc/passwd"}), "must begin with https:// or http://"),
            (json!({"url": "http://{host}/"}), "no input may stand in the host"),
            (json!({"url": "http://x", "method": "G T"}), "`method`"),
            (json!({"url": "http://x", "headers": {"a b": "c"}}), "`headers`"),
            (json!({"url": "http://x", "headers": {"a": "c\r\nd: e"}}), "`headers`"),
            (json!({"url": "http://x", "timeout": "soon"}), "`timeout`"),
            (json!({"uri": "http://x"}), "unknown field `uri`"),
        ] {
            let error = HttpRequest::from_config(&config).unwrap_err();
            assert!(error.contains(complaint), "{error}");
        }
    }
}
