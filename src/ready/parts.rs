//! The parts of a ready-made workflow, and what its user puts in their place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::error::{Error, Problem, Problems, Result};
use crate::id::StepId;
use crate::workflow::{Definition, Priority, Step, StepKind, Trigger, Workflow};

/// What the user has said about the parts of a workflow.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    own: BTreeMap<StepId, Step>,
    without: BTreeSet<String>,
}

impl Parts {
    pub(super) fn put(&mut self, step: Step) {
        self.own.insert(step.id.clone(), step);
    }

    pub(super) fn leave_out(&mut self, part: String) {
        self.without.insert(part);
    }

    /// A part that is always there.
    pub(super) fn part(&self, ready: Step) -> Step {
        match self.own.get(&ready.id) {
            Some(own) => over(own.clone(), ready),
            None => ready,
        }
    }

    /// A part that can be left out.
    pub(super) fn optional(&self, ready: Step) -> Option<Step> {
        let left_out = self.without.contains(ready.id.as_str());
        (!left_out).then(|| self.part(ready))
    }

    pub(super) fn has_own(&self, part: &str) -> bool {
        self.own.contains_key(part)
    }

    /// Names that are no parts, or none that can be left out.
    pub(super) fn check(
        &self,
        place: &str,
        needed: &[&str],
        optional: &[&str],
        problems: &mut Problems,
    ) {
        let all = || needed.iter().chain(optional).copied();
        for id in self.own.keys().map(StepId::as_str).filter(|id| !all().any(|part| part == *id)) {
            let problem =
                Problem::error(format!("{place}task"), format!("there is no part `{id}`"));
            problems.push(problem.suggest(id, all()));
        }
        for id in self.without.iter().filter(|id| !optional.contains(&id.as_str())) {
            let place = format!("{place}without");
            problems.push(if needed.contains(&id.as_str()) {
                let hint = format!("these can: {}", optional.join(", "));
                Problem::error(place, format!("`{id}` cannot be left out")).hint(hint)
            } else {
                Problem::error(place, format!("there is no part `{id}`")).suggest(id, all())
            });
        }
    }

    /// Adds what tells people how a run ended, after all these steps and whatever became of them.
    pub(super) fn announce(&self, ready: Step, steps: &mut Vec<Step>) {
        // A failure that another step tolerates is none to tell of.
        let tolerated = |step: &&Step| {
            let by = |other: &Step| other.trigger.is_some_and(Trigger::catches_failure);
            steps.iter().any(|other| other.after.contains(&step.id) && by(other))
        };
        let ids: Vec<&StepId> =
            steps.iter().filter(|step| !tolerated(step)).map(|step| &step.id).collect();
        let ready = ready.input("error", first_error(&ids));
        let Some(tell) = self.optional(ready) else {
            return;
        };
        // A message that cannot be sent is no reason to undo what was done.
        let unsent = StepId::from(format!("{}_failed", tell.id));
        let note = Step::task(&unsent, "output")
            .description("Takes note that nobody could be told")
            .input("error", format!("{}.error", path(&tell.id)));
        let description = "Tells people how it ended";
        let both = Step::sequence(&tell.id, [tell.clone().on_failure(unsent), note]);
        steps.push(both.description(description).finally());
    }
}

/// A step of the user's in the place of a part: what it leaves open comes from the part.
pub(super) fn over(own: Step, ready: Step) -> Step {
    let mut step = own;
    let more = |mine: &mut Vec<StepId>, theirs: Vec<StepId>| {
        let new: Vec<StepId> = theirs.into_iter().filter(|id| !mine.contains(id)).collect();
        mine.extend(new);
    };
    more(&mut step.after, ready.after);
    more(&mut step.on_success, ready.on_success);
    more(&mut step.on_failure, ready.on_failure);
    more(&mut step.otherwise, ready.otherwise);
    more(&mut step.always, ready.always);
    for (class, ids) in ready.on_error {
        more(step.on_error.entry(class).or_default(), ids);
    }
    // Only tasks have these.
    if matches!(step.kind, StepKind::Task { .. }) {
        for (name, expression) in ready.inputs {
            step.inputs.entry(name).or_insert(expression);
        }
        step.retry = step.retry.or(ready.retry);
        step.attempt_timeout = step.attempt_timeout.or(ready.attempt_timeout);
    }
    for (key, value) in ready.metadata {
        step.metadata.entry(key).or_insert(value);
    }
    if step.priority == Priority::default() {
        step.priority = ready.priority;
    }
    step.description = step.description.or(ready.description);
    step.when = step.when.or(ready.when);
    step.trigger = step.trigger.or(ready.trigger);
    step.timeout = step.timeout.or(ready.timeout);
    step.output_schema = step.output_schema.or(ready.output_schema);
    step.compensate = step.compensate.or(ready.compensate);
    step
}

/// A step that fails unless these conditions hold; left out when they do.
pub(super) fn gate(conditions: &[String]) -> Option<Step> {
    let all = match conditions {
        [] => return None,
        [only] => only.clone(),
        several => several.iter().map(|one| format!("({one})")).collect::<Vec<_>>().join(" and "),
    };
    // No executor fails on purpose, but what does not fit its schema does.
    let message = text(&format!("it takes {all}"));
    let closed = Step::task("gate_closed", "process")
        .description("Fails the run unless its gate is open")
        .when(format!("not ({all})"))
        .config(serde_json::json!({"value": message}))
        .output_schema(serde_json::json!({"type": "null"}));
    Some(closed)
}

/// The definition checked, with problems that were found before.
pub(super) fn build(mut problems: Problems, definition: Definition) -> Result<Workflow> {
    let built = Workflow::from_definition(definition);
    if !problems.has_errors() {
        return built;
    }
    if let Err(error) = built {
        problems.extend(error.problems().clone());
    }
    Err(Error::invalid(problems))
}

/// How expressions write a step.
pub(super) fn path(step: &StepId) -> String {
    let word = |letter: char| letter.is_alphanumeric() || letter == '_';
    match step.as_str() {
        id if id.chars().all(word) && !id.starts_with(char::is_numeric) => format!("steps.{id}"),
        other => format!("steps[{}]", text(other)),
    }
}

/// How expressions write a text.
pub(super) fn text(of: &str) -> String {
    let mut written = String::with_capacity(of.len() + 2);
    written.push('\'');
    for letter in of.chars() {
        match letter {
            '\'' | '\\' => {
                let _ = write!(written, "\\{letter}");
            }
            '\n' => written.push_str("\\n"),
            '\t' => written.push_str("\\t"),
            '\r' => written.push_str("\\r"),
            other => written.push(other),
        }
    }
    written.push('\'');
    written
}

/// Why the first of these steps that failed did; null when none has. Halved again and again, so that
/// it does not nest deep.
fn first_error(steps: &[&StepId]) -> String {
    match steps {
        [] => "null".into(),
        [only] => format!("{}.error", path(only)),
        several => {
            let (first, rest) = several.split_at(several.len() / 2);
            format!("default({}, {})", first_error(first), first_error(rest))
        }
    }
}
