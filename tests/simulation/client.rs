//! Those who start runs, say something to them and wait for their ends; only through engines that fail.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::{Either, select};
use stepwell::journal::{Operation, Reason, Vote};
use stepwell::run::{Explanation, OpenWait, RunExplanation};
use stepwell::storage::Storage;
use stepwell::testing::VirtualRuntime;
use stepwell::{
    Engine, ErrorKind, Result, RunHandle, RunId, RunStatus, StartOptions, Step, Workflow,
};

use super::grown::Grown;
use super::shapes::{needs_nobody, shapes};
use super::world::{Has, SECOND, World};

/// Something that was said to a run, under a mark of its own, and what was heard of it.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) run: RunId,
    pub(crate) mark: String,
    /// Whether it was accepted or refused; none if nobody knows.
    pub(crate) heard: Option<bool>,
}

/// What a client wants to have said.
#[derive(Clone, Debug)]
enum Wish {
    Signal,
    Vote(&'static str),
    Pause,
    Resume,
    Cancel,
    Operate(Operation),
    /// Adds a step.
    Modify,
    /// Has a run that has ended go on.
    Reopen(Operation),
}

pub(crate) struct Client<S> {
    world: Arc<World<S>>,
    workflow: Workflow,
    id: RunId,
    often: u32,
    machine: VirtualRuntime,
    wishes: Vec<Wish>,
    /// Whether it goes as soon as it has heard that the run began.
    leaves: bool,
    /// How many of them have been heard.
    heard: AtomicUsize,
    /// It was heard that the run began.
    has_begun: AtomicBool,
}

/// How often somebody waits in vain for twenty seconds while nothing goes wrong.
const DEAF_MAX: u32 = 6;

impl<S: Storage + Clone> Client<S> {
    /// Somebody with a run of one of the shapes, or of a workflow that nobody else has.
    pub(crate) fn drawn(world: &Arc<World<S>>, number: u32, often: u32) -> Self {
        if world.dice(2) == 0 {
            let shape = &shapes()[world.dice(shapes().len() as u32) as usize];
            return Self::new(Arc::clone(world), number, shape.clone(), often);
        }
        let seed = (world.seed << 8) + u64::from(number);
        let Grown { workflow, ends } = Grown::of(seed, &format!("grown-{number}"));
        let client = Self::new(Arc::clone(world), number, workflow, often);
        world.ends.lock().unwrap().insert(client.id.clone(), ends);
        client
    }

    pub(crate) fn new(world: Arc<World<S>>, number: u32, workflow: Workflow, often: u32) -> Self {
        let id = RunId::new(format!("{}-{number}", workflow.id())).unwrap();
        let mut wishes = needed(workflow.id());
        if !world.is_single() && world.dice(2) == 0 {
            wishes.extend(meddling(&world, workflow.id()));
        }
        let leaves = wishes.is_empty() && !world.is_single() && world.dice(2) == 0;
        let (machine, heard) = (world.machine(), AtomicUsize::new(0));
        let has_begun = AtomicBool::new(false);
        Self { world, workflow, id, often, machine, wishes, leaves, heard, has_begun }
    }

    /// Comes again and again until all is said and the run has ended.
    pub(crate) async fn come(self) -> RunId {
        self.world.nap(self.world.seconds(0, 200)).await;
        for life in 0.. {
            let has = if self.only_says(life) { Has::Nothing } else { Has::All };
            // A process of its own, that others cannot see into.
            let numbered = self.world.engine(&self.machine, self.often, has);
            let life = self.world.seconds(20, 200);
            let ended = match select(pin!(self.visit(&numbered.engine)), pin!(self.world.nap(life)))
                .await
            {
                Either::Left((visited, _)) => visited.is_ok(),
                Either::Right(_) => false,
            };
            drop(numbered);
            if ended {
                break;
            }
            self.world.nap(SECOND).await;
        }
        self.id
    }

    /// Whether it comes without anything that runs need: in some seeds, every second time.
    fn only_says(&self, life: u32) -> bool {
        self.world.some_only_say() && self.has_begun.load(Ordering::Relaxed) && life % 2 == 1
    }

    async fn visit(&self, engine: &Engine) -> Result<()> {
        let may_be_gone = self.world.retention().is_some();
        let has_begun = self.has_begun.load(Ordering::Relaxed);
        let is_known = has_begun && self.world.some_only_say();
        let mut handle = if has_begun && (may_be_gone || is_known) {
            match engine.run(&self.id).await {
                // It has ended, and was removed.
                Err(error) if error.kind() == ErrorKind::NotFound && may_be_gone => return Ok(()),
                found => found?,
            }
        } else {
            let options = StartOptions::id(self.id.as_str());
            if self.leaves && self.world.dice(2) == 0 {
                engine.enqueue(&self.workflow, (), options).await?;
                self.has_begun.store(true, Ordering::Relaxed);
                return Ok(());
            }
            engine.start_with(&self.workflow, (), options).await?
        };
        self.has_begun.store(true, Ordering::Relaxed);
        if self.leaves {
            return Ok(());
        }
        while let Some(wish) = self.wishes.get(self.heard.load(Ordering::Relaxed)) {
            if let Wish::Reopen(_) = wish {
                self.end(&handle).await?;
            } else if !self.world.is_single() && !is_known {
                // Whoever looks at a run drives it.
                let _ = self.look(&handle, self.world.seconds(0, 20)).await;
            }
            self.fulfil(engine, &mut handle, wish).await?;
            self.heard.fetch_add(1, Ordering::Relaxed);
        }
        self.end(&handle).await
    }

    /// To its end, whoever has paused it, and whatever nobody knows.
    async fn end(&self, handle: &RunHandle) -> Result<()> {
        let mut deaf = 0;
        loop {
            if is_halted(handle) {
                self.say(|why| handle.resume(why)).await?;
            }
            for step in unknown(handle) {
                let known = looked(&self.world, &step);
                self.say(|why| handle.operate(known, why)).await?;
            }
            let nap = pin!(self.world.nap(20 * SECOND));
            if let Either::Left((outcome, _)) = select(pin!(handle.outcome()), nap).await {
                return outcome.map(drop);
            }
            // Others may have ended it: whoever waits for it hears so.
            let is_over = || self.world.has_ended(&self.id);
            deaf = if self.world.is_calm() && is_over() { deaf + 1 } else { 0 };
            assert!(deaf < DEAF_MAX, "{}: it has ended, and who waits for it is not told", self.id);
        }
    }

    async fn look(&self, handle: &RunHandle, length: std::time::Duration) -> Result<()> {
        match select(pin!(handle.outcome()), pin!(self.world.nap(length))).await {
            Either::Left((outcome, _)) => outcome.map(drop),
            Either::Right(_) => Ok(()),
        }
    }

    async fn fulfil(&self, engine: &Engine, handle: &mut RunHandle, wish: &Wish) -> Result<()> {
        match wish {
            Wish::Signal => self.say(|mark| handle.signal("go", mark.why)).await,
            Wish::Vote(by) => {
                while handle.approvals().is_empty() && !handle.status().is_end() {
                    if is_halted(handle) {
                        self.say(|why| handle.resume(why)).await?;
                    }
                    // It may have been removed, and nobody would ever ask for a vote.
                    self.look(handle, 5 * SECOND).await?;
                }
                for open in handle.approvals() {
                    self.say(|mark| handle.approve(&open.id, Vote::approve(*by).comment(mark.why)))
                        .await?;
                }
                Ok(())
            }
            Wish::Pause => self.say(|why| handle.pause(why)).await,
            Wish::Resume => self.say(|why| handle.resume(why)).await,
            Wish::Cancel => self.say(|why| handle.cancel(why)).await,
            Wish::Operate(operation) => {
                self.say(|why| handle.operate(operation.clone(), why)).await
            }
            Wish::Modify => {
                let (mut definition, revision) = handle.definition();
                definition.steps.push(Step::task(format!("more-{revision}"), "work"));
                let changed = Workflow::from_definition(definition)?;
                let operation = handle.modification(&changed, revision)?;
                self.say(|why| handle.operate(operation, why)).await
            }
            Wish::Reopen(operation) => {
                let reopened = self.say(|why| async {
                    *handle = engine.reopen(&self.id, operation.clone(), why).await?;
                    Ok(())
                });
                reopened.await
            }
        }
    }

    /// Notes that something is said before it is, and what was heard.
    async fn say<F: Future<Output = Result<()>>>(
        &self,
        saying: impl FnOnce(Reason) -> F,
    ) -> Result<()> {
        let place = {
            let mut said = self.world.said.lock().unwrap();
            let mark = format!("mark-{}", said.len());
            said.push(Said { run: self.id.clone(), mark, heard: None });
            said.len() - 1
        };
        let answer = self.told(saying(Reason::new("client", format!("mark-{place}")))).await;
        let heard = match &answer {
            Ok(()) => Some(true),
            Err(error) if error.kind() == ErrorKind::Rejected => Some(false),
            Err(_) => None,
        };
        self.world.said.lock().unwrap()[place].heard = heard;
        if heard.is_some() { Ok(()) } else { answer }
    }

    /// What becomes of what was said. When nothing goes wrong any more that is known before long.
    async fn told(&self, saying: impl Future<Output = Result<()>>) -> Result<()> {
        let (mut saying, mut deaf) = (pin!(saying), 0);
        loop {
            let nap = pin!(self.world.nap(20 * SECOND));
            if let Either::Left((answer, _)) = select(&mut saying, nap).await {
                return answer;
            }
            deaf = if self.world.is_calm() { deaf + 1 } else { 0 };
            if deaf == DEAF_MAX {
                super::tell(&self.world, &self.world.tape.take(), std::slice::from_ref(&self.id));
                panic!("{}: who has said something to it is not answered", self.id);
            }
        }
    }
}

/// Whether a run does not get on before somebody resumes it: what cleans up in one that is cancelled may
/// be in quarantine, too.
pub(crate) fn is_halted(handle: &RunHandle) -> bool {
    let is_quarantined = || matches!(handle.explain_run(), RunExplanation::Quarantined { .. });
    handle.status() == RunStatus::Paused || is_quarantined()
}

/// Steps of which nobody knows what they have done.
pub(crate) fn unknown(handle: &RunHandle) -> Vec<String> {
    let is_unknown = |wait: &OpenWait| matches!(wait.what, Explanation::OutcomeUnknown { .. });
    handle.waits().into_iter().filter(is_unknown).map(|wait| wait.step).collect()
}

/// What somebody has found who has looked.
pub(crate) fn looked<S: Storage + Clone>(world: &World<S>, step: &str) -> Operation {
    match world.dice(4) {
        0 => Operation::rerun(step),
        1 => Operation::fail(step, "it was not done"),
        2 => Operation::skip([step]),
        _ => Operation::succeed(step, "it was done"),
    }
}

/// What runs of a shape wait for.
fn needed(shape: &str) -> Vec<Wish> {
    match shape {
        "signal" => vec![Wish::Signal],
        "approval" => vec![Wish::Vote("ann")],
        // Nobody votes twice, and two are enough.
        "quorum" => {
            vec![Wish::Vote("bob"), Wish::Vote("bob"), Wish::Vote("ann"), Wish::Vote("cid")]
        }
        _ => Vec::new(),
    }
}

/// What somebody does to a run who cannot leave it alone.
fn meddling<S: Storage + Clone>(world: &World<S>, shape: &str) -> Vec<Wish> {
    let operate = |operation| vec![Wish::Operate(operation)];
    match world.dice(10) {
        0 | 1 => vec![Wish::Pause, Wish::Resume],
        2 => vec![Wish::Cancel],
        3 => operate(Operation::skip(["b"])),
        4 => operate(Operation::succeed("b", 1)),
        5 => operate(Operation::cancel(["a"])),
        6 => vec![Wish::Modify, Wish::Pause, Wish::Modify, Wish::Resume],
        _ if !needs_nobody(shape) => vec![Wish::Signal],
        7 => vec![Wish::Operate(Operation::rerun("a")), Wish::Reopen(Operation::rerun("a"))],
        8 => vec![Wish::Cancel, Wish::Reopen(Operation::RetryFailed)],
        _ => vec![Wish::Reopen(Operation::rerun_alone("b")), Wish::Reopen(Operation::RetryFailed)],
    }
}
