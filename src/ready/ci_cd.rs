//! Check, build, deploy.

use std::time::Duration;

use super::Environment;
use super::parts::{Parts, build, gate, over, path};
use super::task;
use crate::error::{Problem, Problems, Result};
use crate::id::StepId;
use crate::workflow::{Definition, Limits, Step, Workflow};

/// What all but waiting for people may take.
const WORK: Duration = Duration::from_secs(4 * 3600);

/// Checks a change, builds it and deploys it to one environment after the other. When anything fails
/// after a deployment, all deployments are rolled back, the last one first.
///
/// | part | inputs | output |
/// | --- | --- | --- |
/// | `checkout` | `source`: the run's input | what the checks and the build take |
/// | `lint`, `tests`, `security_scan` | `workspace` | what gates read, as `tests.coverage` |
/// | `build` | `workspace` | the artifact, which is the run's output too |
/// | `deploy`, `health_check`, `rollback` | see [`Environment`] | |
/// | `notify` | `succeeded`, `error`: the first, with `class` and `message` | |
///
/// `notify` runs in the end whatever happened, also to a run that was cancelled: that one has neither
/// succeeded nor an error. The checks, `notify`, `health_check` and `rollback` can be left out.
///
/// ```
/// use stepwell::ready::{CiCd, Environment};
/// use stepwell::workflow::Approval;
///
/// let workflow = CiCd::new("shop")
///     .gate("tests.coverage > 80%")
///     .environment("staging")
///     .environment(Environment::new("production").approval(Approval::by(["ann", "bob"])))
///     .build()?;
/// assert_eq!(workflow.plan().batch_ids()[3..], [["staging"], ["production"], ["notify"]]);
///
/// let wrong = CiCd::new("shop").without("checkout").build().unwrap_err().to_string();
/// assert!(wrong.contains("`checkout` cannot be left out"));
/// assert!(wrong.contains("there are no environments"));
/// # Ok::<(), stepwell::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct CiCd {
    id: String,
    parts: Parts,
    checks: Vec<Step>,
    integration_tests: Vec<Step>,
    gates: Vec<String>,
    environments: Vec<Environment>,
    limits: Option<Limits>,
}

impl CiCd {
    /// The workflow of this id, which as yet deploys nowhere.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            parts: Parts::default(),
            checks: Vec::new(),
            integration_tests: Vec::new(),
            gates: Vec::new(),
            environments: Vec::new(),
            limits: None,
        }
    }

    /// A step in the place of the part of its id; `deploy`, `health_check` and `rollback` in all
    /// environments.
    pub fn task(mut self, step: Step) -> Self {
        self.parts.put(step);
        self
    }

    /// Leaves out a part.
    pub fn without(mut self, part: impl Into<String>) -> Self {
        self.parts.leave_out(part.into());
        self
    }

    /// A further check beside `lint` and `tests`; has the input `workspace`.
    pub fn check(mut self, step: Step) -> Self {
        self.checks.push(step);
        self
    }

    /// A test of what was built, beside the others of them; has the input `artifact`.
    pub fn integration_test(mut self, step: Step) -> Self {
        self.integration_tests.push(step);
        self
    }

    /// What must hold before anything is deployed, as in `tests.coverage > 80%`; call it again for
    /// more. The run fails otherwise.
    pub fn gate(mut self, condition: impl Into<String>) -> Self {
        self.gates.push(condition.into());
        self
    }

    /// Where to deploy to; call it again for what comes after that.
    pub fn environment(mut self, environment: impl Into<Environment>) -> Self {
        self.environments.push(environment.into());
        self
    }

    /// What one run may use; default four hours and the time that approvals may take.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// The definition, unchecked.
    #[must_use]
    pub fn into_definition(self) -> Definition {
        let Self { id, parts, checks, integration_tests, gates, environments, limits } = self;
        let waits = environments.iter().map(Environment::waits);
        let max_duration = waits.fold(WORK, Duration::saturating_add);
        let mut steps =
            vec![parts.part(task::custom("checkout", "checkout").input("source", "input"))];

        let check =
            |ready: Step| ready.after("checkout").input("workspace", "steps.checkout.output");
        let ready = [
            task::code_analysis("lint", "lint"),
            task::testing("tests", "tests"),
            task::code_analysis("security_scan", "security_scan"),
        ];
        steps.extend(ready.into_iter().filter_map(|ready| parts.optional(check(ready))));
        steps.extend(checks.into_iter().map(|own| {
            let ready = check(task::code_analysis(&own.id, ""));
            over(own, ready)
        }));

        let built = task::custom("build", "build")
            .after_all(steps.iter().map(|step| &step.id))
            .input("workspace", "steps.checkout.output");
        steps.push(parts.part(built));

        let gate = gate(&gates);
        let mut before = vec![StepId::from("build")];
        before.extend(integration_tests.iter().map(|step| step.id.clone()));
        before.extend(gate.iter().map(|step| step.id.clone()));
        steps.extend(integration_tests.into_iter().map(|own| {
            let ready = task::testing(&own.id, "").after("build");
            over(own, ready.input("artifact", "steps.build.output"))
        }));
        steps.extend(gate);

        for environment in environments {
            let step = environment.into_step(&id, &parts).after_all(before);
            before = vec![step.id.clone()];
            steps.push(step);
        }

        // A gate that is open was left out.
        let went_well = before.iter().map(|step| match step.as_str() {
            "gate_closed" => "steps.gate_closed.status != 'failed'".into(),
            _ => format!("{}.status == 'succeeded'", path(step)),
        });
        let succeeded = went_well.collect::<Vec<String>>().join(" and ");
        let notify = task::notification("notify", "notify").input("succeeded", succeeded);
        parts.announce(notify, &mut steps);
        Workflow::builder(id)
            .description("Checks a change, builds it and deploys it")
            .steps(steps)
            .output("steps.build.output")
            .limits(limits.unwrap_or_else(|| Limits { max_duration, ..Limits::default() }))
            .into_definition()
    }

    /// The workflow.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidWorkflow`](crate::ErrorKind::InvalidWorkflow) with all problems: no
    /// environment, a part that does not exist or cannot be left out, and everything that
    /// [`Workflow::from_definition`] finds.
    pub fn build(self) -> Result<Workflow> {
        let mut problems = Problems::default();
        let optional = ["lint", "tests", "security_scan", "notify", "health_check", "rollback"];
        self.parts.check("", &["checkout", "build", "deploy"], &optional, &mut problems);
        if self.environments.is_empty() {
            let problem = Problem::error("environments", "there are no environments");
            problems.push(problem.hint("add one with `environment`"));
        }
        self.environments.iter().for_each(|environment| environment.check(&mut problems));
        build(problems, self.into_definition())
    }
}
