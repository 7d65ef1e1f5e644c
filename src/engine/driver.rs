//! Drives one run: turn after turn of decide, commit, launch, until nothing is left but to wait.

mod locking;
mod recovery;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use futures::Stream;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rustc_hash::FxHashMap;

use super::admission::Full;
use super::audience::Audience;
use super::desk::{Desk, Launch};
use super::flight::{Flight, Landed, Watched};
use super::placement::{Placement, place};
use super::prepare::Prepared;
use super::removal::Removal;
use super::{EngineLimits, Inner};
use crate::error::{Error, ErrorKind, Result};
use crate::executor::{Attempt, Begun, RunContext, RunEvent};
use crate::id::StepKey;
use crate::journal::{Event, Recorded, RunStatus, Snapshot};
use crate::run::{Command, RunState};
use crate::storage::{Commit, Holding, Message, Owner, RefusedWrite, Reply, Storage};
use crate::time::Timestamp;
use crate::value::Value;

/// Attempts that did not come down at once. Steps have other places when the definition is changed, and
/// others have theirs then, so that it takes the body, too, to tell them apart.
type InAir = FxHashMap<((u32, u32), StepKey, u32), Arc<Attempt>>;

/// Drives one run. Its future may be dropped at any await; the journal knows how to go on.
pub(crate) struct Driver {
    site: Site,
    desk: Desk,
    /// Made when the first attempt does not come down at once.
    flights: Option<FuturesUnordered<Flight>>,
    in_air: InAir,
    /// An attempt that came down and that nobody else holds, to be used again.
    spare: Option<Arc<Attempt>>,
    /// The journal's length as far as this driver knows.
    expected: u64,
    /// The length at which a snapshot may be due.
    snapshot_at: u64,
    /// A commit was begun and its answer not seen: the state may be ahead of the journal.
    uncertain: bool,
    /// Who the storage has for the one that holds the run, if it is this engine: others go on with what it
    /// does not hold, or held by a name that it had.
    held: Option<Owner>,
    /// How often the run was taken from engines that were gone, since it got on.
    recoveries: u32,
    /// Attempts that were under way when it was taken over.
    taken_over: Vec<(StepKey, u32)>,
    /// Attempts that nobody is at any more, and that are not to be begun again.
    lost: Vec<(StepKey, u32)>,
    /// It was taken over too often.
    is_poisoned: bool,
    /// Attempts are to be taken over as soon as somebody drives the run.
    adopts_later: bool,
    /// Attempts were taken over that the run may not want when they are to be started.
    adopted: bool,
    timer: Option<(Timestamp, BoxFuture<'static, ()>)>,
    /// When the others are to hear of this engine, by the clock that only goes forward.
    pulse: Option<(Duration, BoxFuture<'static, ()>)>,
    /// Of blobs that nothing names any more.
    removal: Removal,
    audience: Arc<Audience>,
    /// The state as the observers have been told, for the paths of steps whose scopes are gone.
    told: Option<Box<RunState>>,
}

/// What a run is driven with; the same all its life.
pub(crate) struct Site {
    pub(crate) engine: Arc<Inner>,
    pub(crate) run: Arc<RunContext>,
    pub(crate) prepared: Arc<Prepared>,
    parallel: bool,
    /// Other processes may be on its storage.
    shared: bool,
}

/// What a commit leads to, once it is stored.
struct After {
    count: u64,
    /// For the observers, if there are any.
    observed: Option<Vec<Recorded>>,
    /// Running attempts may have become unwanted.
    disturbed: bool,
    /// Attempts that were under way when the run was set aside are to go on.
    resumed: bool,
    recovered: bool,
    ended: bool,
    has_snapshot: bool,
}

/// Commits in a row that may be refused, before who drives the run hears of it.
const CONFLICTS_MAX: u32 = 3;

/// A storage that wants to be asked less often is not one for several processes.
const ALONE: Duration = Duration::from_secs(10);

/// Turns in a row before others on the same thread get a chance.
const TURNS_BEFORE_YIELD: u32 = 64;

impl Driver {
    pub(super) fn new(
        engine: Arc<Inner>,
        run: Arc<RunContext>,
        prepared: Arc<Prepared>,
        audience: Arc<Audience>,
    ) -> Self {
        let (expected, snapshot) = {
            let state = run.state();
            (state.version(), state.snapshot_events())
        };
        let snapshot_at = snapshot.saturating_add(engine.limits.snapshot_every);
        let parallel = engine.runtime.is_parallel();
        let shared = engine.storage.poll_every() < ALONE;
        Self {
            site: Site { engine, run, prepared, parallel, shared },
            desk: Desk::default(),
            flights: None,
            in_air: InAir::default(),
            spare: None,
            expected,
            snapshot_at,
            uncertain: false,
            held: None,
            recoveries: 0,
            taken_over: Vec::new(),
            lost: Vec::new(),
            is_poisoned: false,
            adopts_later: false,
            adopted: false,
            timer: None,
            pulse: None,
            removal: Removal::default(),
            audience,
            told: None,
        }
    }

    /// Whether it holds no room and no result.
    pub(super) fn is_idle(&self) -> bool {
        self.in_air.is_empty() && self.desk.launches.is_empty() && !self.desk.has_news()
    }

    /// Whether the run is parked, or another engine's.
    pub(super) fn rests(&self) -> bool {
        let is_known = !self.uncertain || self.site.run.is_elsewhere();
        is_known && self.in_air.is_empty() && self.desk.launches.is_empty()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.site.run.has_ended()
    }

    /// Has the journal looked at before anything else.
    pub(super) const fn distrust(&mut self) {
        self.uncertain = true;
    }

    /// Drives the run until it has ended, or until only time or a message can move it and nobody has
    /// a handle for it; then it is parked.
    pub(crate) async fn drive(&mut self) -> Result<()> {
        // What it holds others take for left behind, if they have never heard of it.
        if !self.site.engine.is_introduced() {
            Box::pin(self.introduce()).await?;
        }
        let (mut turns, mut conflicts) = (0, 0);
        loop {
            self.uncertain |= self.adopts_later && self.site.run.is_driven();
            self.uncertain |= self.site.run.take_doubt();
            if self.uncertain && !Box::pin(self.come_by()).await? {
                return Ok(());
            }
            // Who holds nothing is given no locks, and begins nothing again.
            let needs_it = self.site.prepared.has_locks || !self.desk.launches.is_empty();
            let first = needs_it && self.is_to_be_held();
            if first && !Box::pin(self.keep(Keep::Holds, &mut conflicts)).await? {
                continue;
            }
            let has_ended = match self.turn().await {
                Ok(has_ended) => has_ended,
                Err(error) if self.goes_on_after(&error, &mut conflicts) => continue,
                Err(error) => return Err(error),
            };
            conflicts = 0;
            // A message that came after its end may have left it ended.
            if has_ended && !self.site.run.is_revived() {
                self.site.run.set_ended();
            }
            if self.site.run.has_ended() {
                self.end();
                return Ok(());
            }
            if self.uncertain || std::mem::take(&mut self.desk.asks) {
                continue;
            }
            if std::mem::take(&mut self.desk.grown) {
                self.grow();
                continue;
            }
            if self.site.prepared.lacks() {
                if Box::pin(self.watch(&mut conflicts)).await? {
                    continue;
                }
                return Ok(());
            }
            if self.desk.has_news() {
                turns += 1;
                if turns % TURNS_BEFORE_YIELD == 0 {
                    yield_now().await;
                }
                self.glance().await;
                continue;
            }
            if self.desk.full == Some(Full::Others) {
                yield_now().await;
                continue;
            }
            let unwanted = self.site.run.handles.load(Ordering::Acquire) == 0;
            let idle = self.in_air.is_empty() && self.site.run.state().is_parked();
            let done = idle && !self.removal.is_under_way();
            if unwanted && done && Box::pin(self.park()).await? {
                return Ok(());
            }
            if self.is_to_be_held() && !Box::pin(self.keep(Keep::Holds, &mut conflicts)).await? {
                continue;
            }
            self.rest(idle).await;
            self.tend().await;
        }
    }

    /// Whether a turn that failed may be tried again at once.
    #[cold]
    fn goes_on_after(&mut self, error: &Error, conflicts: &mut u32) -> bool {
        // What was to be begun again waits, and another engine may end it meanwhile.
        self.uncertain |= !self.desk.launches.is_empty();
        if error.kind() == ErrorKind::Conflict && *conflicts < CONFLICTS_MAX {
            // Maybe nobody but this engine's own lost commit; the journal says.
            *conflicts += 1;
            return true;
        }
        // The step has failed by that; its run goes on with what is stored.
        RefusedWrite::of(error).is_some_and(|why| self.desk.refuse(why))
    }

    /// Makes executors for steps that were made while the run goes on. That is the host's code, so that
    /// the state is not locked meanwhile.
    fn grow(&mut self) {
        let program = Arc::clone(self.site.run.state().program());
        if program.units().len() > self.site.prepared.len() {
            let grown = self.site.prepared.grown(&program, &self.site.engine);
            self.site.prepared = Arc::new(grown);
        }
    }

    /// One turn: what came in, what is due, what can start, as one commit; then the starts. Whether
    /// the run has ended by it, or before.
    async fn turn(&mut self) -> Result<bool> {
        let takes_locks = self.site.prepared.has_locks && self.site.run.is_driven();
        let mail = match takes_locks || self.site.run.has_mail.load(Ordering::Acquire) {
            true => Box::pin(self.ask(takes_locks)).await?,
            false => Vec::new(),
        };
        // What is decided would be decided on what may be past, and what it answers hide what it misses.
        if self.uncertain {
            return Ok(false);
        }
        let next = self.decide(mail);
        // After the state is free: those who are woken are other people's code.
        self.desk.held.settle(&self.site.engine);
        let has_ended = next.0.is_end();
        let mut is_late = false;
        if !self.desk.events.is_empty() || !self.desk.answers.is_empty() {
            is_late = self.commit(next).await?;
        }
        // What others have gone on with meanwhile is not begun here.
        if !is_late {
            self.launch();
        }
        if std::mem::take(&mut self.adopted) {
            Box::pin(self.disturb()).await;
        }
        Ok(has_ended)
    }

    /// Asks the storage what a turn has to know: what was said to the run, and which locks it has.
    async fn ask(&mut self, takes_locks: bool) -> Result<Vec<(u64, Message)>> {
        if takes_locks {
            self.take_locks().await?;
        }
        let run = &self.site.run;
        // Before the look, so that what comes after it is seen the next time.
        if !run.has_mail.swap(false, Ordering::SeqCst) {
            return Ok(Vec::new());
        }
        let awaited = self.audience.awaited();
        let mail = self.site.engine.storage.inbox(&run.id).await;
        match &mail {
            // Others have answered it, and may have gone on with the run.
            Ok(mail) => self.uncertain |= awaited.iter().any(|number| !is_among(mail, *number)),
            Err(_) => run.has_mail.store(true, Ordering::SeqCst),
        }
        mail
    }

    /// Decides what follows from what came in, what is due and what can start. What has become of the
    /// run then, and who holds it.
    fn decide(&mut self, mail: Vec<(u64, Message)>) -> (RunStatus, Holding) {
        self.desk.classify(&self.site);
        let now = self.site.engine.runtime.now();
        let watched = self.site.run.is_observed() != self.told.is_some();
        if watched || !mail.is_empty() || !self.lost.is_empty() || self.is_poisoned {
            self.say(mail, now);
        }
        let holds = self.holds();
        let Self { site, desk, .. } = self;
        let mut state = site.run.state();
        let is_driven = site.run.is_driven();
        desk.turn(site, &mut state, now, is_driven);
        if self.adopted {
            desk.forget_unwanted(site, &state);
        }
        // Who only says something to a run that nobody had leaves it to whoever drives runs.
        let leaves = !is_driven && (!holds || site.prepared.lacks());
        site.next(&state, if leaves { Keep::Leaves } else { Keep::Holds })
    }

    /// Tells the run what does not come from its own steps.
    #[cold]
    fn say(&mut self, mail: Vec<(u64, Message)>, now: Timestamp) {
        let Self { site, desk, told, .. } = self;
        let mut state = site.run.state();
        match (site.run.is_observed(), &told) {
            (true, None) => *told = Some(Box::new(state.clone())),
            (false, Some(_)) => *told = None,
            _ => {}
        }
        // Before what is said: somebody may say what became of them.
        for (step, attempt) in self.lost.drain(..) {
            // Refused only when it has ended meanwhile.
            let _ = state.decide_into(Command::Lose { step, attempt }, now, &mut desk.events);
        }
        desk.answer(&mut state, mail, now);
        if std::mem::take(&mut self.is_poisoned) {
            let quarantine = Command::Quarantine { recoveries: self.recoveries };
            // Refused only when it has just ended.
            let _ = state.decide_into(quarantine, now, &mut desk.events);
        }
    }

    fn next(&self, keep: Keep) -> (RunStatus, Holding) {
        self.site.next(&self.site.run.state(), keep)
    }

    /// Stores what was decided, and only then lets it have effects. Whether the answer came so late that
    /// the journal is to be looked at first.
    async fn commit(&mut self, next: (RunStatus, Holding)) -> Result<bool> {
        let asked_at = self.site.shared.then(|| self.site.engine.runtime.monotonic());
        let held = match next.1 {
            Holding::Held(owner) => Some(owner),
            _ => None,
        };
        let (reply, after) = self.store(next);
        let answer = match reply {
            // Taken without waiting, which costs as much as a small step.
            Reply::Ready(Some(answer)) => answer,
            reply => reply.await,
        };
        let emptied = match answer {
            Ok(emptied) => emptied,
            Err(error) => {
                // Somebody else may have decided the same at that very moment.
                let Site { engine, .. } = &self.site;
                let ago = || self.desk.decided_ago(engine.runtime.now());
                let then = || engine.runtime.monotonic().saturating_sub(ago());
                self.desk.may_be_gone |= !engine.was_heard_at(asked_at.unwrap_or_else(then));
                return Err(error);
            }
        };
        self.set_held(held);
        if self.stored(emptied, after) {
            Box::pin(self.disturb()).await;
        }
        if self.site.prepared.has_locks {
            self.site.engine.wake_for_locks();
        }
        let is_late = asked_at.is_some_and(|asked_at| self.site.engine.may_be_gone_since(asked_at));
        self.uncertain |= is_late;
        Ok(is_late)
    }

    fn store(
        &mut self,
        (status, holding): (RunStatus, Holding),
    ) -> (Reply<Result<Vec<Recorded>>>, After) {
        let events = std::mem::take(&mut self.desk.events);
        // What operators do comes by mail only; most commits are about steps.
        let came_mail = !self.desk.answers.is_empty();
        let resumes = |recorded: &Recorded| matches!(recorded.event, Event::RunResumed { .. });
        // Who runs it knows how much of its history is to be kept.
        let is_due = self.expected + events.len() as u64 >= self.snapshot_at;
        let snapshot = if is_due && !self.site.prepared.lacks() { self.snapshot() } else { None };
        let after = After {
            count: events.len() as u64,
            observed: self.site.run.is_observed().then(|| events.clone()),
            disturbed: !self.in_air.is_empty() && events.iter().any(disturbs),
            resumed: came_mail && events.iter().any(resumes),
            recovered: self.taken_over_lately() && self.has_recovered(&events),
            ended: status.is_end() && !self.site.run.is_revived(),
            has_snapshot: snapshot.is_some(),
        };
        let modifies = |recorded: &Recorded| matches!(recorded.event, Event::WorkflowModified(_));
        if came_mail && events.iter().any(modifies) {
            // Steps have other places now; what they hold they are given again.
            self.desk.locks.clear();
        }
        let released = match self.site.prepared.has_locks {
            true => self.site.run.state().take_released(),
            false => Vec::new(),
        };
        let commit = Commit {
            owner: self.site.engine.owner(),
            expected: self.expected,
            events,
            status,
            answers: if came_mail { self.desk.answers.clone() } else { Vec::new() },
            holding,
            released,
            recovered: after.recovered,
            writes: self.desk.take_writes(),
            snapshot,
        };
        self.uncertain = true;
        (self.site.engine.storage.commit(&self.site.run.id, commit), after)
    }

    /// The state in place of the events so far, if they have become many enough for its size.
    #[cold]
    fn snapshot(&mut self) -> Option<Box<Snapshot>> {
        let EngineLimits { snapshot_every, history_kept, .. } = self.site.engine.limits;
        let mut state = self.site.run.state();
        let is_due = state.version() >= state.snapshot_at(snapshot_every);
        let made = is_due.then(|| state.snapshot(history_kept)).transpose();
        self.snapshot_at = state.snapshot_at(snapshot_every);
        match made {
            Ok(made) => made.map(Box::new),
            Err(error) => {
                self.snapshot_at = state.version().saturating_add(snapshot_every);
                tracing::warn!(target: "stepwell", run_id = %state.id(), %error, "no snapshot");
                None
            }
        }
    }

    /// Takes note that the commit is stored. Whether it makes attempts unwanted.
    fn stored(&mut self, mut emptied: Vec<Recorded>, after: After) -> bool {
        self.uncertain = false;
        emptied.clear();
        self.desk.events = emptied;
        self.desk.stored();
        if !self.desk.answers.is_empty() {
            self.tell();
        }
        self.expected += after.count;
        if after.recovered {
            self.recoveries = 0;
        }
        // Nothing has flown while it was in quarantine.
        self.uncertain |= after.resumed;
        if let Some(events) = after.observed {
            self.publish(events);
        }
        if after.has_snapshot {
            self.remove_blobs();
        }
        if after.ended {
            self.site.run.set_ended();
        }
        after.disturbed
    }

    /// Has blobs removed that nothing names any more, as the snapshot says that is stored now.
    #[cold]
    fn remove_blobs(&mut self) {
        let Desk { launches, landed, .. } = &self.desk;
        let launched = launches.iter().filter_map(|launch| launch.inputs.as_ref().ok());
        let results = landed.iter().filter_map(|landed| landed.result.as_ref()?.as_ref().ok());
        let in_air = self.in_air.values().map(|attempt| attempt.given());
        let in_hand: Vec<&Value> = in_air.chain(launched).chain(results).collect();
        self.removal.begin(&self.site.run, &in_hand);
    }

    /// Tells those who have said something what the run made of it.
    fn tell(&mut self) {
        for (number, answer) in self.desk.answers.drain(..) {
            self.audience.give(number, answer);
        }
    }

    /// Cancels and aborts attempts that the run no longer wants, and drops those that are polled here:
    /// others may soon have their locks.
    async fn disturb(&mut self) {
        self.cancel_unwanted();
        // Those that are busy let others have a look only now and then.
        for _ in 0..self.in_air.len() {
            if !self.in_air.values().any(|attempt| attempt.is_aborted()) {
                return;
            }
            self.glance().await;
        }
    }

    fn cancel_unwanted(&self) {
        let state = self.site.run.state();
        for ((body, step, number), attempt) in &self.in_air {
            // The definition may have been changed since.
            let Some(step) = &state.current(*step, *body) else {
                attempt.abort();
                continue;
            };
            if !state.is_running(*step, *number) {
                attempt.abort();
            } else if state.is_cancelling(*step) {
                attempt.cancel();
            }
        }
    }

    fn publish(&mut self, events: Vec<Recorded>) {
        for recorded in events {
            let step = recorded.event.step();
            let mut path = step.zip(self.told.as_ref()).and_then(|(s, told)| told.known_path(s));
            if let Some(told) = &mut self.told {
                told.apply(recorded.at, &recorded.event);
                path = path.or_else(|| told.known_path(step?));
            }
            let step = path.unwrap_or_default();
            self.site.run.publish(&RunEvent::Journal { step, recorded });
        }
    }

    /// Starts the attempts that were committed, and polls each once where it is: most are done at
    /// once, and only one that is not costs a place among the waiting.
    fn launch(&mut self) {
        let Self { site, desk, flights, in_air, spare, .. } = self;
        for Launch { begun, inputs, .. } in desk.launches.drain(..) {
            let Some(task) = site.prepared.task(begun.body, begun.key.step) else { continue };
            let (inputs, wrong) = match inputs {
                Ok(inputs) => (inputs, None),
                Err(error) => (Value::NULL, Some(error)),
            };
            if let Some(error) = wrong {
                desk.landed.push(Landed::new(&begun, Some(Err(error))));
                continue;
            }
            let config = task.config.clone();
            let attempt = Attempt::again(spare.take(), &site.run, begun, config, inputs);
            let (placement, measured) = place(site.parallel, task);
            let mut watched = Watched::new(attempt, task, measured);
            let flight = if placement == Placement::InPlace {
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                if let Poll::Ready(result) = watched.poll_once(Some(&task.executor), &mut context) {
                    let attempt = watched.into_attempt();
                    desk.landed.push(Landed::of(&attempt, result));
                    *spare = Some(attempt);
                    continue;
                }
                Flight::Here(watched)
            } else {
                Flight::send(watched, task, &*site.engine.runtime, placement)
            };
            let attempt = Arc::clone(flight.attempt());
            let Begun { body, key, number, .. } = attempt.begun;
            in_air.insert((body, key, number), attempt);
            // Polled with the real waker when the driver rests.
            flights.get_or_insert_default().push(flight);
        }
    }

    /// Sees what has landed, without waiting: steps that are done at once must not keep others back.
    async fn glance(&mut self) {
        if self.in_air.is_empty() && !self.removal.is_under_way() {
            return;
        }
        let Self { desk, flights, in_air, removal, .. } = self;
        poll_fn(|context| {
            land(flights, in_air, desk, context);
            removal.poll(context);
            Poll::Ready(())
        })
        .await;
    }

    /// Waits until something has landed, is due, has come by mail, or there is room again.
    async fn rest(&mut self, idle: bool) {
        let Self { site, desk, flights, in_air, timer, pulse, removal, .. } = self;
        let now = site.engine.runtime.now();
        desk.count_first_attempts(&site.engine, now);
        let room = match &desk.full {
            Some(Full::Until(_, _, at) | Full::Lock(_, at)) => Some(*at),
            _ => None,
        };
        // An engine that is not served says that it is alive from here.
        // While nothing runs it asks for messages only where other processes leave some.
        let asks = !idle || site.shared;
        let tends = (asks && !site.engine.is_served.load(Ordering::Acquire))
            .then(|| site.engine.tends_at());
        let runtime = &site.engine.runtime;
        let due = [site.run.state().next_due(now), room].into_iter().flatten().min();
        if timer.as_ref().map(|(at, _)| *at) != due {
            *timer = due.map(|at| (at, runtime.sleep_until(at)));
        }
        if pulse.as_ref().map(|(at, _)| *at) != tends {
            let left = |at: Duration| at.saturating_sub(runtime.monotonic());
            *pulse = tends.map(|at| (at, runtime.sleep(left(at))));
        }
        poll_fn(|context| {
            site.run.driver.register(context.waker());
            let mut moved = site.run.has_mail.load(Ordering::Acquire);
            moved |= site.run.has_room.swap(false, Ordering::AcqRel);
            moved |= land(flights, in_air, desk, context);
            moved |= removal.poll(context);
            if let Some((_, waits)) = timer
                && waits.as_mut().poll(context).is_ready()
            {
                *timer = None;
                moved = true;
            }
            if let Some((_, waits)) = pulse
                && waits.as_mut().poll(context).is_ready()
            {
                *pulse = None;
                moved = true;
            }
            if moved { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn set_held(&mut self, held: Option<Owner>) {
        self.held = held;
        self.site.run.set_held(held.is_some());
    }

    fn holds(&self) -> bool {
        self.held == Some(self.site.engine.owner())
    }

    /// Whether the run is nobody's, and somebody here has it go on.
    fn is_to_be_held(&self) -> bool {
        let run = &self.site.run;
        !self.holds() && run.is_driven() && !run.state().status().is_end()
    }

    /// Takes a run in hand that nobody has, as another engine might end it, and whoever waits here would
    /// never hear of it; or leaves it to the others. Whether that went well.
    async fn keep(&mut self, keep: Keep, conflicts: &mut u32) -> Result<bool> {
        let next = self.next(keep);
        match self.commit(next).await {
            Ok(is_late) => Ok(!is_late),
            Err(error) if self.goes_on_after(&error, conflicts) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives the run out of hand. Not when mail has come meanwhile.
    async fn park(&mut self) -> Result<bool> {
        if self.site.run.has_mail.load(Ordering::Acquire) {
            return Ok(false);
        }
        if self.holds() {
            let next = self.next(Keep::Parks);
            self.commit(next).await?;
        }
        // This engine may have claimed it again before the answer came; then it is this driver's.
        Ok(!self.site.run.has_mail.load(Ordering::Acquire))
    }

    fn end(&mut self) {
        self.release();
        if self.site.run.has_mail.load(Ordering::Acquire) {
            // It may have been claimed for a message that nobody has answered.
            self.site.engine.doubt();
        }
        self.site.run.end_observation();
        self.site.engine.forget(&self.site.run);
        tracing::debug!(target: "stepwell", run_id = %self.site.run.id, "run ended");
    }

    /// Drops every attempt, and gives back what they hold.
    fn release(&mut self) {
        let is_idle = self.is_idle();
        let Self { site, desk, flights, in_air, .. } = self;
        if !is_idle {
            for (_, attempt) in in_air.drain() {
                attempt.abort();
                desk.landed.push(Landed::new(&attempt.begun, None));
            }
            *flights = None;
            desk.forget_launches(site);
        }
        desk.held.settle(&site.engine);
    }
}

impl Drop for Driver {
    /// A driver may go while steps run: with the engine, or because its storage failed.
    fn drop(&mut self) {
        self.release();
    }
}

impl Site {
    /// What has become of the run, and who holds it from now on.
    fn next(&self, state: &RunState, keep: Keep) -> (RunStatus, Holding) {
        let status = state.status();
        let now = self.engine.runtime.now();
        let holding = match keep {
            _ if status.is_end() => Holding::Finished,
            Keep::Holds => Holding::Held(self.engine.owner()),
            Keep::Leaves if !state.is_parked() => Holding::Parked(Some(now)),
            Keep::Leaves | Keep::Parks => Holding::Parked(state.next_due(now)),
        };
        (status, holding)
    }
}

/// What an engine does with a run that it writes to.
#[derive(Clone, Copy, Debug)]
enum Keep {
    Holds,
    /// Gives it out of hand, until something is due or said.
    Parks,
    /// Leaves it to others, also if there is something to do at once.
    Leaves,
}

/// Whether a message has not been answered yet.
pub(super) fn is_among(mail: &[(u64, Message)], number: u64) -> bool {
    mail.iter().any(|(other, _)| *other == number)
}

/// Takes in what has come down; whether anything has.
fn land(
    flights: &mut Option<FuturesUnordered<Flight>>,
    in_air: &mut InAir,
    desk: &mut Desk,
    context: &mut std::task::Context<'_>,
) -> bool {
    let mut moved = false;
    while let Some(flights) = flights
        && let Poll::Ready(Some(landed)) = Pin::new(flights).poll_next(context)
    {
        in_air.remove(&(landed.body, landed.step, landed.number));
        desk.landed.push(landed);
        moved = true;
    }
    moved
}

/// Whether an event can make a running attempt unwanted.
const fn disturbs(recorded: &Recorded) -> bool {
    matches!(
        recorded.event,
        Event::StepFailed { .. }
            | Event::AttemptFailed { .. }
            | Event::StepOutcomeUnknown { .. }
            | Event::StepCancelled { .. }
            | Event::StepCancelRequested { .. }
            | Event::RunFinished { .. }
    )
}

/// Lets the executor run something else.
pub(super) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
