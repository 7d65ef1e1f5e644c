//! Automatic checks, then people, then a merge.

use std::time::Duration;

use super::parts::{Parts, build, over, path};
use super::task;
use crate::error::{ErrorClass, Problems, Result};
use crate::workflow::{Approval, Definition, Limits, Step, Trigger, Workflow};

/// What all but waiting for people may take.
const WORK: Duration = Duration::from_secs(2 * 3600);

/// Looks at a change with tools and a model at once, merges what they found, has people approve it
/// unless that is severe, and merges the change or asks for another one.
///
/// | part | inputs | output |
/// | --- | --- | --- |
/// | `analysis`, `tests`, `ai_review` | `change`: the run's input | `severe`: how many findings are; anything else |
/// | `findings` | | what each of them came to, by name, and `severe`: their sum |
/// | `approval` | | only if nothing is severe: people decide |
/// | `request_changes` | `findings`, `rejection` | if something is, or they say no |
/// | `merge` | `change`, `votes` | if they say yes |
/// | `announce` | `merged`, `findings`, `error`: the first, with `class` and `message` | |
///
/// Tests that fail are findings: a step that fails is one that could not look, and fails the run. Only
/// the model need not answer. `announce` runs in the end whatever happened, also to a run that was
/// cancelled. What looks at the change, and `announce`, can be left out.
///
/// ```
/// use stepwell::ready::CodeReview;
/// use stepwell::workflow::Approval;
/// use stepwell::{Step, executor_fn};
///
/// let workflow = CodeReview::new("review")
///     .approval(Approval::by(["ann", "bob", "cem"]).quorum(2))
///     .check(Step::task("licences", "licences"))
///     .changes_when("findings.severe > 0 or findings.licences.unknown > 3")
///     .build()?;
/// assert_eq!(workflow.plan().batch_ids()[0], ["analysis", "tests", "ai_review", "licences"]);
/// # Ok::<(), stepwell::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct CodeReview {
    id: String,
    parts: Parts,
    checks: Vec<Step>,
    changes_when: String,
    approval: Approval,
    approval_timeout: Duration,
    limits: Option<Limits>,
}

impl CodeReview {
    /// The workflow of this id, in which one person of any name approves.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            parts: Parts::default(),
            checks: Vec::new(),
            changes_when: "findings.severe > 0".into(),
            approval: Approval::new(),
            approval_timeout: 3 * task::DAY,
            limits: None,
        }
    }

    /// A step in the place of the part of its id.
    pub fn task(mut self, step: Step) -> Self {
        self.parts.put(step);
        self
    }

    /// Leaves out a part.
    pub fn without(mut self, part: impl Into<String>) -> Self {
        self.parts.leave_out(part.into());
        self
    }

    /// One more that looks at the change; has the input `change`.
    pub fn check(mut self, step: Step) -> Self {
        self.checks.push(step);
        self
    }

    /// When to ask for changes without asking people; default `findings.severe > 0`.
    pub fn changes_when(mut self, condition: impl Into<String>) -> Self {
        self.changes_when = condition.into();
        self
    }

    /// Who approves. Unless they are shown something else, they see the findings.
    pub fn approval(mut self, approval: Approval) -> Self {
        self.approval = approval;
        self
    }

    /// How long they may take; default three days. Then the run fails.
    pub fn approval_timeout(mut self, limit: Duration) -> Self {
        self.approval_timeout = limit;
        self
    }

    /// What one run may use; default two hours and the time that the approval may take.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// The definition, unchecked.
    #[must_use]
    pub fn into_definition(self) -> Definition {
        let Self { id, parts, checks, changes_when, mut approval, approval_timeout, limits } = self;
        let look = |ready: Step| ready.input("change", "input");
        let ready = [
            task::code_analysis("analysis", "analysis"),
            task::testing("tests", "tests"),
            task::code_review("ai_review", "ai_review"),
        ];
        let ready = ready.into_iter().filter_map(|ready| parts.optional(look(ready)));
        let mut steps: Vec<Step> = ready.collect();
        steps.extend(checks.into_iter().map(|own| {
            let ready = look(task::code_analysis(&own.id, ""));
            over(own, ready)
        }));
        let merged = findings(&mut steps);
        steps.push(merged);

        approval.prompt.get_or_insert_with(|| "Merge this change?".into());
        approval.show.get_or_insert_with(|| "steps.findings.output".into());
        steps.push(
            task::approval_within("approval", approval, approval_timeout)
                .when(format!("not ({changes_when})"))
                .on_success("merge")
                .otherwise("request_changes")
                .on_error(ErrorClass::Rejected, "request_changes"),
        );
        let request = task::notification("request_changes", "request_changes")
            .input("findings", "steps.findings.output")
            .input("rejection", "steps.approval.error");
        let merge = task::custom("merge", "merge")
            .input("change", "input")
            .input("votes", "steps.approval.output.votes");
        steps.extend([parts.part(request), parts.part(merge)]);
        let announce = task::notification("announce", "announce")
            .input("merged", "steps.merge.status == 'succeeded'")
            .input("findings", "steps.findings.output");
        parts.announce(announce, &mut steps);

        let max_duration = WORK.saturating_add(approval_timeout);
        Workflow::builder(id)
            .description("Looks at a change, has people approve it, and merges it")
            .steps(steps)
            .limits(limits.unwrap_or_else(|| Limits { max_duration, ..Limits::default() }))
            .into_definition()
    }

    /// The workflow.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidWorkflow`](crate::ErrorKind::InvalidWorkflow) with all problems: a part
    /// that does not exist or cannot be left out, a quorum of more than there are, and everything
    /// else that [`Workflow::from_definition`] finds.
    pub fn build(self) -> Result<Workflow> {
        let mut problems = Problems::default();
        let optional = ["analysis", "tests", "ai_review", "announce"];
        self.parts.check("", &["request_changes", "merge"], &optional, &mut problems);
        build(problems, self.into_definition())
    }
}

/// The step that puts together what these steps found, after a step that has the last of its words
/// where a model need not answer.
fn findings(steps: &mut Vec<Step>) -> Step {
    let mut findings = Step::task("findings", "output").description("What was found, and how bad");
    let mut severe = Vec::new();
    let mut model = false;
    for step in steps.iter() {
        let id = step.id.as_str();
        let mut output = format!("{}.output", path(&step.id));
        if id == "ai_review" {
            model = true;
            output = "steps.ai_opinion.output.opinion".into();
        }
        severe.push(format!("default({output}.severe, 0)"));
        findings = findings.input(id, output);
    }
    if model {
        let opinion = Step::task("ai_opinion", "output")
            .description("What the model said; null when it did not answer")
            .after("ai_review")
            .trigger(Trigger::tolerates(1))
            .input("opinion", "steps.ai_review.output");
        steps.push(opinion);
    }
    let sum = if severe.is_empty() { "0".into() } else { severe.join(" + ") };
    findings.input("severe", sum)
}
