//! What runs do, as scripts: a workflow, commands, and under each the events that it causes.
//!
//! `UPDATE=1 cargo test --all-features --test scripts` writes what happens now into the files; the
//! difference is to be read, not believed. Every script is also replayed event by event, and the
//! state must come out the same.
#![cfg(all(feature = "yaml", feature = "template", feature = "schema"))]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value as Json;
use stepwell::journal::{Mapping, Operation, Reason, Recorded, Signal, Vote, Waiting};
use stepwell::run::{Command, Report, RetryAllowance, RunState};
use stepwell::workflow::Program;
use stepwell::{
    ErrorClass, Event, Failure, Outcome, RunId, StepKey, StepStatus, Timestamp, Value, Workflow,
};

#[test]
fn every_script_does_what_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (mut wrong, mut explained) = (Vec::new(), BTreeSet::new());
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let name = file.file_stem().unwrap().to_string_lossy();
        let now = Script::run(&name, &text, &mut explained);
        if now != text && std::env::var_os("UPDATE").is_some() {
            std::fs::write(file, &now).unwrap();
        } else if now != text {
            wrong.push(format!("== {name}\n{}", difference(&text, &now)));
        }
    }
    assert!(files.len() >= 120, "only {} scripts", files.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Those that are an engine's to give are tested with one.
    let never: Vec<&&str> = EXPLAINED.iter().filter(|state| !explained.contains(**state)).collect();
    assert!(never.is_empty(), "no script explains these states: {never:?}");
}

/// Each state that a step can be in, and that a run can, as far as the run itself knows.
const EXPLAINED: [&str; 26] = [
    "step RunNotStarted",
    "step RunEnded",
    "step WaitsFor",
    "step WaitsForCompensation",
    "step Paused",
    "step Ready",
    "step Running",
    "step RetryDue",
    "step OutcomeUnknown",
    "step WaitsUntil",
    "step WaitsForSignal",
    "step WaitsForCondition",
    "step WaitsForApproval",
    "step WaitsForFirst",
    "step Succeeded",
    "step Failed",
    "step ConditionFalse",
    "step SkippedByOperator",
    "step NotReached",
    "step Cancelled",
    "run NotStarted",
    "run UnderWay",
    "run Paused",
    "run Quarantined",
    "run Stopping",
    "run Ended",
];

/// What of an enum this is.
fn variant(of: &str, debug: &impl std::fmt::Debug) -> String {
    let debug = format!("{debug:?}");
    let name = debug.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    format!("{of} {name}")
}

fn difference(expected: &str, found: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let at = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let line = |lines: &[&str]| lines.get(at).copied().unwrap_or("(end)").to_string();
    format!("line {}\n  expected {}\n  found    {}", at + 1, line(&a), line(&b))
}

struct Script {
    state: RunState,
    program: Arc<Program>,
    others: Vec<Workflow>,
    now: Timestamp,
    journal: Vec<Recorded>,
    /// Paths of steps whose scopes are gone by the time that they are printed.
    paths: std::collections::BTreeMap<StepKey, String>,
    explained: BTreeSet<String>,
}

impl Script {
    /// The text again, with what happens now under each command.
    fn run(name: &str, text: &str, explained: &mut BTreeSet<String>) -> String {
        let (head, body) = text.split_once("\n----\n").unwrap_or_else(|| panic!("{name}: no ----"));
        let mut definitions = head.split("\n====\n");
        let first = definitions.next().unwrap();
        // The first lines say what the script shows.
        let comment = first.lines().take_while(|line| line.starts_with('#')).count();
        let yaml: Vec<&str> = first.lines().skip(comment).collect();
        let mut out = format!("{head}\n----\n");
        let workflow = match Workflow::from_yaml(&yaml.join("\n")) {
            Ok(workflow) => workflow,
            Err(error) => {
                return format!("{out}refused\n  {}\n", error.to_string().replace('\n', "\n  "));
            }
        };
        let others: Vec<Workflow> =
            definitions.map(|yaml| Workflow::from_yaml(yaml).unwrap()).collect();
        let find = |id: &str| {
            let all = std::iter::once(&workflow).chain(&others);
            all.into_iter().find(|other| other.reference() == id).cloned()
        };
        let program = match Program::link(&workflow, find, Vec::new) {
            Ok(program) => program,
            Err(error) => {
                return format!("{out}refused\n  {}\n", error.to_string().replace('\n', "\n  "));
            }
        };
        let mut script = Self {
            state: RunState::new(RunId::new(name).unwrap(), Arc::clone(&program)),
            program,
            others: others.clone(),
            now: Timestamp::EPOCH,
            journal: Vec::new(),
            paths: Default::default(),
            explained: BTreeSet::new(),
        };
        for command in body.lines().filter(|line| !line.starts_with("  ")) {
            let _ = writeln!(out, "{command}");
            for line in script.command(command) {
                let _ = writeln!(out, "  {line}");
            }
        }
        script.check(name);
        explained.append(&mut script.explained);
        out
    }

    fn command(&mut self, text: &str) -> Vec<String> {
        let mut words = text.splitn(3, ' ');
        let verb = words.next().unwrap();
        let first = words.next().unwrap_or_default();
        let rest = words.next().unwrap_or_default();
        let json = |text: &str| -> Value {
            if text.is_empty() { Value::NULL } else { serde_json::from_str(text).unwrap() }
        };
        match verb {
            "start" => {
                let input = json(first);
                let grace = std::time::Duration::from_secs(10);
                self.decide(Command::Start { input, variables: json(rest), seed: 1, grace })
            }
            "go" => {
                let mut lines = Vec::new();
                while let Some(step) = self.state.first_ready() {
                    let now = self.decide(Command::Dispatch { step });
                    if now.first().is_some_and(|line| line.starts_with("rejected")) {
                        return now;
                    }
                    lines.extend(now);
                }
                lines
            }
            "dispatch" => self.with(first, |step, _| Command::Dispatch { step }),
            "ok" => self.report(first, Report::Succeeded(json(rest))),
            "fail" => {
                let (class, message) = rest.split_once(' ').unwrap_or((rest, "no"));
                let class: ErrorClass = serde_json::from_value(Json::from(class)).unwrap();
                let mut failure = Failure::new(class, message);
                failure.nothing_done = message.starts_with("nothing done");
                self.report(
                    first,
                    Report::Failed { failure: failure.into(), retry: RetryAllowance::Allowed },
                )
            }
            "suspend" => {
                let wait = stepwell::StepError::wait_for_signal(rest, (), None);
                self.report(first, Report::Suspended(wait.into_failure().unwrap_err().into()))
            }
            "late" => {
                let attempt = rest.parse().unwrap();
                let result = Report::Succeeded(Value::NULL);
                self.with(first, |step, _| Command::Report { step, attempt, result })
            }
            "after" => {
                self.now = self.now + stepwell::time::parse_duration(first).unwrap();
                self.decide(Command::Tick { retry: RetryAllowance::Allowed })
            }
            "signal" => self.decide(Command::Signal(Signal::new(first, json(rest)))),
            "transient" => self.decide(Command::Signal(Signal::new(first, json(rest)).transient())),
            "approve" | "reject" => {
                let mut words = rest.splitn(3, ' ');
                let by = words.next().unwrap();
                let vote = if verb == "approve" { Vote::approve(by) } else { Vote::reject(by) };
                let vote = vote.comment(words.next().unwrap_or_default());
                let vote = Box::new(vote.payload(json(words.next().unwrap_or_default())));
                self.decide(Command::Vote { approval: first.into(), vote })
            }
            "approvals" => {
                let open = self.state.approvals();
                open.map(|(path, open)| format!("{path}: {}", serde_json::to_string(open).unwrap()))
                    .collect()
            }
            "quarantine" => self.decide(Command::Quarantine { recoveries: 6 }),
            "pause" => self.decide(Command::Pause(Reason::new("ann", "look").into())),
            "resume" => self.decide(Command::Resume(Reason::new("ann", "go").into())),
            "cancel" => {
                self.decide(Command::Cancel { by: Reason::new("bob", "stop").into(), grace: None })
            }
            "terminate" => self.decide(Command::Terminate(Reason::new("bob", "now").into())),
            "rerun" => self.operate(Operation::rerun(first)),
            "alone" => self.operate(Operation::rerun_alone(first)),
            "items" => self.operate(Operation::rerun_failed_items(first)),
            "retry" => self.operate(Operation::RetryFailed),
            "skip" => self.operate(Operation::skip([first])),
            "lose" => self.with(first, |step, attempt| Command::Lose { step, attempt }),
            "deny" => self.operate(Operation::fail(first, rest)),
            "done" => self.operate(Operation::succeed(first, json(rest))),
            "stop" => self.operate(Operation::cancel(first.split(','))),
            // Other definitions stand at the top, by their ids; one of these becomes this one.
            "modify" | "migrate" => {
                let other = self.others.iter().find(|other| other.id() == first).unwrap();
                let mut definition = other.definition().clone();
                // Others of the same id are versions of it, which sub-workflow steps may name.
                definition.id = self.program.unit(0).workflow.clone();
                let workflow = Box::new(Workflow::from_definition(definition).unwrap());
                let revision = rest.parse().unwrap_or_else(|_| self.state.revision());
                let mapping = (verb == "migrate").then(|| mapping(rest));
                let linked = self.others.clone();
                self.operate(Operation::Modify { workflow, linked, revision, mapping })
            }
            "set" => self.operate(Operation::set_variable(first, json(rest))),
            "explain" if first.is_empty() => {
                let why = self.state.explain_run();
                self.explained.insert(variant("run", &why));
                vec![why.to_string()]
            }
            "explain" => {
                let found = self.state.find(first).and_then(|step| self.state.explain(step));
                self.explained.extend(found.iter().map(|why| variant("step", why)));
                vec![found.map_or_else(|| "no such step".into(), |why| why.to_string())]
            }
            "name" => {
                let found = self.state.find(first).map(|step| self.state.instance(step));
                vec![found.unwrap_or_else(|| "no such step".into())]
            }
            "progress" => vec![self.state.progress(self.now).to_string()],
            "due" => vec![
                self.state.next_due(self.now).map_or_else(|| "never".into(), |at| at.to_string()),
            ],
            "journal" => vec![self.journal.len().to_string()],
            other => panic!("no command {other}"),
        }
    }

    /// What the preview says must be what happens.
    fn operate(&mut self, operation: Operation) -> Vec<String> {
        let preview = self.state.preview(&operation, self.now);
        let first = self.journal.len();
        let by = Reason::new("ann", "why").into();
        let lines = self.decide(Command::Operate { operation: Box::new(operation), by });
        let reset = |event: &Event| matches!(event, Event::StepReset { .. });
        let resets = self.journal[first..].iter().filter(|recorded| reset(&recorded.event)).count();
        let again = preview.as_ref().map_or(0, |preview| preview.again.len());
        assert!(again >= resets, "the preview shows {again} of {resets} steps");
        let mut lines = lines;
        let is_change = lines.iter().any(|line| line == "definition changed");
        for preview in preview.iter().filter(|_| is_change) {
            let lists = [("stopped", &preview.dropped), ("forgotten", &preview.forgotten)];
            for (what, paths) in lists.into_iter().filter(|(_, paths)| !paths.is_empty()) {
                lines.push(format!("{what}: {}", paths.join(", ")));
            }
        }
        lines
    }

    fn report(&mut self, path: &str, result: Report) -> Vec<String> {
        self.with(path, |step, attempt| Command::Report { step, attempt, result })
    }

    fn with(&mut self, path: &str, make: impl FnOnce(StepKey, u32) -> Command) -> Vec<String> {
        match self.state.find(path) {
            Some(step) => {
                let attempt = self.state.attempt(step);
                self.decide(make(step, attempt))
            }
            None => vec!["no such step".into()],
        }
    }

    fn decide(&mut self, command: Command) -> Vec<String> {
        let before = self.state.clone();
        let first = self.journal.len();
        if let Err(rejection) = self.state.decide_into(command, self.now, &mut self.journal) {
            assert_eq!(self.state, before, "a rejection changed the state");
            assert_eq!(self.journal.len(), first);
            let text = format!("rejected: {rejection}");
            return text.lines().map(str::to_string).collect();
        }
        // Scopes come and go inside one command; replaying it shows each step's path in time.
        let mut replayed = before;
        let mut lines = Vec::new();
        for recorded in &self.journal[first..] {
            replayed.apply(recorded.at, &recorded.event);
            // The outermost steps may stand elsewhere now.
            if matches!(recorded.event, Event::WorkflowModified(_)) {
                self.paths.clear();
            }
            for (step, _) in replayed.steps() {
                self.paths.entry(step).or_insert_with(|| replayed.path(step));
            }
            lines.push(self.describe(&recorded.event));
        }
        assert_eq!(replayed, self.state, "replay and live state differ");
        lines
    }

    fn describe(&self, event: &Event) -> String {
        let path = |step: &StepKey| self.paths.get(step).cloned().unwrap_or_default();
        match event {
            Event::RunStarted(_) => "run started".into(),
            Event::StepReady { step } => format!("{} ready", path(step)),
            Event::StepStarted { step, attempt } => {
                format!("{} started, attempt {attempt}", path(step))
            }
            Event::StepSucceeded { step, output } => format!("{} succeeded: {output}", path(step)),
            Event::AttemptFailed { step, failed } => {
                let step = path(step);
                format!(
                    "{step} attempt {} failed ({}), next at {}",
                    failed.attempt, failed.failure, failed.retry_at
                )
            }
            Event::StepFailed { step, failure } => format!("{} failed: {failure}", path(step)),
            Event::StepOutcomeUnknown { step, failure } => {
                format!("{} unknown: {failure}", path(step))
            }
            Event::StepSkipped { step, reason } => format!("{} skipped: {reason}", path(step)),
            Event::StepCancelRequested { step, reason, .. } => {
                format!("{} asked to stop: {reason:?}", path(step))
            }
            Event::StepCancelled { step, reason } => {
                format!("{} cancelled: {reason:?}", path(step))
            }
            Event::WaitStarted { step, wait } => format!("{} waits {}", path(step), waits(wait)),
            Event::Voted { step, vote } => format!("{} {vote}", path(step)),
            Event::StepSuspended { step, suspended } => {
                format!("{} suspended for signal {}", path(step), suspended.suspension.signal)
            }
            Event::SignalReceived { signal } => format!("signal {} kept", signal.name),
            Event::SignalTaken { step, signal } => {
                format!("signal {} taken by {}", signal.name, path(step))
            }
            Event::StepsMade { step, unit, .. } => {
                format!("{} made steps, unit {unit}", path(step))
            }
            Event::VariablesSet { values, .. } => format!("variables {values}"),
            Event::ItemsListed { step, items } => format!("{} items {items}", path(step)),
            Event::ScopeOpened { scope, opened } => {
                format!("scope {scope} opened for {}, index {}", path(&opened.parent), opened.index)
            }
            Event::ScopeClosed { scope, outcome } => format!("scope {scope} {}", ended(outcome)),
            Event::ScopeStopping { scope: 0 } => "run stopping".into(),
            Event::ScopeStopping { scope } => format!("scope {scope} stopping"),
            Event::ScopeCompensating { scope, outcome } => {
                format!("scope {scope} {}, and undoes what was done", ended(outcome))
            }
            Event::CompensationStarted { scope, of } => {
                format!("scope {scope} opened to undo a step of scope {of}")
            }
            Event::RunPaused { by } => format!("run paused {by}"),
            Event::RunQuarantined { recoveries } => {
                format!("run in quarantine, taken over {recoveries} times")
            }
            Event::RunResumed { by, deadline } => format!("run resumed {by}, limit {deadline}"),
            Event::RunCancelRequested { by, .. } => format!("run cancelling {by}"),
            Event::RunTerminated { by } => format!("run terminated {by}"),
            Event::RunLimitReached => "run over its time limit".into(),
            Event::Operated { operation, by } => format!("{operation} ({by})"),
            Event::WorkflowModified(_) => "definition changed".into(),
            Event::SecretsResealed { replaced } => format!("{} secrets resealed", replaced.len()),
            Event::RunReopened { deadline } => format!("run goes on, limit {deadline}"),
            Event::StepReset { step, failed_items: false } => format!("{} again", path(step)),
            Event::StepReset { step, .. } => format!("{} again, failed items only", path(step)),
            Event::RunFinished { outcome } => format!("run {}", ended(outcome)),
            other => format!("{other:?}"),
        }
    }

    /// What must be true of every journal.
    fn check(&self, name: &str) {
        let replayed =
            RunState::replay(RunId::new(name).unwrap(), Arc::clone(&self.program), &self.journal);
        assert_eq!(replayed, self.state, "{name}: replaying the journal gives another state");
        let ended = self.state.status().is_end();
        let alive = self.journal.is_empty()
            || ended
            || self.state.first_ready().is_some()
            || self.state.next_due(self.now).is_some()
            || self.state.steps().any(|(_, status)| {
                matches!(status, StepStatus::Waiting | StepStatus::OutcomeUnknown)
            });
        assert!(alive, "{name}: stranded");
    }
}

/// `old>new` renames, `-old` removes, `new=json` takes for done, `!new` leaves out.
fn mapping(text: &str) -> Mapping {
    text.split_whitespace().fold(Mapping::new(), |mapping, word| {
        if let Some(old) = word.strip_prefix('-') {
            mapping.remove(old)
        } else if let Some(new) = word.strip_prefix('!') {
            mapping.skip(new)
        } else if let Some((old, new)) = word.split_once('>') {
            mapping.rename(old, new)
        } else {
            let (new, output) = word.split_once('=').unwrap();
            mapping.succeed(new, serde_json::from_str::<Json>(output).unwrap())
        }
    })
}

fn ended(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Succeeded(output) => format!("succeeded: {output}"),
        other => other.to_string(),
    }
}

fn waits(wait: &Waiting) -> String {
    let until = |at: &Option<Timestamp>| at.map_or(String::new(), |at| format!(" until {at}"));
    match wait {
        Waiting::Until(at) => format!("until {at}"),
        Waiting::Signal(name, at) => format!("for signal {name}{}", until(at)),
        Waiting::Condition(at) => format!("for its condition{}", until(at)),
        Waiting::Approval(open) => {
            format!("for {} approvals as {}{}", open.quorum, open.id, until(&open.until))
        }
        Waiting::First(ways) => {
            let ways: Vec<String> =
                ways.iter().map(|(label, wait)| format!("{label} {}", waits(wait))).collect();
            format!("for the first of: {}", ways.join("; "))
        }
        other => format!("{other:?}"),
    }
}
