//! Going on with a run that was begun before, here or by another engine, and finding out which.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use futures::future::poll_fn;

use super::{Driver, InAir, Keep, is_among};
use crate::engine::desk::Desk;
use crate::engine::slot::Inherited;
use crate::engine::trials::is_suspected;
use crate::error::{Error, ErrorKind, Result};
use crate::executor::Attempt;
use crate::id::StepKey;
use crate::journal::{Event, Recorded, StepStatus};
use crate::run::RunState;
use crate::storage::{Claim, Holding, Storage, StoredRun};
use crate::time::Timestamp;

/// How often a run that is set aside is asked for by name, before it is left to others for a while.
const ASIDES_MAX: u32 = 3;
/// How often the journal is looked at again because that took too long, before a storage that is so slow
/// is believed.
const LATE_MAX: u32 = 3;

/// Runs that are given to the others between two turns of one that goes on.
const GIVEN_AT_ONCE: usize = 16;

impl Driver {
    /// Goes on with what was begun before. If attempts were under way, the journal is looked at once
    /// more before they are begun again: it may have been loaded a while ago.
    pub(in crate::engine) fn inherit(&mut self, inherited: Inherited) {
        let under_way = |(_, status): (StepKey, StepStatus)| status == StepStatus::Running;
        self.uncertain |= inherited.elsewhere || self.site.run.state().steps().any(under_way);
        self.set_held(inherited.held);
        self.recoveries = inherited.recoveries;
    }

    /// Looks what the journal says until the run is this engine's to drive; not if nobody here waits for
    /// it.
    pub(super) async fn come_by(&mut self) -> Result<bool> {
        loop {
            // What comes later is a doubt of what is looked at now.
            self.site.run.take_doubt();
            if self.recover().await? {
                return Ok(true);
            }
            if self.site.run.handles.load(Ordering::Acquire) == 0 {
                return Ok(false);
            }
            self.wait_elsewhere().await;
            // What it holds besides is not this one's to keep from the others.
            self.tend().await;
        }
    }

    /// Looks in a while what others have done with a run that this engine cannot run; not if nobody here
    /// has a handle for it.
    pub(super) async fn watch(&mut self, conflicts: &mut u32) -> Result<bool> {
        // It was taken to answer a message, or with others that are due.
        if self.site.run.is_held() && !self.keep(Keep::Leaves, conflicts).await? {
            return Ok(true);
        }
        if self.site.run.handles.load(Ordering::Acquire) == 0 {
            return Ok(false);
        }
        self.wait_elsewhere().await;
        self.tend().await;
        self.uncertain = true;
        Ok(true)
    }

    /// Looks what the journal says: after a commit whose answer was not seen, and of a run that
    /// another engine held. Whether the run is this engine's to drive.
    async fn recover(&mut self) -> Result<bool> {
        for _ in 0..LATE_MAX {
            let asked_at = self.site.engine.runtime.monotonic();
            if !self.look().await? {
                return Ok(false);
            }
            if !self.site.engine.may_be_gone_since(asked_at) {
                break;
            }
        }
        Ok(true)
    }

    /// Once, however long it takes.
    async fn look(&mut self) -> Result<bool> {
        let run = Arc::clone(&self.site.run);
        let owner = self.site.engine.owner();
        let (mut seized, mut asides) = (None, 0);
        // Who cannot run it takes it only to answer what somebody here has said to it.
        let may_seize = !self.site.prepared.lacks() || !self.audience.awaited().is_empty();
        let (stored, mut is_ours) = loop {
            let Some(stored) = self.site.engine.storage.load(&run.id).await? else {
                let gone = Error::new(ErrorKind::NotFound, "the run is gone from the storage");
                return Err(gone.of_run(&run.id));
            };
            match stored.holding {
                Holding::Held(other) if other != owner && seized.is_none() && may_seize => {
                    seized = Some(self.seize().await?);
                }
                Holding::Held(other) => {
                    // What is just being claimed may have to wait; if not, that is said.
                    let is_new = self.held != Some(owner) && seized != Some(true);
                    let waits = is_new && self.site.engine.trials.is_claiming();
                    break (stored, other == owner && !waits);
                }
                // Others would begin the same when its time has come: also if it was set aside only
                // just now, by who had it when this engine asked for it.
                Holding::Aside(until)
                    if asides < ASIDES_MAX && may_seize && self.is_due(until, &stored) =>
                {
                    asides += 1;
                    seized = Some(self.seize().await?);
                }
                Holding::Aside(_) => break (stored, false),
                _ => break (stored, true),
            }
        };
        self.hear_answers().await?;
        let base = Arc::clone(run.state().base());
        let known = base.units().len();
        let found = self.site.engine.state_of(&run.id, base, &stored).await?;
        if run.is_observed() && self.told.is_none() {
            self.told = Some(Box::new(run.state().clone()));
        }
        if seized == Some(true) && self.begins() && found.running() > 0 {
            is_ours &= !self.site.engine.puts_off(&run.id, stored.recoveries).await?;
        }
        let told = self.told.as_ref().map(|told| told.version());
        let untold = match told {
            Some(told) => self.site.engine.since(&run.id, told, &stored).await?,
            None => Vec::new(),
        };
        self.desk.reset(&self.site);
        self.set_held((is_ours && stored.holding == Holding::Held(owner)).then_some(owner));
        if seized == Some(true) && !run.is_driven() {
            // Only to say something to it: it is left to others with that.
            self.held = None;
        }
        {
            let mut state = run.state();
            *state = found;
            // What was made, and not stored, is made again, and may be something else.
            self.site.prepared = Arc::new(self.site.prepared.first(known));
            self.expected = state.version();
            let every = self.site.engine.limits.snapshot_every;
            self.snapshot_at = state.snapshot_events().saturating_add(every);
            // Of one that is ours the next turn says so, when it has answered what was said to it.
            if !is_ours && state.status().is_end() && !run.is_revived() {
                run.set_ended();
            }
            // What is still held is given again.
            self.desk.locks.clear();
            self.recoveries = stored.recoveries;
            if !is_ours || seized.is_some() || stored.holding != Holding::Held(owner) {
                self.desk.forget_unbegun();
            }
        }
        // Only then are there executors for what was added to the definition.
        self.grow();
        self.desk.report_again(&self.site, &run.state());
        {
            let state = run.state();
            self.lost.clear();
            if is_ours {
                let open = |(step, number): &(StepKey, u32)| {
                    let here = is_here(&self.desk, &self.in_air, &state, *step, *number);
                    !here && !self.desk.is_unbegun(&state, *step, *number)
                };
                self.lost.extend(state.running_once().filter(open));
            }
            let begins_again = state.running() as usize > self.lost.len();
            let lacks = self.site.prepared.lacks();
            let poisoned = !lacks && self.recoveries > self.site.engine.limits.max_recoveries;
            self.is_poisoned = poisoned && begins_again && !state.is_quarantined();
        }
        self.desk.held.settle(&self.site.engine);
        self.publish(untold);
        if let Some(told) = &mut self.told {
            **told = run.state().clone();
        }
        run.set_elsewhere(!is_ours && !run.has_ended());
        if !is_ours {
            // What runs here is not this run's any more.
            self.release();
            return Ok(false);
        }
        self.uncertain = false;
        run.has_mail.store(true, Ordering::SeqCst);
        self.disturb().await;
        // Nobody would go on with what is begun now, if somebody only says something to the run.
        self.adopts_later = !run.is_driven();
        if !self.adopts_later {
            self.adopt();
        }
        Ok(true)
    }

    /// Takes the run from an engine that is gone, if it is. Whether it did.
    async fn seize(&mut self) -> Result<bool> {
        let engine = &self.site.engine;
        engine.tend().await?;
        let claim = Claim {
            owner: engine.owner(),
            now: engine.runtime.now(),
            gone: engine.gone(),
            run: Some(self.site.run.id.clone()),
            limit: 1,
        };
        let unheard = engine.unheard();
        // Until the journal says otherwise, so that it is not forgotten.
        self.site.run.set_held(true);
        let claimed = engine.storage.claim(claim).await?;
        unheard.heard();
        Ok(!claimed.is_empty())
    }

    /// Whether a run that was set aside may be taken, now that somebody here asks for it: one that may be
    /// what kills has to wait all the same, unless somebody has said something to it.
    fn is_due(&self, until: Timestamp, stored: &StoredRun) -> bool {
        !is_suspected(stored.recoveries) || !self.begins() || self.site.engine.has_waited(until)
    }

    /// Whether what is under way begins again here, and nobody waits for an answer.
    fn begins(&self) -> bool {
        self.site.run.is_driven() && self.audience.awaited().is_empty()
    }

    /// Looks what became of messages that were posted here: by a commit whose answer nobody saw, or by
    /// another engine's.
    async fn hear_answers(&mut self) -> Result<()> {
        let mut open = self.audience.awaited();
        open.extend(self.desk.answers.drain(..).map(|(number, _)| number));
        let (storage, run) = (&self.site.engine.storage, &self.site.run.id);
        let mut unheard = Vec::new();
        for number in open {
            match storage.answer(run, number).await? {
                Some(answer) => self.audience.give(number, answer),
                None => unheard.push(number),
            }
        }
        if unheard.is_empty() {
            return Ok(());
        }
        let inbox = storage.inbox(run).await?;
        unheard.retain(|number| !is_among(&inbox, *number));
        for number in unheard {
            // Answered since, or so long ago that nobody knows any more.
            match storage.answer(run, number).await? {
                Some(answer) => self.audience.give(number, answer),
                None => self.audience.give_up(number),
            }
        }
        Ok(())
    }

    /// Another engine drives the run; looks again in a while.
    async fn wait_elsewhere(&mut self) {
        let Self { site, .. } = self;
        let runtime = &site.engine.runtime;
        let mut again = runtime.sleep(site.engine.storage.poll_every());
        poll_fn(|context| {
            site.run.driver.register(context.waker());
            let mut moved = site.run.has_mail.swap(false, Ordering::AcqRel);
            moved |= site.run.has_room.swap(false, Ordering::AcqRel);
            if moved { Poll::Ready(()) } else { again.as_mut().poll(context) }
        })
        .await;
    }

    pub(super) async fn introduce(&mut self) -> Result<()> {
        self.site.engine.introduce().await
    }

    /// Does what the whole engine owes the others, if nobody else does.
    pub(super) async fn tend(&mut self) {
        let engine = &self.site.engine;
        if engine.is_served.load(Ordering::Acquire)
            || engine.tends_at() > engine.runtime.monotonic()
        {
            return;
        }
        let tend = async {
            engine.tend().await?;
            if engine.looks_for_lost() {
                let unheard = engine.unheard();
                engine.find_taken().await?;
                unheard.heard();
            }
            // What stands still here the others may go on with, which wait for this engine to be gone.
            if engine.is_alone() { Ok(()) } else { engine.give_unwanted(GIVEN_AT_ONCE).await }
        };
        if let Err(error) = Box::pin(tend).await {
            tracing::warn!(target: "stepwell", %error, "the storage fails what an engine owes the others");
        }
    }

    /// Runs attempts again that were begun and whose end nobody recorded: as the same attempts.
    fn adopt(&mut self) {
        let Self { site, desk, in_air, .. } = self;
        let state = site.run.state();
        if state.is_quarantined() || self.is_poisoned {
            self.taken_over.clear();
            return;
        }
        // Of those that it took over before some may still be under way, here.
        self.taken_over.retain(|(step, number)| state.is_running(*step, *number));
        for (step, status) in state.steps() {
            let number = state.attempt(step);
            let here = || is_here(desk, in_air, &state, step, number);
            if status != StepStatus::Running || here() {
                continue;
            }
            if let Some(task) = site.prepared.task(state.body_of(step), step.step) {
                if task.at_most_once && !desk.is_unbegun(&state, step, number) {
                    continue;
                }
                self.taken_over.push((step, number));
                desk.held.take_anyway(&site.engine, task);
                desk.launch(&state, step, &*site.engine.runtime);
            }
        }
        // Very many may have been under way, and some of them taken over before.
        self.taken_over.sort_unstable();
        self.taken_over.dedup();
        desk.forget_unbegun();
        self.adopted = true;
    }

    pub(super) const fn taken_over_lately(&self) -> bool {
        self.recoveries > 0
    }

    /// Whether everything that was under way when the run was taken over has ended, or is kept from
    /// going on. Who only says something to the run knows nothing of that.
    pub(super) fn has_recovered(&self, events: &[Recorded]) -> bool {
        let kept = |recorded: &Recorded| matches!(recorded.event, Event::RunQuarantined { .. });
        let state = self.site.run.state();
        let ended = self.taken_over.iter().all(|(step, number)| !state.is_running(*step, *number));
        // What has nothing under way has killed nobody.
        let idle = state.running() == 0;
        let got_on = !events.is_empty() && ended && !self.adopts_later;
        idle || got_on || events.iter().any(kept)
    }
}

/// Whether an attempt is in the air here, or has come down and waits to be reported.
fn is_here(desk: &Desk, in_air: &InAir, state: &RunState, step: StepKey, number: u32) -> bool {
    let flies = |attempt: &Arc<Attempt>| {
        let begun = &attempt.begun;
        begun.number == number && state.current(begun.key, begun.body) == Some(step)
    };
    desk.has_landed(state, step, number) || in_air.values().any(flies)
}
