//! `Memory` with one mistake.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

#[path = "purging.rs"]
mod purging;
#[path = "wrapper.rs"]
mod wrapper;

use futures::executor::block_on;
use stepwell::journal::Recorded;
use stepwell::run::Want;
use stepwell::storage::{
    Acquire, Answer, Commit, Holding, Memory, Message, NewRun, Owner, RunQuery, Storage, StoredRun,
    Summary,
};
use stepwell::testing::conformance::StorageFactory;
use stepwell::{Json, RunId, RunStatus, Step, StepKey, Timestamp, Workflow};

macro_rules! mistakes {
    ($($mistake:ident $group:literal,)*) => {
        /// What is wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Mistake { None, $($mistake,)* }

        /// The group of cases that finds it, in any case.
        pub(crate) const GROUPS: [(Mistake, &str); [$($group),*].len()] =
            [$((Mistake::$mistake, $group),)*];
    };
}

mistakes! {
    CreateSaysNew "create",
    CreateNamesItself "create",
    CreateForgetsUser "create",
    CreateForgetsMetadata "create",
    CreateForgetsLinked "kinds",
    CreateForgetsBeginning "create",
    CreateHolds "create",
    CreateChangesStatus "create",
    IdsFoldCase "create",
    IdsAreCut "create",
    IdsAreAscii "create",
    WorkflowsByName "kinds",
    EmptyIsNotEmpty "create",
    UnknownIsNew "commit",
    CommitIgnoresLength "fence",
    CommitIgnoresOwner "fence",
    CommitKnowsHalfAnOwner "fence",
    CommitAsksForAHolder "fence",
    CommitNeedsALivingOwner "fence",
    CommitSaysConflict "commit",
    CommitForgetsWrites "writes",
    CommitTearsStatus "commit",
    CommitTearsAnswers "commit",
    CommitTearsReleases "commit",
    CommitTearsRecovered "commit",
    CommitTearsHolding "commit",
    CommitTearsEvents "commit",
    CommitReverses "commit",
    CommitForgetsStatus "commit",
    CommitForgetsHolding "commit",
    CommitForgetsAnswers "messages",
    CommitForgetsReleases "locks",
    CommitNeedsEvents "commit",
    CommitInTwoSteps "dropped",
    CommitRaces "race",
    CreateRaces "race",
    ClaimRaces "race",
    AcquireRaces "race",
    BeatRaces "race",
    PostLosesSome "messages",
    PostRepeatsNumbers "messages",
    PostGoesToAll "messages",
    PostOnlyToHeld "messages",
    PostSaysNothing "messages",
    InboxBackwards "messages",
    InboxKeepsAnswered "messages",
    InboxEmptiesAtOnce "messages",
    AnswersAreGood "answers",
    AnswersAreFew "answers",
    AnswersAreGuessed "answers",
    AnswersAreNone "answers",
    AnswersOfUnknown "answers",
    MailOfEverybody "mail",
    MailWithoutLimit "mail",
    MailWithoutMessages "mail",
    MailNever "mail",
    HeldNever "held",
    HeldOfEverybody "held",
    HeldWithoutLimit "held",
    HeldFromTheFirst "held",
    HeldBackwards "held",
    ClaimTwice "claim",
    ClaimEarly "claim",
    ClaimLate "claim",
    ClaimNeverByMessage "claim",
    ClaimAsideByMessage "aside",
    ClaimWithoutLimit "claim",
    ClaimOwn "owners",
    ClaimFromLiving "owners",
    ClaimFromNobody "owners",
    ClaimAnyName "claim",
    ClaimNameWhenDue "claim",
    ClaimChangesStatus "claim",
    ClaimForgetsInbox "claim",
    GoneWithoutCompare "owners",
    GoneNever "owners",
    RetireNever "owners",
    RetireAll "owners",
    RetireCounts "recoveries",
    BeatTellsItself "owners",
    BeatAlwaysOne "owners",
    BeatOfHalfAnOwner "owners",
    RecoveriesNever "recoveries",
    RecoveriesAlways "recoveries",
    RecoveredAlways "recoveries",
    RecoveredNever "recoveries",
    DueNever "due",
    DueOnlyByTime "due",
    DueLatest "due",
    DueTakes "due",
    AcquireIgnoresLength "locks",
    AcquireTakesLonger "locks",
    AcquireTakesShorter "locks",
    AcquireIgnoresOwner "locks",
    AcquireOfParked "locks",
    AcquireOfNothing "locks",
    AcquireSaysConflict "locks",
    LocksFree "locks",
    LocksOneByOne "locks",
    LocksChargeAgain "locks",
    LocksOutliveRuns "locks",
    LocksAfterTheEnd "locks",
    LocksEndWithHolding "locks",
    LocksEndWithAnyCommit "locks",
    LocksOfWholeRuns "locks",
    LocksOfSteps "locks",
    LocksFoldNames "locks",
    LocksAreAscii "locks",
    LocksAlwaysOne "locks",
    LocksNameNobody "locks",
    LocksNever "locks",
    RatesFree "rates",
    RatesAsMax "rates",
    RatesInWholeSeconds "rates",
    RatesForgetUntil "rates",
    RatesByRun "rates",
    ListBackwards "list",
    ListById "list",
    ListAnyWorkflow "list",
    ListAnyStatus "list",
    ListEnded "list",
    ListFromTheTop "list",
    ListWithoutLimit "list",
    ListCutsFirst "list",
    ListWithoutTimes "list",
    ListWithoutProblems "aside",
    ListCountsOneLess "list",
    AsideByAnybody "aside",
    AsideNever "aside",
    AsideWithoutTime "aside",
    AsideReleases "aside",
    AsideWhyIsCut "aside",
    AsideForgetsInbox "aside",
    NumbersAreFloats "payload",
    TextsEndAtNull "payload",
    TextsAreAscii "payload",
    TextsAreShort "payload",
    TextsAreTrimmed "payload",
    EmptyIsNull "payload",
    NestingIsCut "payload",
    KeysAreFew "payload",
    ZeroHasNoSign "payload",
    TimesInMillis "list",
    TimesAreUnsigned "payload",
    NumbersAreWhole "payload",
    BooleansAreNumbers "payload",
    TextsAreEscaped "payload",
    TextsAreRead "payload",
    JournalIsShort "scale",
    InboxIsShort "scale",
    ListIsShort "scale",
    ListNamesAreAscii "list",
    ReopenAddsOne "reopen",
    TakesAreFew "scale",
    LocksOfScopes "locks",
    LocksOfPlaces "locks",
    LocksEndWithAnyRun "locks",
    LocksAreShort "locks",
    LocksOneMore "locks",
    PostRaces "race",
    LocksRaces "race",
    ClaimNeverFinished "claim",
    ClaimNameOfFinished "claim",
    ClaimInWholeSeconds "claim",
    ClaimParked "claim",
    ClaimNeverAside "claim",
    ClaimFinished "claim",
    RatesOneMore "rates",
    RatesWithoutBurst "rates",
    RatesAreOne "rates",
    RatesChargeRefused "rates",
    RetireGivesOne "owners",
    GoneForGood "owners",
    GoneOnlyWhenTaken "owners",
    GoneTakesAll "owners",
    GoneWithOlder "owners",
    BeatTellsOthers "owners",
    BeatCountsTwice "owners",
    AsideIsParked "aside",
    AsideFails "aside",
    AsideOfIdle "aside",
    AsideWithoutWhy "aside",
    ListKeepsProblems "aside",
    MailKeepsAnswered "mail",
    MailOfIdle "mail",
    AnswersEndWithRuns "answers",
    AnswersAreFewOfAll "answers",
    ListWithoutStatus "list",
    ListByChange "list",
    ListFoldsNames "list",
    ListFoldsIds "list",
    CommitTearsEnds "commit",
    CommitGivesEventsBack "commit",
    CommitTouchesAll "commit",
    CommitTakesLonger "fence",
    DueAlways "due",
    DueByAnyMessage "due",
    InboxIsEverybody "messages",
    PostParks "messages",
    PostFoldsEqual "messages",
    AsideRecovers "recoveries",
    ClaimRecovers "recoveries",
    ClaimReleases "locks",
    KeepsNothing "reopen",
    KeepsOnlyRuns "reopen",
    HandlesAreStale "shared",
    HandlesAreApart "shared",
    SnapshotNever "snapshots",
    SnapshotFirst "snapshots",
    SnapshotIsAscii "snapshots",
    SnapshotWithAllEvents "snapshots",
    CommitTearsSnapshot "snapshots",
    ForgetsNothing "snapshots",
    ForgetsAll "snapshots",
    ForgetsOneMore "snapshots",
    ForgetsPeople "snapshots",
    ForgetsBackwards "snapshots",
    ListForgetsNothing "snapshots",
    ListCountsWhatIsLeft "snapshots",
    EventsWithoutLimit "snapshots",
    EventsFromTheFirst "snapshots",
    EventsCountedAnew "snapshots",
    PurgeNever "purge",
    PurgeAll "purge",
    PurgeByAgeOnly "purge",
    PurgeByNumberOnly "purge",
    PurgeInWholeSeconds "purge",
    PurgeAnyWorkflow "purge",
    PurgeCountsAll "purge",
    PurgeWithoutLimit "purge",
    PurgeWithMessages "purge",
    PurgeRunning "purge",
    PurgeFreesIds "purge",
    PurgeTellsOnce "purge",
    PurgeTellsEverybody "purge",
    PurgeLeavesNobodys "purge",
    PurgeTellsHalf "purge",
    ClearNever "purge",
    ClearByAnybody "purge",
    ClearRemoves "purge",
}

/// What random operations do not meet: threads, odd names, very many and very long things.
pub(crate) const BY_CASES_ONLY: [Mistake; 30] = [
    Mistake::CommitForgetsWrites,
    Mistake::PurgeInWholeSeconds,
    Mistake::HeldWithoutLimit,
    Mistake::HeldFromTheFirst,
    Mistake::IdsAreCut,
    Mistake::IdsAreAscii,
    Mistake::CommitInTwoSteps,
    Mistake::CommitRaces,
    Mistake::CreateRaces,
    Mistake::ClaimRaces,
    Mistake::BeatRaces,
    Mistake::AnswersAreFew,
    Mistake::AnswersAreFewOfAll,
    Mistake::AnswersOfUnknown,
    Mistake::LocksAreAscii,
    Mistake::LocksAreShort,
    Mistake::TextsAreShort,
    Mistake::KeysAreFew,
    Mistake::TimesInMillis,
    Mistake::TimesAreUnsigned,
    Mistake::JournalIsShort,
    Mistake::InboxIsShort,
    Mistake::ListIsShort,
    Mistake::ListNamesAreAscii,
    Mistake::TakesAreFew,
    Mistake::PostRaces,
    Mistake::LocksRaces,
    Mistake::RatesAreOne,
    Mistake::RatesInWholeSeconds,
    Mistake::ClaimInWholeSeconds,
];

/// What mistakes need to remember.
#[derive(Debug, Default)]
struct Notes {
    granted: Vec<(RunId, StepKey, Vec<Want>)>,
    claimed: Vec<RunId>,
    posted: Vec<(RunId, u64, Message)>,
    beats: BTreeMap<Owner, u64>,
    answered: Vec<(RunId, u64)>,
    purged: Vec<(RunId, Owner)>,
    workflows: BTreeMap<String, (Workflow, Vec<Workflow>)>,
    seen: BTreeMap<RunId, StoredRun>,
}

#[derive(Clone, Debug)]
pub(crate) struct Broken {
    inner: Memory,
    mistake: Mistake,
    notes: Arc<Mutex<Notes>>,
    /// Threads that are between looking and doing.
    between: Arc<AtomicUsize>,
}

/// Keeps each under its name.
pub(crate) struct WithMistake {
    mistake: Mistake,
    opened: Mutex<BTreeMap<String, Broken>>,
}

impl WithMistake {
    pub(crate) fn new(mistake: Mistake) -> Self {
        Self { mistake, opened: Mutex::default() }
    }
}

impl StorageFactory for WithMistake {
    fn open(&self, name: &str) -> Arc<dyn Storage> {
        let mut opened = self.opened.lock().unwrap();
        let fresh = Broken {
            inner: Memory::new(),
            mistake: self.mistake,
            notes: Arc::default(),
            between: Arc::default(),
        };
        if let Some(before) = opened.get(name) {
            let is_open = Arc::strong_count(&before.notes) > 1;
            let broken = match self.mistake {
                Mistake::KeepsNothing if !is_open => fresh,
                Mistake::KeepsOnlyRuns if !is_open => copy(before, fresh),
                Mistake::HandlesAreApart => fresh,
                Mistake::ReopenAddsOne => {
                    before.add("added");
                    before.clone()
                }
                Mistake::HandlesAreStale => Broken { notes: Arc::default(), ..before.clone() },
                _ => before.clone(),
            };
            opened.insert(name.to_string(), broken.clone());
            return Arc::new(broken);
        }
        opened.insert(name.to_string(), fresh.clone());
        Arc::new(fresh)
    }

    fn survives_reopen(&self) -> bool {
        true
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// Runs and what is in their inboxes, but no owners, locks, answers and numbers.
fn copy(from: &Broken, to: Broken) -> Broken {
    for (id, run) in from.runs() {
        let at = from.summary(&id).created_at;
        let StoredRun { workflow, linked, user, metadata, journal, status, holding, .. } = run;
        let new = NewRun {
            id: id.clone(),
            holding,
            workflow,
            linked,
            user,
            metadata,
            at,
            journal,
            status,
        };
        block_on(to.inner.create(new)).unwrap();
        for (_, message) in block_on(from.inner.inbox(&id)).unwrap() {
            block_on(to.inner.post(&id, message)).unwrap();
        }
    }
    to
}

/// Changes every text of something that is written as JSON.
fn rewritten<T: serde::Serialize + serde::de::DeserializeOwned>(
    value: &T,
    change: &dyn Fn(&mut Json),
) -> T {
    fn walk(value: &mut Json, change: &dyn Fn(&mut Json)) {
        change(value);
        match value {
            Json::Array(items) => items.iter_mut().for_each(|item| walk(item, change)),
            Json::Object(fields) => {
                for (key, mut field) in std::mem::take(fields) {
                    let mut changed = Json::String(key.clone());
                    change(&mut changed);
                    walk(&mut field, change);
                    fields.insert(changed.as_str().map_or(key, String::from), field);
                }
            }
            _ => {}
        }
    }
    let mut json = serde_json::to_value(value).unwrap();
    walk(&mut json, change);
    serde_json::from_value(json).unwrap_or_else(|_| panic!("it cannot be read any more"))
}

fn ascii(text: &str) -> String {
    text.chars().map(|letter| if letter.is_ascii() { letter } else { '?' }).collect()
}

impl Broken {
    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }

    fn add(&self, name: &str) {
        let new = NewRun {
            id: RunId::new(name).unwrap(),
            holding: Holding::Finished,
            workflow: Workflow::builder("w").step(Step::task("a", "t")).build().unwrap(),
            linked: Vec::new(),
            user: None,
            metadata: BTreeMap::new(),
            at: Timestamp::EPOCH,
            journal: Vec::new(),
            status: RunStatus::Succeeded,
        };
        block_on(self.inner.create(new)).unwrap();
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap()
    }

    fn id(&self, run: &RunId) -> RunId {
        let text = run.as_str();
        let text = match self.mistake {
            Mistake::IdsFoldCase => text.to_lowercase(),
            Mistake::IdsAreCut => text.chars().take(90).collect(),
            Mistake::IdsAreAscii => ascii(text),
            _ => return run.clone(),
        };
        RunId::new(text.trim()).unwrap()
    }

    fn find(&self, run: &RunId) -> Option<StoredRun> {
        block_on(self.inner.load(run)).unwrap()
    }

    fn runs(&self) -> Vec<(RunId, StoredRun)> {
        let all = block_on(self.inner.list(RunQuery::default())).unwrap();
        all.into_iter().map(|run| (run.id.clone(), self.find(&run.id).unwrap())).collect()
    }

    fn summary(&self, run: &RunId) -> Summary {
        let all = block_on(self.inner.list(RunQuery::default())).unwrap();
        all.into_iter().find(|summary| summary.id == *run).unwrap()
    }

    /// The oldest run that somebody holds, who, and how long its journal is.
    fn oldest_held(&self) -> Option<(RunId, Owner, u64)> {
        let held = |(id, run): (RunId, StoredRun)| match run.holding {
            Holding::Held(owner) => Some((id, owner, run.length())),
            _ => None,
        };
        self.runs().into_iter().rev().find_map(held)
    }

    /// Takes locks that nobody has asked for.
    fn give(&self, step: StepKey, wants: Vec<Want>, now: Timestamp) {
        if let Some((run, owner, expected)) = self.oldest_held() {
            let asked = Acquire { owner, expected, step, wants, now };
            // What is not free is taken already.
            drop(block_on(self.inner.acquire(&run, asked)));
        }
    }

    fn inbox_of(&self, run: &RunId) -> Vec<(u64, Message)> {
        block_on(self.inner.inbox(run)).unwrap()
    }

    /// Writes whoever holds the run, whatever it has become; by itself it changes nothing.
    fn force(&self, run: &RunId, change: impl FnOnce(&mut Commit)) {
        let Some(stored) = self.find(run) else { return };
        let owner = match stored.holding {
            Holding::Held(owner) => owner,
            _ => Owner(0),
        };
        let mut commit = Commit {
            owner,
            expected: stored.length(),
            events: Vec::new(),
            status: stored.status,
            answers: Vec::new(),
            holding: stored.holding,
            released: Vec::new(),
            recovered: false,
            writes: None,
            snapshot: None,
        };
        change(&mut commit);
        block_on(self.inner.commit(run, commit)).unwrap();
    }

    fn answer_all(&self, run: &RunId) {
        let numbers = self.inbox_of(run).into_iter().map(|(number, _)| (number, Ok(())));
        let answers: Vec<(u64, Answer)> = numbers.collect();
        self.force(run, |commit| commit.answers = answers);
    }

    fn steps_of(&self, run: &RunId) -> Vec<StepKey> {
        let notes = self.notes();
        notes.granted.iter().filter(|(of, ..)| of == run).map(|(_, step, _)| *step).collect()
    }

    /// Whether another thread is between looking and doing at the same time.
    fn meets(&self) -> bool {
        let mut met = self.between.fetch_add(1, Ordering::SeqCst) > 0;
        // Long enough for others that were started with this one, even on a busy machine.
        for _ in 0..5_000 {
            if met {
                break;
            }
            met = self.between.load(Ordering::SeqCst) > 1;
            std::thread::yield_now();
        }
        self.between.fetch_sub(1, Ordering::SeqCst);
        met
    }

    fn time(&self, at: Timestamp) -> Timestamp {
        match self.mistake {
            Mistake::TimesInMillis => Timestamp::from_micros(at.as_micros() / 1_000 * 1_000),
            Mistake::TimesAreUnsigned => at.max(Timestamp::EPOCH),
            _ => at,
        }
    }

    fn events(&self, events: Vec<Recorded>) -> Vec<Recorded> {
        let timed = |event: Recorded| Recorded { at: self.time(event.at), ..self.twist(event) };
        events.into_iter().map(timed).collect()
    }

    fn twist<T: serde::Serialize + serde::de::DeserializeOwned>(&self, value: T) -> T {
        fn depth(value: &mut Json, left: usize) {
            match value {
                Json::Array(_) | Json::Object(_) if left == 0 => *value = Json::Null,
                Json::Array(items) => items.iter_mut().for_each(|item| depth(item, left - 1)),
                Json::Object(fields) => {
                    fields.values_mut().for_each(|field| depth(field, left - 1));
                }
                _ => {}
            }
        }
        let text = |change: &dyn Fn(&str) -> String| {
            rewritten(&value, &|json| {
                if let Json::String(text) = json {
                    *text = change(text);
                }
            })
        };
        match self.mistake {
            Mistake::NumbersAreFloats => rewritten(&value, &|json| {
                let large = |number: f64| number.abs() > 9.0e15;
                if let Some(number) = json.as_f64().filter(|number| large(*number)) {
                    *json = number.into();
                }
            }),
            Mistake::NumbersAreWhole => rewritten(&value, &|json| {
                if let Some(number) = json.as_f64().filter(|_| json.is_f64()) {
                    *json = (number as i64).into();
                }
            }),
            Mistake::ZeroHasNoSign => rewritten(&value, &|json| {
                if json.is_f64() && json.as_f64() == Some(0.0) {
                    *json = 0.0.into();
                }
            }),
            Mistake::EmptyIsNull => rewritten(&value, &|json| {
                if json.as_str() == Some("") || json.as_array().is_some_and(Vec::is_empty) {
                    *json = Json::Null;
                }
            }),
            Mistake::KeysAreFew => rewritten(&value, &|json| {
                if let Json::Object(fields) = json
                    && let Some(last) = fields.keys().nth(5_000).cloned()
                {
                    fields.remove(&last);
                }
            }),
            Mistake::BooleansAreNumbers => rewritten(&value, &|json| {
                if *json == Json::Bool(true) {
                    *json = 1.into();
                }
            }),
            Mistake::NestingIsCut => {
                let mut json = serde_json::to_value(&value).unwrap();
                depth(&mut json, 60);
                serde_json::from_value(json).unwrap()
            }
            Mistake::TextsEndAtNull => text(&|text| text.split('\u{0}').next().unwrap().into()),
            Mistake::TextsAreAscii => text(&ascii),
            Mistake::TextsAreShort => text(&|text| text.chars().take(100_000).collect()),
            Mistake::TextsAreTrimmed => text(&|text| text.trim().into()),
            Mistake::TextsAreEscaped => {
                text(&|text| text.replace('\'', "''").replace("\\\\", "\\"))
            }
            Mistake::TextsAreRead => rewritten(&value, &|json| {
                if let Some(read) = json.as_str().and_then(|text| text.parse::<f64>().ok()) {
                    *json = read.into();
                }
            }),
            _ => value,
        }
    }
}
