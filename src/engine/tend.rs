//! What an engine says of itself to the others on its storage, and what it hears of them.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{Either, select};

use super::{Inner, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Beat, Owner, Storage};

/// Beats in the time after which an engine that has not beaten is taken for gone.
const BEATS_PER_LEASE: u32 = 3;
/// Runs with messages that are asked for at once.
const MAIL_AT_ONCE: usize = 1_000;

/// Who this engine is to the others, made when it is built: somebody else each time that it has retired.
///
/// Who has retired is forgotten, and would count its beats from the beginning: somebody who has heard
/// little of it could take its beats for those that they know, and it for silent since then.
#[derive(Debug)]
pub(crate) struct Incarnation {
    token: u128,
    /// How often it has retired.
    number: AtomicU64,
    /// Who it was, if the storage may not have heard that this one has retired.
    former: Mutex<Option<Owner>>,
}

impl Incarnation {
    pub(crate) const fn new(token: u128) -> Self {
        Self { token, number: AtomicU64::new(0), former: Mutex::new(None) }
    }

    fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    fn owner(&self, number: u64) -> Owner {
        Owner(self.token.wrapping_add(number.into()))
    }
}

/// When the next word is due, and whose last word came when.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// The last incarnation that was heard of, counted from 1.
    introduced: AtomicU64,
    heard: Mutex<Heard>,
}

/// Times are of the clock that only goes forward: nobody's wall clock decides who is alive.
#[derive(Debug, Default)]
struct Heard {
    beat_at: Duration,
    mail_at: Duration,
    /// When the others were heard last.
    at: Duration,
    /// When that was asked for, and so when this engine was heard at the latest.
    asked_at: Duration,
    /// Since when it was heard again and again, without a pause in which others might wonder.
    unbroken_since: Duration,
    last: BTreeMap<Owner, (u64, Duration)>,
}

impl Inner {
    /// Has beaten at least once before it holds anything, so that others can tell when it is gone.
    pub(crate) async fn introduce(&self) -> Result<()> {
        // It may retire meanwhile, and is to be heard of as who it is then.
        while !self.is_introduced() {
            self.beat().await?;
        }
        Ok(())
    }

    pub(crate) fn owner(&self) -> Owner {
        self.incarnation.owner(self.incarnation.number())
    }

    pub(crate) fn is_introduced(&self) -> bool {
        self.pulse.introduced.load(Ordering::Acquire) > self.incarnation.number()
    }

    /// When something is to be said or asked next, by the clock that only goes forward.
    pub(crate) fn tends_at(&self) -> Duration {
        let heard = lock(&self.pulse.heard);
        heard.beat_at.min(heard.mail_at)
    }

    /// Says that this engine is alive, and looks for messages to the runs that it holds, as far as
    /// that is due.
    pub(crate) async fn tend(&self) -> Result<()> {
        let now = self.runtime.monotonic();
        let (beats, asks) = {
            let mut heard = lock(&self.pulse.heard);
            let beats = heard.beat_at <= now;
            let asks = heard.mail_at <= now;
            // Before the questions, so that nobody else asks them too; and however it goes, who asks in
            // vain, or stops waiting, asks again no sooner.
            if beats {
                heard.beat_at = now + self.beat_every();
            }
            if asks {
                heard.mail_at = now + self.storage.poll_every();
            }
            (beats, asks)
        };
        if beats {
            self.beat().await?;
        }
        if asks {
            let mail = self.storage.mail(self.owner(), MAIL_AT_ONCE).await?;
            let runs = lock(&self.runs);
            let addressed = mail.iter().filter_map(|run| runs.get(run).cloned());
            let addressed: Vec<_> = addressed.collect();
            drop(runs);
            addressed.iter().for_each(|slot| slot.context.wake_driver());
        }
        Ok(())
    }

    /// Does this while the others hear that this engine is alive. Gives it up when they may not have
    /// heard so for a while, before any of them takes this engine for gone.
    pub(crate) async fn while_heard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        if !self.is_introduced() || self.silent_in().is_zero() {
            self.beat().await?;
        }
        let silence = async {
            select(pin!(self.beats()), pin!(self.silence())).await;
        };
        match select(pin!(silence), pin!(work)).await {
            Either::Left(_) => {
                let message = "the others may not have heard for half a lease that this engine is \
                               alive, and may go on with what it has begun; try again";
                Err(Error::new(ErrorKind::Storage, message).transient())
            }
            Either::Right((done, _)) => done,
        }
    }

    /// Does this while the others hear that this engine is alive, as soon as they have heard of it.
    /// However that goes, the work is done, and what is said meanwhile is said to its end.
    pub(crate) async fn beside_beats<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            if let Either::Left((done, _)) = select(&mut work, pin!(self.beat_is_due())).await {
                return done;
            }
            if let Either::Left((done, beat)) = select(&mut work, pin!(self.beat_anyway())).await {
                // Others count on an answer that nobody here has heard.
                beat.await;
                return done;
            }
        }
    }

    /// Says again and again that this engine is alive, whoever else does.
    async fn beats(&self) {
        loop {
            self.beat_is_due().await;
            self.beat_anyway().await;
        }
    }

    /// The first word is somebody else's to say.
    async fn beat_is_due(&self) {
        loop {
            let at = lock(&self.pulse.heard).beat_at;
            let wait = at.saturating_sub(self.runtime.monotonic());
            match (wait.is_zero(), self.is_introduced()) {
                (true, true) => return,
                (false, _) => self.runtime.sleep(wait).await,
                (true, false) => self.runtime.sleep(self.beat_every()).await,
            }
        }
    }

    async fn beat_anyway(&self) {
        if let Err(error) = self.beat().await {
            tracing::warn!(target: "stepwell", %error, "the storage did not hear this engine");
        }
    }

    /// Ends when the storage has not heard this engine for too long.
    async fn silence(&self) {
        loop {
            let wait = self.silent_in();
            if wait.is_zero() {
                return;
            }
            self.runtime.sleep(wait).await;
        }
    }

    /// How long until others might wonder, if nothing is said.
    fn silent_in(&self) -> Duration {
        let until = lock(&self.pulse.heard).asked_at + self.limits.lease / 2;
        until.saturating_sub(self.runtime.monotonic())
    }

    /// Whether no other could take this engine for gone at that time.
    pub(crate) fn was_heard_at(&self, then: Duration) -> bool {
        let heard = lock(&self.pulse.heard);
        heard.unbroken_since <= then && then.saturating_sub(heard.asked_at) < self.limits.lease / 2
    }

    /// Whether the others may have taken this engine for gone, if it has slept since then: its last word
    /// may be a third of a lease older.
    pub(crate) fn may_be_gone_since(&self, then: Duration) -> bool {
        self.runtime.monotonic().saturating_sub(then) >= self.limits.lease / 2
    }

    /// Messages may be there: they are asked for the next time.
    pub(crate) fn ask_soon(&self) {
        lock(&self.pulse.heard).mail_at = Duration::ZERO;
    }

    /// Something was put there that this engine may take, if it is served.
    pub(crate) fn look_soon(&self) {
        self.looks_soon.store(true, Ordering::Release);
        self.serving.wake();
    }

    pub(crate) fn beat_every(&self) -> Duration {
        self.limits.lease / BEATS_PER_LEASE
    }

    async fn beat(&self) -> Result<()> {
        let every = self.beat_every();
        let asked_at = self.runtime.monotonic();
        let number = self.incarnation.number();
        let owner = self.incarnation.owner(number);
        lock(&self.pulse.heard).beat_at = asked_at + every;
        self.leave_former().await?;
        let beats = match self.storage.beat(owner).await {
            Ok(beats) => beats,
            Err(error) => {
                lock(&self.pulse.heard).beat_at = self.runtime.monotonic() + every / 10;
                return Err(error);
            }
        };
        let now = self.runtime.monotonic();
        let mut heard = lock(&self.pulse.heard);
        if asked_at < heard.asked_at {
            // A later word was answered first, and says more.
            return Ok(());
        }
        let mut before = std::mem::take(&mut heard.last);
        if !self.has_listened(&heard, now) {
            before.clear();
        }
        let was_silent = asked_at.saturating_sub(heard.asked_at) >= self.limits.lease / 2;
        if was_silent {
            heard.unbroken_since = asked_at;
        }
        (heard.at, heard.asked_at) = (now, asked_at);
        heard.last = beats
            .into_iter()
            .filter(|beat| beat.owner != owner)
            .map(|beat| {
                let known = before.get(&beat.owner).filter(|(count, _)| *count == beat.count);
                (beat.owner, known.copied().unwrap_or((beat.count, now)))
            })
            .collect();
        drop(heard);
        let knows_it = self.pulse.introduced.fetch_max(number + 1, Ordering::AcqRel) > number;
        // The others may have taken what it had.
        if was_silent && knows_it || self.storage.has_given_up() {
            self.doubt();
        }
        Ok(())
    }

    /// Engines that have not said a word for the length of a lease, each with its last.
    pub(crate) fn gone(&self) -> Vec<Beat> {
        let now = self.runtime.monotonic();
        let heard = lock(&self.pulse.heard);
        if !self.has_listened(&heard, now) {
            return Vec::new();
        }
        let silent =
            heard.last.iter().filter(|(_, (_, at))| now.saturating_sub(*at) >= self.limits.lease);
        silent.map(|(owner, (count, _))| Beat { owner: *owner, count: *count }).collect()
    }

    /// Whether it has heard of no other engine.
    pub(crate) fn is_alone(&self) -> bool {
        lock(&self.pulse.heard).last.is_empty()
    }

    /// Who has not listened knows nothing of those who were silent meanwhile.
    fn has_listened(&self, heard: &Heard, now: Duration) -> bool {
        now.saturating_sub(heard.at) < self.limits.lease / 2
    }

    /// Lets go of everything at once, unless somebody still drives a run here.
    pub(crate) async fn retire(&self) -> Result<()> {
        if !self.is_introduced() {
            return Ok(());
        }
        let number = self.incarnation.number.fetch_add(1, Ordering::AcqRel);
        *lock(&self.incarnation.former) = Some(self.incarnation.owner(number));
        lock(&self.pulse.heard).beat_at = Duration::ZERO;
        self.leave_former().await
    }

    /// What it held under its former name is free, also if the storage did not answer when it retired.
    async fn leave_former(&self) -> Result<()> {
        let former = *lock(&self.incarnation.former);
        if let Some(former) = former {
            self.storage.retire(former).await?;
            lock(&self.incarnation.former).take_if(|left| *left == former);
        }
        Ok(())
    }
}
