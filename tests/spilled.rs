//! Large values of runs that go on for very long: what nothing names any more is removed, and nothing
//! else, whatever happens meanwhile.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::executor::block_on;
use futures::future::{join, pending, select};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use stepwell::engine::{EngineBuilder, EngineLimits};
use stepwell::journal::{RunStatus, Vote};
use stepwell::runtime::Runtime as _;
use stepwell::storage::{BlobStore, Holding, Memory, MemoryBlobs, Reply, Storage};
use stepwell::testing::{CrashTest, Fault, Faulty, VirtualRuntime};
use stepwell::workflow::{Approval, Limits, Variable, VariableType};
use stepwell::{
    Engine, Error, ErrorKind, ExecutionContext, Outcome, Result, RunId, StartOptions, Step,
    StepError, Value, Wait, Workflow, executor_fn,
};

const EVERY: u64 = 20;
const HISTORY: u64 = 60;
const TURNS: u32 = 100;

/// What becomes of a deletion.
type Fate = dyn Fn(u32) -> Deletion + Send + Sync;

#[derive(Clone, Copy, PartialEq)]
enum Deletion {
    AtOnce,
    Fails,
    /// Some are gone, and the answer is that it failed.
    FailsHalfWay,
    Takes(Duration),
    Hangs,
}

/// Blobs that are deleted only if the storage knows nothing of them any more.
#[derive(Clone)]
struct Checked {
    time: VirtualRuntime,
    storage: Memory,
    blobs: MemoryBlobs,
    there: Arc<Mutex<BTreeSet<String>>>,
    deletions: Arc<Mutex<u32>>,
    fate: Arc<Fate>,
}

impl std::fmt::Debug for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checked")
    }
}

impl Checked {
    fn new(
        time: &VirtualRuntime,
        storage: &Memory,
        fate: impl Fn(u32) -> Deletion + Send + Sync + 'static,
    ) -> Self {
        Self {
            time: time.clone(),
            storage: storage.clone(),
            blobs: MemoryBlobs::new(),
            there: Arc::default(),
            deletions: Arc::default(),
            fate: Arc::new(fate),
        }
    }

    fn there(&self) -> BTreeSet<String> {
        self.there.lock().unwrap().clone()
    }

    /// All that is stored of a run, but for what is only known of blobs.
    fn stored(&self, run: &RunId) -> String {
        let stored = block_on(self.storage.load(run)).unwrap().unwrap();
        let mut all = serde_json::to_string(&stored.journal).unwrap();
        for (_, event) in block_on(self.storage.events(run, 0, usize::MAX)).unwrap() {
            all += &serde_json::to_string(&event).unwrap();
        }
        if let Some(snapshot) = stored.snapshot {
            let mut state: Value = serde_json::from_str(&snapshot.state).unwrap();
            let mut json = state.into_json();
            json["state"]["kept"]["blobs"].take();
            state = json.into();
            all += &state.to_string();
        }
        all
    }

    fn assert_unneeded(&self, run: &RunId, names: &[String]) {
        let stored = self.stored(run);
        for name in names {
            assert!(!stored.contains(&format!("\"{name}\"")), "{name} is still needed: {stored}");
        }
    }

    /// The names of those in a text.
    fn named(&self, stored: &str) -> BTreeSet<String> {
        let parts = stored.split('"').filter(|part| part.contains('@') && part.contains('-'));
        parts.map(str::to_owned).collect()
    }
}

impl BlobStore for Checked {
    fn put(&self, run: &RunId, name: &str, bytes: Vec<u8>) -> Reply<Result<()>> {
        assert!(self.there.lock().unwrap().insert(name.to_owned()), "{name} is put once");
        self.blobs.put(run, name, bytes)
    }

    fn get(&self, run: &RunId, name: &str) -> Reply<Result<Option<Vec<u8>>>> {
        self.blobs.get(run, name)
    }

    fn delete(&self, run: &RunId, mut names: Vec<String>) -> Reply<Result<()>> {
        let count = {
            let mut deletions = self.deletions.lock().unwrap();
            *deletions += 1;
            *deletions
        };
        self.assert_unneeded(run, &names);
        let fate = (self.fate)(count);
        let failed = || Err(Error::new(ErrorKind::Storage, "no such luck"));
        match fate {
            Deletion::Fails => return Reply::ready(failed()),
            Deletion::Hangs => return Reply::later(std::future::pending()),
            Deletion::FailsHalfWay => names.truncate(names.len() / 2),
            Deletion::AtOnce | Deletion::Takes(_) => {}
        }
        let (all, run) = (self.clone(), run.clone());
        let delete = move || {
            all.assert_unneeded(&run, &names);
            all.there.lock().unwrap().retain(|name| !names.contains(name));
            block_on(all.blobs.delete(&run, names))
        };
        match fate {
            Deletion::Takes(length) => {
                let time = self.time.clone();
                Reply::later(async move {
                    time.sleep(length).await;
                    delete()
                })
            }
            Deletion::FailsHalfWay => {
                delete().unwrap();
                Reply::ready(failed())
            }
            _ => Reply::ready(delete()),
        }
    }

    fn delete_run(&self, run: &RunId) -> Reply<Result<()>> {
        self.blobs.delete_run(run)
    }
}

fn large(text: &str) -> Value {
    json!({"text": text, "more": "x".repeat(300)}).into()
}

/// A large value that holds a reference to what came before it.
async fn bundle(ctx: ExecutionContext) -> std::result::Result<Value, StepError> {
    let made = ctx.output_of("make").unwrap();
    assert!(made.get("$blob").is_some());
    Ok(json!({"inside": made, "more": "y".repeat(300)}).into())
}

/// What it was given is there, and so is what that refers to.
async fn open(ctx: ExecutionContext) -> std::result::Result<Value, StepError> {
    let bundle = ctx.inputs()["bundle"].clone();
    let inside = ctx.load(&bundle["inside"]).await?;
    let old = ctx.load(&ctx.variables()["old"]).await?;
    let inside_old = match old.get("inside") {
        Some(reference) => ctx.load(reference).await?,
        None => Value::NULL,
    };
    ctx.sleep(Duration::from_secs(1)).await;
    Ok(json!([inside["text"], inside_old["text"]]).into())
}

fn engine(builder: EngineBuilder, blobs: &Checked) -> Engine {
    let limits = EngineLimits {
        spill_over: 200,
        snapshot_every: EVERY,
        history_kept: HISTORY,
        ..EngineLimits::default()
    };
    builder
        .limits(limits)
        .blobs(blobs.clone())
        .executor("make", executor_fn(|ctx| async move { Ok(large(&ctx.step())) }))
        .executor("bundle", executor_fn(bundle))
        .executor("open", executor_fn(open))
        .executor("nothing", executor_fn(|_| async { Ok(()) }))
        .build()
        .unwrap()
}

/// Makes large values, and remembers them when this is so.
fn remembering(when: &str) -> Vec<Step> {
    vec![
        Step::task("make", "make"),
        Step::task("bundle", "bundle").after("make"),
        Step::task("keep", "nothing").when(when).set("old", "steps.bundle.output").after("bundle"),
    ]
}

/// Each turn makes large values; now and then one is remembered for many turns, and the first for ever.
fn polling(turns: u32) -> Workflow {
    let mut body = remembering("turn in [0, 40, 80]");
    body.push(Step::task("open", "open").after("keep").input("bundle", "steps.bundle.output"));
    body.push(Step::wait("pause", Wait::For(Duration::from_secs(60))).after("open"));
    let limits = Limits { max_duration: Duration::from_secs(1 << 40), ..Limits::default() };
    Workflow::builder("polling")
        .variable("old", Variable::of(VariableType::Any))
        .steps([
            Step::task("first", "make"),
            Step::while_loop("loop", format!("turn < {turns}"), body)
                .max_turns(u32::MAX)
                .after("first"),
            Step::task("end", "open")
                .after("loop")
                .input("bundle", "vars.old")
                .input("first", "steps.first.output"),
        ])
        .limits(limits)
        .build()
        .unwrap()
}

async fn program(builder: EngineBuilder, blobs: &Checked) -> Value {
    let engine = engine(builder, blobs);
    let run = engine.start_with(&polling(TURNS), (), StartOptions::id("r")).await.unwrap();
    match run.outcome().await.unwrap() {
        Outcome::Succeeded(_) => run.snapshot().step_output("end").unwrap(),
        other => panic!("{other}"),
    }
}

/// Everything that is named is there. How many more there are than are named.
fn left(blobs: &Checked) -> usize {
    let named = blobs.named(&blobs.stored(&RunId::new("r").unwrap()));
    let there = blobs.there();
    assert!(named.is_subset(&there), "{:?}", named.difference(&there));
    there.len() - named.len()
}

const MADE: usize = 2 * TURNS as usize + 1;

#[test]
fn what_nothing_names_any_more_is_removed_and_nothing_else() {
    let test = CrashTest::new(1).crashes(0);
    let storage = Memory::new();
    let blobs = Checked::new(test.time(), &storage, |_| Deletion::AtOnce);
    let last = test.time().block_on(program(
        Engine::builder().runtime(test.time().clone()).storage(storage.clone()),
        &blobs,
    ));
    let step = |turn: u32, step: &str| format!("loop[{turn}]/{step}");
    assert_eq!(last.unwrap(), json!([step(80, "make"), step(80, "make")]));
    // Those of what is kept of the journal, and of what came since the last snapshot.
    assert!(blobs.there().len() < 40, "{} of {MADE}", blobs.there().len());
    assert!(left(&blobs) < 10);
    assert!(blobs.there().iter().any(|name| name.starts_with("first")));
}

#[test]
fn nothing_is_removed_too_early_whoever_is_killed_whenever() {
    let (mut crashed, mut most) = (0, 0);
    for seed in 0..60 {
        let storage = Memory::new();
        let test = CrashTest::on(storage.clone(), seed).crashes(12);
        let blobs = Checked::new(test.time(), &storage, move |count| match (count, seed % 3) {
            (_, 0) => Deletion::AtOnce,
            (count, 1) if count % 3 == 0 => Deletion::Fails,
            (count, 1) if count % 3 == 1 => Deletion::FailsHalfWay,
            _ => Deletion::Takes(Duration::from_secs(u64::from(count % 7) * 30)),
        });
        let last = test.run(|builder| program(builder, &blobs)).unwrap();
        assert_eq!(last, json!(["loop[80]/make", "loop[80]/make"]), "seed {seed}");
        crashed += test.crashed();
        most = most.max(left(&blobs).saturating_sub(3 * test.crashed() as usize));
    }
    assert!(crashed > 300, "{crashed} crashes");
    assert!(most < 40, "{most} that nothing names");
}

#[test]
fn nothing_is_removed_whose_snapshot_is_not_stored() {
    for (seed, fault) in (0..10).flat_map(|seed| [(seed, Fault::Before), (seed, Fault::After)]) {
        let mut chance = StdRng::seed_from_u64(seed);
        let (time, storage) = (VirtualRuntime::new(1), Memory::new());
        let blobs = Checked::new(&time, &storage, |_| Deletion::AtOnce);
        let faulty = Faulty::new(storage.clone(), move |call| {
            (call.method == "commit" && chance.random_bool(0.2)).then_some(fault)
        });
        let engine = engine(Engine::builder().runtime(time.clone()).storage(faulty), &blobs);
        let outcome = time.block_on(async {
            let run = loop {
                let run = engine.start_with(&polling(TURNS), (), StartOptions::id("r")).await;
                if let Ok(run) = run {
                    break run;
                }
            };
            loop {
                if let Ok(outcome) = run.outcome().await {
                    break outcome;
                }
            }
        });
        assert!(matches!(outcome.unwrap(), Outcome::Succeeded(_)));
        assert!(blobs.there().len() < MADE / 2, "{fault:?}: {}", blobs.there().len());
        left(&blobs);
    }
}

/// A minute after the other, for so many turns, by an engine that is served.
fn served(turns: u32, deletion: Deletion) -> (Checked, u32) {
    let (time, storage) = (VirtualRuntime::new(1), Memory::new());
    let blobs = Checked::new(&time, &storage, move |_| deletion);
    let builder = Engine::builder().runtime(time.clone()).storage(storage.clone());
    let parked = time.block_on(async {
        let engine = engine(builder, &blobs);
        drop(engine.start_with(&polling(turns), (), StartOptions::id("r")).await.unwrap());
        let id = RunId::new("r").unwrap();
        let mut parked = 0;
        let looks = async {
            loop {
                time.sleep(Duration::from_secs(30)).await;
                let run = storage.load(&id).await.unwrap().unwrap();
                parked += u32::from(matches!(run.holding, Holding::Parked(_)));
                if run.status.is_end() {
                    return assert_eq!(run.status, RunStatus::Succeeded);
                }
            }
        };
        select(pin!(looks), pin!(engine.serve(pending()))).await;
        parked
    });
    (blobs, parked.unwrap())
}

#[test]
fn a_run_that_only_waits_is_parked_when_its_removal_is_over() {
    let (blobs, parked) = served(100, Deletion::Takes(Duration::from_secs(50)));
    assert!(*blobs.deletions.lock().unwrap() > 5);
    assert!(parked > 50, "{parked}");
    assert!(blobs.there().len() < 60, "{}", blobs.there().len());
}

#[test]
fn a_removal_that_never_ends_keeps_no_run_from_its_end() {
    let (blobs, parked) = served(100, Deletion::Hangs);
    assert!(*blobs.deletions.lock().unwrap() > 5 && parked > 50, "{parked}");
    assert_eq!(blobs.there().len(), 201);
}

#[test]
fn what_the_store_refuses_to_remove_is_tried_again_as_long_as_the_run_goes_on() {
    let (blobs, parked) = served(100, Deletion::Fails);
    assert!(*blobs.deletions.lock().unwrap() > 5 && parked > 50);
    assert_eq!(blobs.there().len(), 201);
}

/// What people have said to a run stays in its journal, and so does what that refers to; what the host
/// keeps in the store itself is none of the engine's business.
#[test]
fn what_people_have_said_keeps_what_it_names() {
    let (time, storage) = (VirtualRuntime::new(1), Memory::new());
    let blobs = Checked::new(&time, &storage, |_| Deletion::AtOnce);
    let builder = Engine::builder().runtime(time.clone()).storage(storage.clone());
    let ask = [
        Step::task("make", "make"),
        Step::task("unsaid", "make"),
        Step::wait("vote", Wait::approval(Approval::by(["ann"]))).after("make").after("unsaid"),
    ];
    let workflow = Workflow::builder("w")
        .steps([
            Step::while_loop("asks", "turn < 3", ask).max_turns(3),
            Step::while_loop("polls", "turn < 100", [Step::task("poll", "nothing")])
                .max_turns(100)
                .after("asks"),
        ])
        .build()
        .unwrap();
    time.block_on(async {
        let engine = engine(builder, &blobs);
        let run = engine.start_with(&workflow, (), StartOptions::id("r")).await.unwrap();
        let hosts = json!({"$blob": {"name": "mine"}});
        blobs.put(run.id(), "mine", b"1".to_vec()).await.unwrap();
        let says = async {
            for turn in 0..3 {
                while run.approvals().is_empty() {
                    time.sleep(Duration::from_secs(1)).await;
                }
                let made = run.snapshot().step_output(&format!("asks[{turn}]/make")).unwrap();
                let vote = Vote::approve("ann").payload(json!([made, hosts]));
                run.approve(&run.approvals()[0].id, vote).await.unwrap();
            }
        };
        join(run.outcome(), says).await.0.unwrap();
        assert!(run.forgotten() > 200);
    })
    .unwrap();
    let there: Vec<String> = blobs.there().into_iter().collect();
    let paths: Vec<&str> = there.iter().filter_map(|name| name.split('@').next()).collect();
    assert_eq!(paths, ["asks[0]/make", "asks[1]/make", "asks[2]/make", "mine"]);
}

/// A step that was given a reference reads what it refers to whenever it likes, and hands it on, whatever
/// has become of where it came from.
#[test]
fn what_a_step_was_given_is_there_as_long_as_it_runs_and_if_it_hands_it_on_afterwards() {
    let (time, storage) = (VirtualRuntime::new(1), Memory::new());
    let blobs = Checked::new(&time, &storage, |_| Deletion::AtOnce);
    let builder = Engine::builder().runtime(time.clone()).storage(storage.clone());
    let keeps = executor_fn(|ctx| async move {
        let bundle = ctx.inputs()["bundle"].clone();
        ctx.sleep(Duration::from_secs(3_600)).await;
        ctx.load(&bundle["inside"]).await?;
        Ok(bundle["inside"].clone())
    });
    let turn = [
        Step::task("make", "make"),
        Step::task("bundle", "bundle").set("old", "output").after("make"),
        Step::wait("pause", Wait::For(Duration::from_secs(20))).after("bundle"),
    ];
    let polls = |id: &str, turn: Vec<Step>| Step::while_loop(id, "turn < 300", turn).max_turns(300);
    let workflow = Workflow::builder("w")
        .variable("old", Variable::of(VariableType::Any))
        .variable("kept", Variable::of(VariableType::Any))
        .steps([
            // What the last turn comes to is kept as what the loop comes to.
            Step::while_loop("begins", "turn < 2", remembering("turn == 0")).max_turns(2),
            Step::task("keeps", "keeps")
                .input("bundle", "vars.old")
                .set("kept", "output")
                .after("begins"),
            polls("polls", turn.into()).after("begins"),
            Step::task("end", "reads").input("kept", "vars.kept").after("keeps").after("polls"),
        ])
        .limits(Limits { max_duration: Duration::from_secs(1 << 40), ..Limits::default() })
        .build()
        .unwrap();
    let reads = executor_fn(|ctx| async move { Ok(ctx.inputs()["kept"]["text"].clone()) });
    let builder = builder.executor("keeps", keeps).executor("reads", reads);
    let engine = engine(builder, &blobs);
    let run = time.block_on(async {
        let run = engine.start_with(&workflow, (), StartOptions::id("r")).await.unwrap();
        let outcome = run.outcome().await.unwrap();
        assert!(matches!(outcome, Outcome::Succeeded(_)), "{outcome}");
        run
    });
    assert_eq!(run.unwrap().snapshot().step_output("end").unwrap(), "begins[0]/make");
    assert!(blobs.there().len() < 60, "{}", blobs.there().len());
    left(&blobs);
}

/// Each holds the one before it, so that all are needed; what refers to the last one is as short as what
/// refers to the first.
#[test]
fn a_chain_of_values_is_kept_as_a_whole_and_goes_as_a_whole() {
    let (time, storage) = (VirtualRuntime::new(1), Memory::new());
    let blobs = Checked::new(&time, &storage, |_| Deletion::AtOnce);
    let builder = Engine::builder().runtime(time.clone()).storage(storage.clone());
    let links = executor_fn(|ctx| async move {
        Ok(json!({"before": ctx.variables()["old"], "more": "z".repeat(300)}))
    });
    let walks = executor_fn(|ctx| async move {
        let (mut length, mut at) = (0, ctx.variables()["old"].clone());
        while !at.is_null() {
            at = ctx.load(&at).await?["before"].clone();
            length += 1;
        }
        Ok(length)
    });
    let link = Step::task("link", "links").set("old", "output");
    let round = [
        Step::task("begin", "nothing").set("old", "vars.none"),
        Step::while_loop("links", "turn < 100", [link]).max_turns(100).after("begin"),
        Step::task("walk", "walks").after("links"),
    ];
    let workflow = Workflow::builder("w")
        .variable("old", Variable::of(VariableType::Any))
        .variable("none", Variable::of(VariableType::Any))
        .step(Step::while_loop("rounds", "turn < 3", round).max_turns(3))
        .build()
        .unwrap();
    let builder = builder.executor("links", links).executor("walks", walks);
    let engine = engine(builder, &blobs);
    time.block_on(async {
        let run = engine.start_with(&workflow, (), StartOptions::id("r")).await.unwrap();
        let outcome = run.outcome().await.unwrap();
        assert!(matches!(outcome, Outcome::Succeeded(_)), "{outcome}");
        assert!(outcome.to_string().contains("100"), "{outcome}");
    })
    .unwrap();
    assert!(blobs.stored(&RunId::new("r").unwrap()).len() < 100_000);
    // The last round's, and none of the others.
    let there = blobs.there();
    assert!(there.iter().all(|name| name.starts_with("rounds[2]/links[")), "{there:?}");
    assert_eq!(there.len(), 100);
}
