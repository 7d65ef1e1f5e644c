//! Documents: the same workflow from Rust, JSON and YAML, and where mistakes are.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use serde_json::json;
use stepwell::workflow::{
    Case, FailurePolicy, Limits, OnTimeout, Resources, Timeout, Variable, VariableType,
};
use stepwell::{ErrorKind, Priority, RetryConfig, Step, Trigger, Wait, Workflow};

/// One of everything.
fn everything() -> Workflow {
    let variable =
        Variable { kind: VariableType::Integer, default: Some(3.into()), ..Variable::default() };
    Workflow::builder("everything")
        .name("Everything")
        .version(12)
        .description("one of everything")
        .input_schema(json!({"type": "object"}))
        .variable("level", variable)
        .label("team", "core")
        .metadata("owner", "ann")
        .on_failure(FailurePolicy::FailFast)
        .retry(RetryConfig::attempts(2))
        .limits(Limits { max_concurrent_steps: 7, ..Limits::default() })
        .output("steps.last.output")
        .step(
            Step::task("build", "shell")
                .config(json!({"command": ["make"]}))
                .name("Build")
                .description("builds")
                .input("target", "input.target")
                .output_schema(json!({"type": "object"}))
                .retry(RetryConfig::attempts(5).base_delay(Duration::from_millis(250)))
                .timeout(Duration::from_secs(600))
                .attempt_timeout(Duration::from_secs(60))
                .priority(Priority::High)
                .resources(Resources { memory_mb: 512, cpu_percent: 50 })
                .capability("linux")
                .blocking()
                .metadata("cost", 3)
                .on_success("checks")
                .on_failure("mourn"),
        )
        .step(Step::task("mourn", "mail"))
        .step(Step::parallel(
            "checks",
            [
                Step::task("lint", "t"),
                Step::sequence(
                    "tests",
                    [Step::task("unit", "t"), Step::task("e2e", "t").when("unit.ok")],
                ),
            ],
        ))
        .step(
            Step::choice(
                "route",
                [
                    Case::when("vars.level > 2", [Step::task("big", "t")]),
                    Case::otherwise([Step::task("small", "t")]),
                ],
            )
            .after("checks"),
        )
        .step(
            Step::for_each("each", "input.items", [Step::task("one", "t").input("x", "item")])
                .concurrency(4)
                .after("route"),
        )
        .step(
            Step::until_loop("poll", "last.done", [Step::task("ask", "t")])
                .max_turns(9)
                .always("hold"),
        )
        .step(Step::while_loop("again", "turn < 2", [Step::task("more", "t")]))
        .step(Step::wait("hold", Wait::For(Duration::from_secs(90))).otherwise("sign"))
        .step(Step::wait(
            "sign",
            Wait::signal("go").timeout_with(Timeout {
                after: Duration::from_secs(86_400),
                then: OnTimeout::Continue,
            }),
        ))
        .step(Step::wait("until", Wait::Until("2030-01-01T00:00:00Z".into())))
        .step(Step::wait("cond", Wait::condition("vars.level > 1")))
        .step(Step::workflow("child", "other").workflow_input("input.inner"))
        .step(
            Step::task("last", "t")
                .after_all(["each", "child"])
                .trigger(Trigger::at_least(1))
                .cancel_rest()
                .when(
                    serde_json::from_value::<stepwell::expr::Condition>(
                        json!({"any": [{"field": "input.a", "operator": "exists"}, "true"]}),
                    )
                    .unwrap(),
                ),
        )
        .build()
        .unwrap()
}

#[test]
fn json_reads_back_as_the_same_workflow() {
    let workflow = everything();
    let text = workflow.to_json().unwrap();
    assert_eq!(Workflow::from_json(&text).unwrap(), workflow);
    let through_serde: Workflow = serde_json::from_str(&text).unwrap();
    assert_eq!(through_serde, workflow);
}

#[cfg(feature = "yaml")]
#[test]
fn yaml_reads_as_the_same_workflow() {
    let written = everything().to_yaml().unwrap();
    assert_eq!(Workflow::from_yaml(&written).unwrap(), everything(), "{written}");
    // JSON is YAML; and the same document in YAML's own style.
    let workflow = everything();
    assert_eq!(Workflow::from_yaml(&workflow.to_json().unwrap()).unwrap(), workflow);
    let yaml = Workflow::from_yaml(
        "id: review\nsteps:\n  - id: test\n    task: run_tests\n    retry:\n      max_attempts: 3\n  \
         - id: deploy\n    task: deploy\n    when: test.coverage > 80%\n    otherwise: ticket\n  \
         - {id: ticket, task: ticket}\n",
    );
    let built = Workflow::builder("review")
        .step(Step::task("test", "run_tests").retry(RetryConfig::attempts(3)))
        .step(Step::task("deploy", "deploy").when("test.coverage > 80%").otherwise("ticket"))
        .step(Step::task("ticket", "ticket"))
        .build();
    assert_eq!(yaml.unwrap(), built.unwrap());
}

#[test]
fn mistakes_in_json_have_path_line_and_column() {
    let table = [
        (
            "{\"id\": \"w\", \"steps\": [\n  {\"id\": \"a\", \"task\": \"t\", \"retires\": 1}]}",
            "steps[0].retires: unknown field `retires`, expected one of",
            "line 2 column 36",
        ),
        (
            "{\"id\": \"w\", \"steps\": [\n  {\"id\": \"a\", \"task\": \"t\", \"timeout\": \"soon\"}]}",
            "steps[0].timeout: `soon` is not a length of time",
            "line 2 column",
        ),
        (
            "{\"id\": \"w\",\n \"id\": \"v\", \"steps\": []}",
            "the key `id` is there twice",
            "line 2 column",
        ),
        (
            "{\"id\": \"w\", \"steps\": [{\"id\": \"a\", \"task\": \"t\",\n \"config\": {\"x\": 1, \"x\": 2}}]}",
            "the key `x` is there twice",
            "line 2 column",
        ),
        (
            "{\"id\": \"w\", \"steps\": 7}",
            "steps: invalid type: integer `7`, expected a sequence",
            "line 1",
        ),
        ("{\"id\": \"w\"", "EOF while parsing an object", "line 1 column 10"),
        (
            "{\"name\": \"n\", \"tasks\": [{\"id\": \"a\", \"typ\": \"t\"}]}",
            "tasks[0].typ: unknown field `typ`",
            "line 1",
        ),
        (
            "[{\"task\": \"a\", \"on_sucess\": \"b\"}]",
            "[0].on_sucess: unknown field `on_sucess`",
            "line 1",
        ),
    ];
    for (text, message, place) in table {
        let error = Workflow::from_json(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Syntax);
        let error = error.to_string();
        assert!(error.contains(message) && error.contains(place), "{error}");
    }
}

#[cfg(feature = "schema")]
mod schema {
    use super::*;
    use stepwell::executor::validate_schema;
    use stepwell::workflow::{Definition, document};

    #[test]
    fn the_shipped_schema_is_the_one_that_the_types_generate() {
        let generated = serde_json::to_string_pretty(&Definition::json_schema()).unwrap() + "\n";
        if std::env::var_os("UPDATE").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/workflow/document/schema.json");
            std::fs::write(path, &generated).unwrap();
        } else {
            assert!(document::SCHEMA == generated, "the schema has changed: run with UPDATE=1");
        }
    }

    #[test]
    fn what_is_written_fits_the_schema_and_mistakes_do_not() {
        let schema: serde_json::Value = serde_json::from_str(document::SCHEMA).unwrap();
        let written = serde_json::from_str(&everything().to_json().unwrap()).unwrap();
        assert_eq!(validate_schema(&schema, &written).unwrap(), []);
        for wrong in [
            json!({"id": "w", "steps": [{"id": "a", "task": "t", "retires": 1}]}),
            json!({"id": "w", "steps": 7}),
            json!({"steps": []}),
        ] {
            assert!(!validate_schema(&schema, &wrong).unwrap().is_empty(), "{wrong}");
        }
    }
}

#[test]
fn the_deepest_nest_that_can_be_built_can_be_written_and_read() {
    use stepwell::workflow::NESTING_MAX;
    let nest = |levels: usize| {
        let inner = Step::task("t", "t");
        // A choice takes the most brackets.
        let body = (1..levels).fold(inner, |inner, at| {
            let case = stepwell::workflow::Case { when: None, steps: vec![inner] };
            Step::choice(format!("s{at}"), [case])
        });
        Workflow::builder("w").step(body).build()
    };
    let deepest = nest(NESTING_MAX).unwrap();
    assert_eq!(Workflow::from_json(&deepest.to_json().unwrap()).unwrap(), deepest);
    assert!(nest(NESTING_MAX + 1).is_err());
    #[cfg(feature = "yaml")]
    {
        // YAML is read 64 brackets deep; what is deeper is refused, and no stack runs out.
        let yaml = Workflow::from_yaml(&deepest.to_yaml().unwrap()).unwrap_err();
        assert!(yaml.to_string().contains("depth: 65"), "{yaml}");
        let less = nest(15).unwrap();
        assert_eq!(Workflow::from_yaml(&less.to_yaml().unwrap()).unwrap(), less);
    }
}
