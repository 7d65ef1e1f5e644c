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
    assert!(nested(29).is_ok());
    let error = nested(150).unwrap_err();
    assert!(error.to_string().contains("more than 30 bodies inside each other"), "{error}");
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

#[test]
fn a_list_that_doubles_each_turn_ends() {
    let last = |value: &str| Step::task("x", "process").config(json!({"value": value}));
    let run = |body: Step, condition: &str| {
        let step = Step::while_loop("l", condition, [body]).max_turns(60_000);
        let limits = Limits { max_cpu_percent: 100, max_memory_mb: 1 << 40, ..Limits::default() };
        let flow = Workflow::builder("w").limits(limits).step(step).build().unwrap();
        let engine = Engine::builder().build().unwrap();
        let run = futures::executor::block_on(engine.execute(&flow, ())).unwrap();
        run.outcome().unwrap().to_string()
    };
    on_a_small_stack(move || {
        let doubled = run(last("[last, last]"), "turn < 50");
        assert!(doubled.contains("copies more than 1000000 values"), "{doubled}");
        let deep = run(last("[last]"), "turn < 50000");
        assert!(deep.contains("nests deeper than 100"), "{deep}");
    });
}

#[test]
fn values_that_nest_too_deep_are_refused_everywhere() {
    let deep = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    on_a_small_stack(move || {
        let engine = Engine::builder()
            .executor("deep", executor_fn(move |_| async move { Ok(deep(200)) }))
            .build()
            .unwrap();
        let flow = Workflow::builder("w").step(Step::task("a", "deep")).build().unwrap();
        let refused = futures::executor::block_on(engine.execute(&flow, deep(200))).unwrap_err();
        assert!(refused.to_string().contains("nests deeper than 100"), "{refused}");
        let run = futures::executor::block_on(engine.execute(&flow, deep(90))).unwrap();
        let outcome = run.outcome().unwrap().to_string();
        assert!(outcome.contains("the output nests deeper than 100"), "{outcome}");
    });
}

#[test]
fn bodies_that_multiply_are_bounded() {
    let engine = |flow: &Workflow| Engine::builder().workflow(flow).build().unwrap();
    let run = |flow: Workflow, input| {
        let run = futures::executor::block_on(engine(&flow).execute(&flow, input)).unwrap();
        run.outcome().unwrap().to_string()
    };
    // Ten of itself inside itself, sixteen deep.
    let steps = (0..10).map(|at| Step::workflow(format!("s{at}"), "w"));
    let again = run(Workflow::builder("w").steps(steps).build().unwrap(), json!(null));
    assert!(again.contains("failed"), "{again}");
    // A body that takes no time, four thousand million times.
    let idle = Step::wait("a", stepwell::Wait::For(std::time::Duration::ZERO));
    let idle = Step::while_loop("l", "true", [idle]).max_turns(4_000_000_000);
    let idle = run(Workflow::builder("w").step(idle).build().unwrap(), json!(null));
    assert!(idle.contains("do nothing that takes time"), "{idle}");
    // A thousand items of a thousand items of a thousand.
    let each = |id: &str, inner| Step::for_each(id, "input", [inner]);
    let waits = Step::wait("w", stepwell::Wait::signal("never"));
    let many = each("a", each("b", each("c", waits)));
    let items: Vec<u32> = (0..1_000).collect();
    let many = run(Workflow::builder("w").step(many).build().unwrap(), json!(items));
    assert!(many.contains("bodies are open at once") || many.contains("follow from one"), "{many}");
}
