//! Workflows that a seed grows: small, nested, of all kinds of steps, each with what becomes of every
//! step if nobody meddles.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use stepwell::workflow::{Case, Lock, OnTimeout, OnUnknown, Timeout, Variable, VariableType};
use stepwell::{ErrorClass, RetryConfig, Step, Wait, Workflow};

use super::shapes::{patient, work};
use super::world::SECOND;

/// How long an attempt may take that has a limit.
pub(crate) const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);
/// How long all attempts of a step may take that has such a limit.
pub(crate) const STEP_LIMIT: Duration = Duration::from_secs(15);
/// So many that a simulation cannot use them up.
const ENOUGH_ATTEMPTS: u32 = 60;
/// Bodies inside each other.
const DEPTH_MAX: u32 = 3;
/// Tasks of one run, about.
const TASKS: u32 = 10;

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    Failed,
    Skipped,
}

/// What becomes of each, by its path.
pub(crate) type Ends = BTreeMap<String, End>;

/// A workflow, and what becomes of its steps.
pub(crate) struct Grown {
    pub(crate) workflow: Workflow,
    pub(crate) ends: Ends,
}

impl Grown {
    pub(crate) fn of(seed: u64, name: &str) -> Self {
        let mut gardener = Gardener::new(seed, TASKS);
        gardener.has_inner = true;
        gardener.has_variable = true;
        gardener.grow(name)
    }
}

/// Workflows that others have inside.
pub(crate) fn inner() -> &'static [Grown] {
    static INNER: OnceLock<Vec<Grown>> = OnceLock::new();
    INNER.get_or_init(|| {
        let grow =
            |seed| Gardener { depth: 2, ..Gardener::new(seed, 5) }.grow(&format!("in-{seed}"));
        (0..4).map(grow).collect()
    })
}

/// What becomes of a step, by its path inside of a body.
struct Expected {
    path: String,
    end: End,
    /// In the first body of those around that are repeated, or in the others; none is in each.
    first: Option<bool>,
}

#[derive(Default)]
struct Body {
    steps: Vec<Step>,
    ends: Vec<Expected>,
    /// What may be read by what comes next, and comes before that.
    last: Option<String>,
}

impl Body {
    fn expect(&mut self, path: impl Into<String>, end: End) {
        self.ends.push(Expected { path: path.into(), end, first: None });
    }

    /// What becomes of those inside of a step that is not repeated.
    fn inside(&mut self, step: &str, ends: Vec<Expected>) {
        let path = |of: &str| format!("{step}/{of}");
        self.ends.extend(ends.into_iter().map(|it| Expected { path: path(&it.path), ..it }));
    }

    fn repeated(&mut self, step: &str, ends: &[Expected], times: u32) {
        for at in 0..times {
            for it in ends.iter().filter(|it| it.first.is_none_or(|first| first == (at == 0))) {
                self.expect(format!("{step}[{at}]/{}", it.path), it.end);
            }
        }
    }
}

struct Gardener {
    rng: StdRng,
    named: u32,
    left: u32,
    /// How deep in it is.
    depth: u32,
    /// How often what is grown now is repeated.
    times: u32,
    /// What tells the bodies around from each other, if they are repeated.
    counter: Option<&'static str>,
    has_inner: bool,
    has_variable: bool,
}

impl Gardener {
    fn new(seed: u64, left: u32) -> Self {
        let rng = StdRng::seed_from_u64(seed ^ 0x6a2d);
        let (counter, has_inner, has_variable) = (None, false, false);
        Self { rng, named: 0, left, depth: 0, times: 1, counter, has_inner, has_variable }
    }

    fn grow(mut self, name: &str) -> Grown {
        let width = 2 + self.dice(3);
        let body = self.body(width);
        let variable = Variable::of(VariableType::Any).default_value(());
        let workflow =
            Workflow::builder(name).limits(patient()).variable("seen", variable).steps(body.steps);
        let ends = body.ends.into_iter().map(|it| (it.path, it.end)).collect();
        Grown { workflow: workflow.build().unwrap(), ends }
    }

    fn dice(&mut self, below: u32) -> u32 {
        self.rng.random_range(0..below)
    }

    /// No two steps of a workflow are called the same.
    fn name(&mut self) -> String {
        let letter = char::from(b'a' + (self.named % 26) as u8);
        let round = self.named / 26;
        self.named += 1;
        if round == 0 { letter.to_string() } else { format!("{letter}{round}") }
    }

    /// Steps that may be done at once, or after each other.
    fn body(&mut self, width: u32) -> Body {
        let mut body = Body::default();
        for _ in 0..width {
            let before = body.last.clone().filter(|_| self.dice(4) > 0);
            let more = self.block(before.as_deref());
            body.steps.extend(more.steps);
            body.ends.extend(more.ends);
            body.last = more.last;
        }
        body
    }

    /// The same one level further in, for something that is repeated so often.
    fn within(
        &mut self,
        times: u32,
        counter: Option<&'static str>,
        grow: impl FnOnce(&mut Self) -> Body,
    ) -> Body {
        let around = self.counter;
        self.counter = counter.or(around);
        self.times *= times;
        self.depth += 1;
        // What belongs to the whole is for its outermost steps.
        let has_variable = std::mem::take(&mut self.has_variable);
        let body = grow(self);
        self.has_variable = has_variable;
        self.depth -= 1;
        self.times /= times;
        self.counter = around;
        body
    }

    /// One or some steps that belong together, after this one.
    fn block(&mut self, before: Option<&str>) -> Body {
        let mut block = match self.dice(12) {
            0 => self.failing(),
            1 => self.late(),
            2 => self.unwanted(),
            3 => self.unknown(),
            4 if self.depth < DEPTH_MAX && self.left > 3 => self.planned(),
            5 if self.depth < DEPTH_MAX => self.undone(),
            _ => self.single(),
        };
        if let Some(before) = before {
            let first = block.steps.remove(0).after(before);
            block.steps.insert(0, reads(first, before));
        }
        block
    }

    /// One step that ends well.
    fn single(&mut self) -> Body {
        let may_nest = self.depth < DEPTH_MAX && self.left > 1;
        match self.dice(if may_nest { 14 } else { 7 }) {
            0..7 => self.task(),
            7 => {
                let (id, width) = (self.name(), 1 + self.dice(3));
                let body = self.within(1, None, |it| it.body(width));
                of(Step::parallel(&*id, body.steps), |block| block.inside(&id, body.ends))
            }
            8 | 9 => {
                let (id, width) = (self.name(), 1 + self.dice(2));
                let body = self.within(1, None, |it| it.chain(width));
                of(Step::sequence(&*id, body.steps), |block| block.inside(&id, body.ends))
            }
            10 => self.choice(),
            11 => {
                let (id, times) = (self.name(), 1 + self.dice(3));
                let body = self.within(times, Some("index"), |it| it.body(1));
                let items: Vec<u32> = (1..=times).collect();
                let step = Step::for_each(&*id, format!("{items:?}"), body.steps);
                let step = step.concurrency(self.dice(3));
                of(step, |block| block.repeated(&id, &body.ends, times))
            }
            12 => {
                let (id, times) = (self.name(), 1 + self.dice(3));
                let body = self.within(times, Some("turn"), |it| it.body(1));
                let step = match self.dice(2) {
                    0 => Step::until_loop(&*id, format!("turn == {times}"), body.steps),
                    _ => Step::while_loop(&*id, format!("turn < {times}"), body.steps),
                };
                of(step, |block| block.repeated(&id, &body.ends, times))
            }
            _ if self.has_inner => {
                let grown = &inner()[self.dice(inner().len() as u32) as usize];
                self.left = self.left.saturating_sub(5 * self.times);
                let id = self.name();
                of(Step::workflow(&*id, grown.workflow.id()), |block| {
                    for (path, end) in &grown.ends {
                        block.expect(format!("{id}/{path}"), *end);
                    }
                })
            }
            _ => self.task(),
        }
    }

    /// Single steps, for a sequence.
    fn chain(&mut self, width: u32) -> Body {
        let mut body = Body::default();
        for _ in 0..=width {
            let more = self.single();
            body.steps.extend(more.steps);
            body.ends.extend(more.ends);
        }
        body
    }

    fn choice(&mut self) -> Body {
        let id = self.name();
        let tagged = |mut ends: Vec<Expected>, first| {
            // What an inner choice says stays.
            ends.retain(|it| it.first.is_none_or(|other| other == first));
            ends.iter_mut().for_each(|it| it.first = Some(first));
            ends
        };
        let (one, other) =
            (self.within(1, None, |it| it.body(1)), self.within(1, None, |it| it.body(1)));
        let (when, ends) = match (self.counter, self.dice(2)) {
            (Some(counter), 0) => {
                let mut ends = tagged(one.ends, true);
                ends.extend(tagged(other.ends, false));
                (format!("{counter} == 0"), ends)
            }
            (_, 1) => ("1 < 2".to_string(), one.ends),
            _ => ("1 > 2".to_string(), other.ends),
        };
        let cases = [Case::when(when, one.steps), Case::otherwise(other.steps)];
        of(Step::choice(&*id, cases), |block| block.inside(&id, ends))
    }

    fn task(&mut self) -> Body {
        self.left = self.left.saturating_sub(self.times);
        let id = self.name();
        let retry = |attempts| RetryConfig::attempts(attempts).max_delay(5 * SECOND);
        let mut task = match self.dice(8) {
            0 => work(&id).input("fails", "1").retry(retry(3)),
            // Its first attempt never ends.
            1 => work(&id)
                .input("hangs", "1")
                .attempt_timeout(ATTEMPT_LIMIT)
                .retry(retry(ENOUGH_ATTEMPTS)),
            2 => work(&id).lock(Lock::new("pool").max(2)),
            3 => once(&id),
            4 => return of(Step::wait(&*id, Wait::For(self.dice(40) * SECOND)), |_| {}),
            5 => {
                let limit = Timeout { after: 15 * SECOND, then: OnTimeout::Continue };
                return of(Step::wait(&*id, Wait::signal("never").timeout_with(limit)), |_| {});
            }
            _ => work(&id),
        };
        if self.has_variable {
            task = match self.dice(3) {
                0 => task.set("seen", "output"),
                1 => task.input("vars", "vars.seen"),
                _ => task,
            };
        }
        of(task, |_| {})
    }

    /// A step that fails in the end, and what deals with it.
    fn failing(&mut self) -> Body {
        let id = self.name();
        let retry = RetryConfig::attempts(1 + self.dice(2)).max_delay(5 * SECOND);
        let step = work(&id).input("fails", "9").retry(retry);
        self.dealt_with(step, ErrorClass::Temporary)
    }

    /// A step that never ends by itself.
    fn late(&mut self) -> Body {
        let step = work(&self.name()).input("hangs", "9").timeout(STEP_LIMIT);
        self.dealt_with(step, ErrorClass::Timeout)
    }

    fn dealt_with(&mut self, step: Step, class: ErrorClass) -> Body {
        self.left = self.left.saturating_sub(self.times);
        let (id, then, other) = (step.id.to_string(), self.name(), self.name());
        let step = match self.dice(2) {
            0 => step.on_failure(&*then),
            _ => step.on_error(class, &*then),
        };
        let mut block = Body::default();
        block.expect(&id, End::Failed);
        block.expect(&then, End::Done);
        block.expect(&other, End::Skipped);
        block.steps = vec![step.on_success(&*other), work(&then), work(&other)];
        block.last = Some(then);
        block
    }

    /// A step whose condition does not hold, and what is done instead.
    fn unwanted(&mut self) -> Body {
        self.left = self.left.saturating_sub(self.times);
        let (id, other) = (self.name(), self.name());
        let mut block = Body::default();
        block.expect(&id, End::Skipped);
        block.expect(&other, End::Done);
        block.steps = vec![work(&id).when("1 > 2").otherwise(&*other), work(&other)];
        block.last = Some(other);
        block
    }

    /// A step that must not be begun twice, and what looks if nobody knows.
    fn unknown(&mut self) -> Body {
        self.left = self.left.saturating_sub(self.times);
        let (id, looks, next) = (self.name(), self.name(), self.name());
        let step = once(&id).on_unknown(OnUnknown::Fail);
        let step = step.on_error(ErrorClass::OutcomeUnknown, &*looks).on_success(&*next);
        let mut block = Body::default();
        block.expect(&id, End::Done);
        block.expect(&looks, End::Skipped);
        block.expect(&next, End::Done);
        block.steps = vec![step, work(&looks), work(&next)];
        block
    }

    /// A step that says which steps come next.
    fn planned(&mut self) -> Body {
        self.left = self.left.saturating_sub(self.times);
        let (plan, id, width) = (self.name(), self.name(), 1 + self.dice(3));
        // They may not name other workflows.
        let has_inner = std::mem::take(&mut self.has_inner);
        let body = self.within(1, None, |it| it.body(width));
        self.has_inner = has_inner;
        let steps = serde_json::to_value(&body.steps).unwrap();
        let mut block = Body::default();
        block.expect(&plan, End::Done);
        block.expect(&id, End::Done);
        block.inside(&id, body.ends);
        block.steps = vec![
            work(&plan).config(json!({"steps": steps})),
            Step::dynamic(&*id, format!("{plan}.steps")).after(&*plan),
        ];
        block.last = Some(id);
        block
    }

    /// Something that is undone, as what comes after it fails.
    fn undone(&mut self) -> Body {
        self.left = self.left.saturating_sub(3 * self.times);
        let [id, first, undoes, fails, then] = [(); 5].map(|()| self.name());
        let steps = [
            work(&first).compensate(work(&undoes)),
            work(&fails).input("fails", "9").retry(RetryConfig::none()),
        ];
        let mut block = Body::default();
        block.expect(&id, End::Failed);
        block.expect(format!("{id}/{first}"), End::Done);
        block.expect(format!("{id}/{first}[undo]/{undoes}"), End::Done);
        block.expect(format!("{id}/{fails}"), End::Failed);
        block.expect(&then, End::Done);
        block.steps = vec![Step::sequence(&*id, steps).on_failure(&*then), work(&then)];
        block.last = Some(then);
        block
    }
}

/// One step that ends well, with what becomes of those inside.
fn of(step: Step, inside: impl FnOnce(&mut Body)) -> Body {
    let id = step.id.to_string();
    let mut block = Body { last: Some(id.clone()), ..Body::default() };
    block.expect(id, End::Done);
    inside(&mut block);
    block.steps.push(step);
    block
}

/// Must not be begun twice; its body knows that, too.
pub(crate) fn once(id: &str) -> Step {
    work(id).config(json!({"once": true})).at_most_once()
}

/// Has a task read what the one before came to.
pub(crate) fn reads(step: Step, before: &str) -> Step {
    match step.kind {
        stepwell::StepKind::Task { .. } => step.input(before, before),
        _ => step,
    }
}
