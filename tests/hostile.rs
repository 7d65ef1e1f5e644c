//! What nobody sane would do: each ends in a clear error or in success, never in a crash or a hang.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::json;
use stepwell::workflow::{Definition, Limits};
use stepwell::{Engine, ErrorKind, RunStatus, Step, Workflow, executor_fn};

/// On a stack as small as the smallest in use, so that recursion shows.
fn on_a_small_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(work).unwrap();
    thread.join().unwrap()
}

#[test]
fn a_million_steps_run() {
    let limits = Limits { max_cpu_percent: 100, max_memory_mb: 1 << 40, ..Limits::default() };
    on_a_small_stack(move || {
        let steps = (0..1_000_000_u32).map(|at| {
            let step = Step::task(at.to_string(), "t");
            if at % 1_000 == 0 { step } else { step.after((at - 1).to_string()) }
        });
        let workflow = Workflow::builder("million").limits(limits).steps(steps).build().unwrap();
        let engine =
            Engine::builder().executor("t", executor_fn(|_| async { Ok(()) })).build().unwrap();
        let run = futures::executor::block_on(engine.execute(&workflow, ())).unwrap();
        assert_eq!(run.status(), RunStatus::Succeeded);
        assert_eq!(run.progress().succeeded, 1_000_000);
    });
}

#[test]
fn a_document_of_ten_megabytes_is_read() {
    let filler = "x".repeat(100);
    let steps: Vec<_> = (0..60_000)
        .map(|at| json!({"id": format!("s{at}"), "task": "t", "description": filler}))
        .collect();
    let text = json!({"id": "big", "steps": steps}).to_string();
    assert!(text.len() > 8_000_000);
    assert_eq!(Workflow::from_json(&text).unwrap().plan().len(), 60_000);
    let too_big = " ".repeat(stepwell::workflow::document::DOCUMENT_BYTES_MAX + 1);
    assert_eq!(Workflow::from_json(&too_big).unwrap_err().kind(), ErrorKind::LimitExceeded);
}

#[test]
fn a_deep_nest_is_refused() {
    on_a_small_stack(|| {
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("{\"steps\":[", "]}")] {
            let text = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
            assert_eq!(Workflow::from_json(&text).unwrap_err().kind(), ErrorKind::Syntax);
        }
    });
}

#[cfg(feature = "yaml")]
#[test]
fn a_yaml_nest_and_a_yaml_bomb_are_refused() {
    on_a_small_stack(|| {
        let nest = "[".repeat(10_000);
        assert_eq!(Workflow::from_yaml(&nest).unwrap_err().kind(), ErrorKind::Syntax);
        let mut indented = String::from("id: w\nsteps:\n");
        for depth in 0..10_000 {
            indented.push_str(&format!("{}- parallel:\n", " ".repeat(depth)));
        }
        let error = Workflow::from_yaml(&indented[..20_000_000.min(indented.len())]).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Syntax | ErrorKind::LimitExceeded));
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..10 {
            let before = format!("*a{}, ", level - 1).repeat(9);
            bomb.push_str(&format!("a{level}: &a{level} [{before}*a{}]\n", level - 1));
        }
        assert_eq!(Workflow::from_yaml(&bomb).unwrap_err().kind(), ErrorKind::Syntax);
    });
}

#[test]
fn bodies_nested_by_hand_are_refused_beyond_the_limit() {
    let nested = |levels: usize| {
        let mut step = Step::task("t", "t");
        for level in 0..levels {
            step = Step::sequence(format!("s{level}"), [step]);
        }
        Workflow::builder("deep").step(step).build()
    };
    assert!(nested(99).is_ok());
    let error = nested(150).unwrap_err();
    assert!(error.to_string().contains("more than 100 bodies inside each other"), "{error}");
}

#[test]
fn a_condition_that_divides_by_zero_fails_its_step() {
    let workflow = Workflow::builder("w")
        .step(Step::task("a", "output").when("1 / input.zero > 1"))
        .build()
        .unwrap();
    let engine = Engine::builder().build().unwrap();
    let run = futures::executor::block_on(engine.execute(&workflow, json!({"zero": 0}))).unwrap();
    assert!(run.summary().contains("division by zero"), "{}", run.summary());
}

#[test]
fn a_million_problems_are_counted_not_listed() {
    let mut definition = Definition::new("w");
    definition.steps =
        (0..20_000).map(|at| Step::task(format!("s{at}"), "t").after("nobody")).collect();
    let error = Workflow::from_definition(definition).unwrap_err();
    assert_eq!(error.problems().len(), 20_000);
    assert!(error.to_string().len() < 20_000);
}

#[test]
fn a_loop_of_a_hundred_thousand_turns_runs() {
    let body = [Step::task("t", "output")];
    let workflow = Workflow::builder("loop")
        .limits(Limits { max_cpu_percent: 100, ..Limits::default() })
        .step(Step::while_loop("l", "turn < 100000", body).max_turns(200_000))
        .build()
        .unwrap();
    let engine = Engine::builder().build().unwrap();
    let run = futures::executor::block_on(engine.execute(&workflow, ())).unwrap();
    assert_eq!(run.status(), RunStatus::Succeeded, "{}", run.summary());
}
