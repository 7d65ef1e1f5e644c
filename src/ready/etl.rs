//! Extract, transform, load.

use std::time::Duration;

use super::parts::{Parts, build, gate};
use super::task;
use crate::error::{Problem, Problems, Result};
use crate::expr::Expr;
use crate::value::Json;
use crate::workflow::{Amount, Definition, Limits, Step, Variable, VariableType, Workflow};

/// What a run may take.
const WORK: Duration = Duration::from_secs(12 * 3600);

/// Reads many sources at once, transforms what they gave, and loads it in batches. When a batch fails,
/// those that were loaded are unloaded, the last one first.
///
/// | part | inputs | output |
/// | --- | --- | --- |
/// | `extract`, per source | `source` | what the source holds |
/// | `validate`, per source, only if it is a step of yours | `source`, `value` | the same, or better |
/// | `transform` | `sources`: a list, null where a source failed | the data |
/// | `quality`, only if a gate reads it | `data` | what gates read |
/// | `split` | `data`, `size` | a list of batches |
/// | `load`, per batch | `batch`, `number` from 0 | whatever `unload` needs |
/// | `unload`, per batch | `batch`, `number`, `loaded` | |
/// | `report` | `succeeded`, `loaded`, `error`: the first, with `class` and `message` | |
///
/// The sources are the variable `sources`, a list: runs are started with it. `report` runs in the end
/// whatever happened, also to a run that was cancelled; it and `unload` can be left out. Outputs are
/// kept with the run: let them be names of files or tables where there is much data.
///
/// ```
/// use serde_json::json;
/// use stepwell::ready::Etl;
/// use stepwell::workflow::Amount;
///
/// let workflow = Etl::new("sales")
///     .sources(["north", "south", "west"])
///     .tolerates(Amount::Percent(34))
///     .schema(json!({"type": "array", "items": {"type": "object"}}))
///     .gate("quality.score >= 95%")
///     .batch_size(500)
///     .build()?;
/// assert_eq!(workflow.plan().id(0).as_str(), "sources");
///
/// let wrong = Etl::new("sales").batch_size(0).build().unwrap_err().to_string();
/// assert!(wrong.contains("batch_size: a batch of nothing"));
/// # Ok::<(), stepwell::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Etl {
    id: String,
    parts: Parts,
    sources: Option<Vec<Json>>,
    tolerates: Option<Amount>,
    extract_concurrency: u32,
    schema: Option<Json>,
    gates: Vec<String>,
    batch_size: u32,
    load_concurrency: u32,
    limits: Option<Limits>,
}

impl Etl {
    /// The workflow of this id; its runs have to be started with `sources`.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            parts: Parts::default(),
            sources: None,
            tolerates: None,
            extract_concurrency: 8,
            schema: None,
            gates: Vec::new(),
            batch_size: 1_000,
            load_concurrency: 4,
            limits: None,
        }
    }

    /// The sources of runs that are started without: names, addresses, or whatever `extract` takes.
    pub fn sources<S: Into<Json>>(mut self, sources: impl IntoIterator<Item = S>) -> Self {
        self.sources = Some(sources.into_iter().map(Into::into).collect());
        self
    }

    /// How many sources, or how many percent, may fail; default none.
    pub fn tolerates(mut self, sources: impl Into<Amount>) -> Self {
        self.tolerates = Some(sources.into());
        self
    }

    /// How many sources are read at once; default 8, 0 is as many as the limits let.
    pub fn extract_concurrency(mut self, sources: u32) -> Self {
        self.extract_concurrency = sources;
        self
    }

    /// JSON Schema of what a source holds; a source with anything else has failed.
    pub fn schema(mut self, schema: Json) -> Self {
        self.schema = Some(schema);
        self
    }

    /// What must hold before anything is loaded, as in `quality.score >= 95%`; call it again for
    /// more. The run fails otherwise.
    pub fn gate(mut self, condition: impl Into<String>) -> Self {
        self.gates.push(condition.into());
        self
    }

    /// How many rows `split` is told to put into a batch; default 1,000.
    pub fn batch_size(mut self, rows: u32) -> Self {
        self.batch_size = rows;
        self
    }

    /// How many batches are loaded at once; default 4, 0 is as many as the limits let.
    pub fn load_concurrency(mut self, batches: u32) -> Self {
        self.load_concurrency = batches;
        self
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

    /// What one run may use; default twelve hours.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// The definition, unchecked.
    #[must_use]
    pub fn into_definition(self) -> Definition {
        let mut steps = vec![self.extraction()];
        let transform = task::custom("transform", "transform");
        steps.push(self.parts.part(transform.input("sources", "steps.sources.output")));
        if self.gates.iter().any(|gate| mentions(gate, "quality")) {
            let quality = task::testing("quality", "quality");
            steps.push(self.parts.part(quality.input("data", "steps.transform.output")));
        }
        let gate = gate(&self.gates);
        let split = task::custom("split", "split")
            .after_all(gate.iter().map(|step| &step.id))
            .input("data", "steps.transform.output")
            .input("size", self.batch_size.to_string());
        steps.extend(gate);
        steps.extend([self.parts.part(split), self.loading()]);
        let report = task::notification("report", "report")
            .input("succeeded", "steps.batches.status == 'succeeded'")
            .input("loaded", "steps.batches.output");
        self.parts.announce(report, &mut steps);

        let sources = Variable::of(VariableType::Array);
        let sources = match self.sources {
            Some(given) => sources.default_value(Json::Array(given)),
            None => sources.required(),
        };
        let limits = || Limits { max_duration: WORK, ..Limits::default() };
        Workflow::builder(self.id)
            .description("Reads many sources, transforms what they gave and loads it")
            .variable("sources", sources)
            .steps(steps)
            .limits(self.limits.unwrap_or_else(limits))
            .into_definition()
    }

    /// One body per source, so that one that fails is alone in that.
    fn extraction(&self) -> Step {
        let mut extract = task::custom("extract", "extract").input("source", "item");
        extract.output_schema.clone_from(&self.schema);
        let mut body = vec![self.parts.part(extract)];
        if self.parts.has_own("validate") {
            let validate = task::testing("validate", "validate")
                .input("source", "item")
                .input("value", "steps.extract.output");
            body.push(self.parts.part(validate));
        }
        let each = Step::for_each("sources", "vars.sources", body)
            .description("Reads each source")
            .concurrency(self.extract_concurrency);
        match self.tolerates {
            Some(amount) => each.tolerates(amount),
            None => each,
        }
    }

    fn loading(&self) -> Step {
        let batch = |step: Step| step.input("batch", "item").input("number", "index");
        let mut load = batch(task::custom("load", "load"));
        let unload = batch(task::custom("unload", "unload")).input("loaded", "output");
        if let Some(unload) = self.parts.optional(unload) {
            load = load.compensate(unload);
        }
        Step::for_each("batches", "steps.split.output", [self.parts.part(load)])
            .description("Loads each batch")
            .concurrency(self.load_concurrency)
    }

    /// The workflow.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidWorkflow`](crate::ErrorKind::InvalidWorkflow) with all problems: a batch
    /// size of 0, a part that does not exist or cannot be left out, and everything that
    /// [`Workflow::from_definition`] finds.
    pub fn build(self) -> Result<Workflow> {
        let mut problems = Problems::default();
        let needed = ["extract", "validate", "transform", "quality", "split", "load"];
        self.parts.check("", &needed, &["unload", "report"], &mut problems);
        if self.batch_size == 0 {
            let problem = Problem::error("batch_size", "a batch of nothing loads nothing");
            problems.push(problem.hint("1 or more"));
        }
        build(problems, self.into_definition())
    }
}

/// Whether an expression reads this step; one that does not parse has its problem elsewhere.
fn mentions(expression: &str, step: &str) -> bool {
    let expr = Expr::parse(expression);
    expr.is_ok_and(|expr| expr.mentions().iter().any(|mention| mention.step.as_str() == step))
}
