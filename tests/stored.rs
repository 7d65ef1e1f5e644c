//! What events, messages, answers and definitions look like where they are stored. Databases of users
//! are full of it: what earlier programs have written is still read, and today's writes the same.
//!
//! `stored/journal.json` is what is written. `UPDATE=1 cargo test --features testing --test stored`
//! writes it anew, if what stands in it can be read, and is written as before or among the older forms.
//! Those are written by hand, in `stored/older.json`: what is not written any more, or only by people,
//! each with a form that means the same. Snapshots have a test of their own.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::ErrorKind;
use std::sync::LazyLock;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use stepwell::expr::Condition;
use stepwell::journal::Recorded;
use stepwell::retry::Jitter;
use stepwell::run::Rejection;
use stepwell::storage::Message;
use stepwell::testing::conformance::kinds;
use stepwell::workflow::{
    Amount, Approval, Case, FailurePolicy, Limits, Lock, OnTimeout, OnUnknown, Resources, Timeout,
    Variable, VariableType, WorkflowBuilder, document,
};
use stepwell::{ErrorClass, Json, Priority, RetryConfig, Step, Timestamp, Trigger, Wait, Workflow};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stored");

trait Stored: Serialize + DeserializeOwned + PartialEq + Debug {}
impl<T: Serialize + DeserializeOwned + PartialEq + Debug> Stored for T {}

#[test]
fn what_is_written_has_the_form_that_it_had() {
    let at = Timestamp::from_micros(1_500_001);
    let events: Vec<Recorded> =
        kinds::events().into_iter().map(|event| Recorded { at, event }).collect();
    let classes = [
        ("events", written("events", &events)),
        ("messages", written("messages", &kinds::messages())),
        ("rejections", written("rejections", &kinds::rejections())),
        ("definitions", written("definitions", &definitions())),
    ];
    if updating() {
        // A line for each, so that a difference is one of lines.
        let class = |(class, texts): (&str, Vec<String>)| {
            format!("\"{class}\": [\n{}\n]", texts.join(",\n"))
        };
        let text = format!("{{\n{}\n}}\n", classes.map(class).join(",\n"));
        std::fs::create_dir_all(FOLDER).unwrap();
        std::fs::write(format!("{FOLDER}/journal.json"), text).unwrap();
    }
}

/// How these are stored, when what earlier programs have stored is read, and has the same form.
fn written<T: Stored>(class: &str, today: &[T]) -> Vec<String> {
    let (journal, older) = (file("journal.json"), file("older.json"));
    let earlier = list(&journal, class);
    let known: Vec<&Json> = list(&older, class).iter().map(|form| &form["stored"]).collect();
    for entry in earlier {
        let again = form(&read::<T>(class, entry));
        assert!(
            again == *entry || known.contains(&entry),
            "{class}: a stored form has changed: users' runs have\n{entry}\nand now it is\n{again}\n\
             Keep reading the old form, add it to tests/stored/older.json, then run with UPDATE=1"
        );
    }
    let forms: Vec<Json> = today.iter().map(form).collect();
    for (value, form) in today.iter().zip(&forms) {
        assert_eq!(read::<T>(class, form), *value, "{class}: it is read as it was written");
    }
    if !updating() {
        for form in &forms {
            assert!(earlier.contains(form), "{class}: this is new: run with UPDATE=1\n{form}");
        }
        for entry in earlier {
            let there = forms.contains(entry);
            assert!(there, "{class}: nothing writes this any more: run with UPDATE=1\n{entry}");
        }
    }
    today.iter().map(text).collect()
}

#[test]
fn forms_that_are_not_written_any_more_are_read() {
    read_as_told::<Recorded>("events");
    read_as_told::<Message>("messages");
    read_as_told::<Rejection>("rejections");
    read_as_told::<Workflow>("definitions");
}

fn read_as_told<T: Stored>(class: &str) {
    let older = file("older.json");
    for form in list(&older, class) {
        let (stored, same) = (&form["stored"], &form["reads_as"]);
        assert_eq!(read::<T>(class, stored), read::<T>(class, same), "{class}: {stored}");
    }
}

#[test]
fn the_definitions_here_say_all_that_a_document_may() {
    let mut may = BTreeSet::new();
    named(&SCHEMA, "Definition", None, &mut may);
    for (name, schema) in SCHEMA["$defs"].as_object().unwrap() {
        named(schema, name, None, &mut may);
    }
    let older = file("older.json");
    let older = list(&older, "definitions").iter().map(|form| form["stored"].clone());
    let mut says = BTreeSet::new();
    for definition in definitions().iter().map(form).chain(older) {
        named(&SCHEMA, "Definition", Some(&definition), &mut says);
    }
    let missing: Vec<&String> = may.difference(&says).collect();
    assert!(missing.is_empty(), "no definition here has {missing:?}");
}

fn updating() -> bool {
    std::env::var_os("UPDATE").is_some()
}

/// A file of this test; nothing before it is written for the first time.
fn file(name: &str) -> Json {
    let path = format!("{FOLDER}/{name}");
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).unwrap(),
        Err(error) if error.kind() == ErrorKind::NotFound && updating() => Json::Null,
        Err(error) => panic!("{path}: {error}; UPDATE=1 writes it"),
    }
}

fn list<'a>(file: &'a Json, class: &str) -> &'a [Json] {
    match &file[class] {
        Json::Array(list) => list,
        Json::Null if updating() => &[],
        other => panic!("`{class}` is a list, not {other}"),
    }
}

/// As storages write it: of an event they keep its word and what is behind that apart, of a definition
/// the keys are sorted, which is the same JSON.
fn text<T: Stored>(value: &T) -> String {
    serde_json::to_string(value).unwrap()
}

fn form<T: Stored>(value: &T) -> Json {
    serde_json::from_str(&text(value)).unwrap()
}

/// As storages read it.
fn read<T: Stored>(class: &str, stored: &Json) -> T {
    serde_json::from_str(&stored.to_string()).unwrap_or_else(|error| {
        panic!(
            "{class}: {error}: users' runs have\n{stored}\nand could not be read any more.\n\
             Keep reading it, add it to tests/stored/older.json, then run with UPDATE=1"
        )
    })
}

static SCHEMA: LazyLock<Json> = LazyLock::new(|| serde_json::from_str(document::SCHEMA).unwrap());

/// What a value has of that which a schema has names for: fields, as `Lock.max`, and words, as
/// `Priority=low`. Without a value, all that there is, but for what belongs to another schema.
fn named(schema: &Json, of: &str, value: Option<&Json>, found: &mut BTreeSet<String>) {
    let other = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"));
    if let (Some(other), Some(_)) = (other, value) {
        named(&SCHEMA["$defs"][other], other, value, found);
    }
    for choice in ["anyOf", "oneOf"] {
        for schema in schema[choice].as_array().into_iter().flatten() {
            named(schema, of, value, found);
        }
    }
    let words = schema["enum"].as_array().into_iter().flatten().chain([&schema["const"]]);
    for word in words.filter(|word| value.is_none_or(|value| value == *word)) {
        found.extend(word.as_str().map(|word| format!("{of}={word}")));
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        let field = value.and_then(|value| value.get(name));
        if value.is_none() || field.is_some() {
            found.insert(format!("{of}.{name}"));
            named(schema, of, field, found);
        }
    }
    match value {
        Some(Json::Array(items)) => {
            items.iter().for_each(|item| named(&schema["items"], of, Some(item), found));
        }
        Some(Json::Object(fields)) => {
            let more = &schema["additionalProperties"];
            fields.values().for_each(|field| named(more, of, Some(field), found));
        }
        _ => {}
    }
}

/// With all fields and words of documents, but for words that mean the same as none: those stand among
/// the older forms.
fn definitions() -> Vec<Workflow> {
    let all = [settings(), joins(), bodies(), waits()];
    all.into_iter().map(|workflow| workflow.build().unwrap()).collect()
}

const MINUTE: Duration = Duration::from_secs(60);

const CLASSES: [ErrorClass; 14] = [
    ErrorClass::Connection,
    ErrorClass::Timeout,
    ErrorClass::ServerError,
    ErrorClass::Temporary,
    ErrorClass::Unknown,
    ErrorClass::Validation,
    ErrorClass::Authentication,
    ErrorClass::Permission,
    ErrorClass::Configuration,
    ErrorClass::Rejected,
    ErrorClass::Cancelled,
    ErrorClass::Panic,
    ErrorClass::Fatal,
    ErrorClass::OutcomeUnknown,
];

fn settings() -> WorkflowBuilder {
    let limits = Limits {
        max_concurrent_steps: 7,
        max_duration: Duration::from_secs(90_061),
        max_memory_mb: 1_024,
        max_cpu_percent: 100,
        max_value_bytes: 1_000_000,
        max_run_bytes: 100_000_000,
    };
    let number = Variable {
        kind: VariableType::Number,
        schema: Some(json!({"type": "number"})),
        default: Some(1.5.into()),
        required: true,
        description: Some("a number".into()),
    };
    let types = [
        VariableType::Any,
        VariableType::String,
        VariableType::Integer,
        VariableType::Boolean,
        VariableType::Array,
        VariableType::Object,
        VariableType::DateTime,
        VariableType::Duration,
        VariableType::Secret,
    ];
    let workflow = Workflow::builder("settings")
        .name("Settings")
        .version(12)
        .description("what stands around the steps, and on a task")
        .input_schema(json!({"type": "object"}))
        .variable("number", number)
        .label("team", "core")
        .metadata("owner", json!({"z": [1, null], "a": "ü"}))
        .on_failure(FailurePolicy::FailFast)
        .retry(RetryConfig::attempts(2))
        .limits(limits)
        .output("steps.work.output")
        .steps([task(), once(OnUnknown::Ask), once(OnUnknown::Fail)]);
    let typed = |workflow: WorkflowBuilder, kind: VariableType| {
        workflow.variable(format!("{kind:?}"), Variable::of(kind))
    };
    types.into_iter().fold(workflow, typed)
}

fn task() -> Step {
    let retry = RetryConfig::attempts(5)
        .base_delay(Duration::from_millis(250))
        .max_delay(MINUTE)
        .exponential_base(1.5)
        .jitter(Jitter::Decorrelated)
        .retryable(CLASSES);
    Step::task("work", "t")
        .name("Work")
        .description("all that a task may say")
        .config(json!({"command": ["make", 1, null]}))
        .input("target", "input.target")
        .output("size", "output.size")
        .set("number", "output.number")
        .output_schema(json!({"type": "object"}))
        .retry(retry)
        .timeout(Duration::from_secs(600))
        .attempt_timeout(Duration::from_millis(1_500))
        .resources(Resources { memory_mb: 512, cpu_percent: 50 })
        .lock(Lock::new("place").key("input.tenant").max(2))
        .lock(Lock::rate("pace", 3, MINUTE))
        .capability("linux")
        .blocking()
        .transactional()
        .compensate(Step::task("undo", "t").input("of", "output"))
        .metadata("cost", 3)
}

fn once(then: OnUnknown) -> Step {
    Step::task(format!("once, {then:?}"), "t").at_most_once().on_unknown(then)
}

fn joins() -> WorkflowBuilder {
    let triggers = [
        Trigger::AllSucceeded,
        Trigger::AnySucceeded,
        Trigger::at_least(1),
        Trigger::AllDone,
        Trigger::AllFailed,
        Trigger::AnyFailed,
        Trigger::NoneFailed,
        Trigger::tolerates(Amount::Percent(50)),
        Trigger::Always,
    ];
    let joined = triggers.into_iter().enumerate().map(|(at, trigger)| {
        Step::task(format!("join {at}"), "t").after_all(["a", "b"]).trigger(trigger)
    });
    let urgent = Priority::ALL
        .into_iter()
        .map(|priority| Step::task(format!("{priority:?}"), "t").priority(priority));
    let jitters = [Jitter::Full, Jitter::Equal, Jitter::Decorrelated, Jitter::None];
    let spread = jitters.into_iter().map(|jitter| {
        Step::task(format!("{jitter:?}"), "t").retry(RetryConfig::none().jitter(jitter))
    });
    let branch = Step::task("branch", "t")
        .when(condition())
        .on_success("well")
        .on_success("good")
        .on_failure("badly")
        .otherwise("not")
        .always("anyway");
    let branch = CLASSES.into_iter().fold(branch, |step, class| step.on_error(class, "caught"));
    let led_to = ["a", "b", "well", "good", "badly", "not", "anyway", "caught"];
    let rest = Step::task("rest", "t").after("a").trigger(Trigger::AnySucceeded).cancel_rest();
    Workflow::builder("joins")
        .steps(led_to.map(|id| Step::task(id, "t")))
        .steps(joined)
        .steps(urgent)
        .steps(spread)
        .steps([branch, rest, Step::task("clean", "t").finally()])
}

fn condition() -> Condition {
    let fields = [
        ("equals", json!(1)),
        ("not_equals", json!("x")),
        ("contains", json!("x")),
        ("greater_than", json!(-1)),
        ("greater_or_equal", json!(1.5)),
        ("less_than", json!("80%")),
        ("less_or_equal", json!(2)),
        ("in", json!(["x", "y"])),
        ("exists", json!(false)),
        ("matches", json!("^x")),
    ];
    let fields = fields
        .map(|(operator, value)| json!({"field": "input.a", "operator": operator, "value": value}));
    let not = json!({"not": {"field": "input.b", "operator": "exists"}});
    serde_json::from_value(json!({"all": [{"any": fields}, not, "input.c > 1"]})).unwrap()
}

fn bodies() -> WorkflowBuilder {
    let body = || [Step::task("one", "t"), Step::task("two", "t").after("one")];
    let cases = [Case::when("input.big", body()), Case::otherwise(body())];
    Workflow::builder("bodies").steps([
        Step::parallel("at once", body()),
        Step::sequence("in turn", body()),
        Step::choice("either", cases),
        Step::for_each("each", "input.items", body())
            .concurrency(4)
            .enough(2)
            .tolerates(Amount::Percent(10)),
        Step::while_loop("as long as", "turn < 2", body()).max_turns(9),
        Step::until_loop("up to", "turn > 2", body()),
        Step::dynamic("planned", "input.plan").may_run("other"),
        Step::workflow("other", "other@3")
            .workflow_input("input.inner")
            .workflow_variable("level", "input.level"),
    ])
}

fn waits() -> WorkflowBuilder {
    let patience = Timeout { after: MINUTE, then: OnTimeout::Continue };
    let object = json!({"type": "object"});
    let people = Approval::by(["ann", "bob"]).quorum(2).prompt("Go on?").show("input");
    let listed = Approval::by_those_of("input.people").quorum(Amount::Percent(50));
    let first = [("signal", Wait::signal("go")), ("time", Wait::For(MINUTE))];
    Workflow::builder("waits").steps([
        Step::wait("a while", Wait::For(Duration::from_secs(90))),
        Step::wait("a time", Wait::Until("2030-01-01T00:00:00Z".into())),
        Step::wait("a condition", Wait::condition("input.a > 1").timeout_with(patience)),
        Step::wait(
            "a signal",
            Wait::signal("go").key("input.key").schema(object.clone()).timeout(MINUTE),
        ),
        Step::wait("people", Wait::approval(people.schema(object))),
        Step::wait("listed people", Wait::approval(listed)),
        Step::wait("whichever", Wait::first(first)),
    ])
}
