//! What the engine tells a `tracing` subscriber.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use stepwell::testing::VirtualRuntime;
use stepwell::{Engine, RetryConfig, StartOptions, Step, StepError, Workflow, executor_fn};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

type Fields = BTreeMap<String, String>;

/// Remembers spans, and events with the span that they were told in.
#[derive(Clone, Default)]
struct Memory(Arc<Inner>);

#[derive(Default)]
struct Inner {
    next: AtomicU64,
    spans: Mutex<Vec<(u64, String, Fields)>>,
    entered: Mutex<Vec<u64>>,
    events: Mutex<Vec<(Option<u64>, Fields)>>,
}

struct Reader<'a>(&'a mut Fields);

impl Visit for Reader<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_string(), format!("{value:?}").trim_matches('"').to_string());
    }
}

impl Subscriber for Memory {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("stepwell")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.0.next.fetch_add(1, Ordering::SeqCst) + 1;
        let mut fields = Fields::new();
        span.record(&mut Reader(&mut fields));
        self.0.spans.lock().unwrap().push((id, span.metadata().name().to_string(), fields));
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::new();
        event.record(&mut Reader(&mut fields));
        let span = self.0.entered.lock().unwrap().last().copied();
        self.0.events.lock().unwrap().push((span, fields));
    }

    fn enter(&self, span: &Id) {
        self.0.entered.lock().unwrap().push(span.into_u64());
    }

    fn exit(&self, span: &Id) {
        let last = self.0.entered.lock().unwrap().pop();
        assert_eq!(last, Some(span.into_u64()));
    }
}

#[test]
fn each_attempt_is_a_span_that_its_log_lines_stand_in() {
    let memory = Memory::default();
    tracing::subscriber::with_default(memory.clone(), || {
        let time = VirtualRuntime::new(1);
        let engine = Engine::builder()
            .runtime(time.clone())
            .executor(
                "t",
                executor_fn(|ctx| async move {
                    ctx.sleep(std::time::Duration::from_secs(1)).await;
                    ctx.log(stepwell::executor::LogLevel::Info, format!("at {}", ctx.attempt()));
                    if ctx.attempt() == 1 { Err(StepError::retryable("once")) } else { Ok(()) }
                }),
            )
            .build()
            .unwrap();
        let step = Step::task("a", "t").retry(RetryConfig::attempts(2));
        let body = Workflow::builder("w").step(Step::sequence("outer", [step])).build().unwrap();
        let run = async {
            let handle = engine.start_with(&body, (), StartOptions::id("r")).await.unwrap();
            handle.outcome().await.unwrap()
        };
        assert!(time.block_on(run).unwrap().output().is_some());
    });
    let spans = memory.0.spans.lock().unwrap();
    let told: Vec<_> = spans
        .iter()
        .map(|(_, name, f)| (name.as_str(), &*f["run_id"], &*f["step"], &*f["attempt"]))
        .collect();
    assert_eq!(
        told,
        [("workflow.step", "r", "outer/a", "1"), ("workflow.step", "r", "outer/a", "2"),]
    );
    let events = memory.0.events.lock().unwrap();
    for (at, (id, ..)) in spans.iter().enumerate() {
        let said = format!("at {}", at + 1);
        let (span, _) = events.iter().find(|(_, fields)| fields["message"] == said).unwrap();
        assert_eq!(*span, Some(*id), "{said}");
    }
    assert!(events.iter().any(|(_, fields)| fields["message"] == "run ended"));
}
