//! Three processes that share a PostgreSQL database, and one that dies.
//!
//! `cargo run --features postgres --example many_engines` starts a server of its own, where PostgreSQL is
//! installed, and three processes that work on the same thirty runs. One is killed half-way, with no
//! warning; the others finish what it had. Then it checks what must hold. `-- URL` does so on a database
//! that there is, in a schema that it removes in the end.

mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use futures::channel::oneshot;
use futures::executor::block_on;
use futures::future::{Either, select};
use futures_timer::Delay;
use server::{MISSING, Result, Server};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stepwell::engine::EngineLimits;
use stepwell::executor::ExecutionContext;
use stepwell::storage::{Postgres, PostgresOptions, RunQuery, Storage};
use stepwell::{
    Engine, Event, RunId, RunStatus, StartOptions, Step, StepError, Workflow, executor_fn,
};

const NAMES: [&str; 3] = ["ann", "bob", "cid"];
const RUNS: usize = 30;
const STEPS: [&str; 5] = ["pack", "weigh", "label", "load", "bill"];
/// Of each of the three.
const SHARE: usize = RUNS / NAMES.len();

/// How long `ann` may say nothing before the others take her runs over: a third of what it is unless
/// you say so, as somebody watches. A machine that is busier than that would lose its runs, too.
const LEASE: Duration = Duration::from_secs(10);

/// For all runs to end.
const DEADLINE: Duration = Duration::from_secs(120);

fn workflow() -> stepwell::Result<Workflow> {
    let [pack, weigh, label, load, bill] = STEPS.map(|step| Step::task(step, "work"));
    Workflow::builder("parcel")
        .step(pack)
        .step(weigh.after("pack"))
        .step(label.after("pack"))
        .step(load.after("weigh").after("label"))
        .step(bill.after("load"))
        .build()
}

fn run_id(number: usize) -> Result<RunId> {
    Ok(RunId::new(format!("parcel-{number}"))?)
}

/// What the processes share, and nothing else.
struct Place {
    url: String,
    schema: String,
    /// What is outside: a file that knows what the steps have really done.
    witness: PathBuf,
}

impl Place {
    async fn open(&self) -> stepwell::Result<Postgres> {
        PostgresOptions::new().schema(&self.schema).connect(&self.url).await
    }
}

/// A step: something is done outside, and takes as long as it takes.
async fn work(
    name: String,
    witness: PathBuf,
    ctx: ExecutionContext,
) -> std::result::Result<(), StepError> {
    note(&name, &witness, &ctx, "begins")?;
    ctx.sleep(Duration::from_millis(200)).await;
    note(&name, &witness, &ctx, "ends")
}

fn note(
    name: &str,
    witness: &Path,
    ctx: &ExecutionContext,
    what: &str,
) -> std::result::Result<(), StepError> {
    let (run, step, key) = (ctx.execution_id(), ctx.step(), ctx.idempotency_key());
    let line = format!("{name} {what} {run} {step} {key}\n");
    // In one call, so that a line is there as a whole or not at all.
    OpenOptions::new().create(true).append(true).open(witness)?.write_all(line.as_bytes())?;
    print!("{line}");
    Ok(())
}

/// One of the three: this is all that a program needs to do to take part.
fn take_part(name: &str, place: &Place) -> Result<()> {
    let storage = block_on(place.open())?;
    let (witness, worker) = (place.witness.clone(), name.to_owned());
    let engine = Engine::builder()
        .storage(storage)
        .limits(EngineLimits { lease: LEASE, ..EngineLimits::default() })
        .executor("work", executor_fn(move |ctx| work(worker.clone(), witness.clone(), ctx)))
        .build()?;
    let first = NAMES.iter().position(|other| *other == name).unwrap_or(0) * SHARE;
    block_on(async {
        for number in first..first + SHARE {
            let options = StartOptions::id(run_id(number)?.as_str());
            engine.start_with(&workflow()?, (), options).await?;
        }
        println!("{name} has started all");
        engine.serve(told_to_stop()).await?;
        Ok(())
    })
}

/// When nobody is at the other end of the input any more.
async fn told_to_stop() {
    let (stop, stopped) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(stop);
    });
    let _ = stopped.await;
}

/// Starts one of the three.
fn spawn(name: &str, place: &Place) -> Result<Child> {
    let mut child = Command::new(std::env::current_exe()?);
    child.args([name, &place.url, &place.schema]).arg(&place.witness);
    let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    println!("{name} is process {}", child.id());
    Ok(child)
}

/// Returns when this process has started its runs and done so many steps, or has ended.
fn watch(said: &mut impl BufRead, steps: usize) -> Result<()> {
    let (mut started, mut ends) = (false, 0);
    for line in said.lines() {
        let line = line?;
        started |= line.contains("has started all");
        ends += usize::from(line.contains(" ends "));
        if started && ends >= steps {
            break;
        }
    }
    Ok(())
}

/// The steps that have a recorded result, of all runs: run and name.
async fn recorded(storage: &Postgres) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for number in 0..RUNS {
        let Some(run) = storage.load(&run_id(number)?).await? else { continue };
        for recorded in &run.journal {
            if let Event::StepSucceeded { step, .. } = &recorded.event {
                let name = STEPS.get(step.step as usize).ok_or("a step that is not there")?;
                all.push((run_id(number)?.to_string(), (*name).to_owned()));
            }
        }
    }
    Ok(all)
}

/// Waits until all runs have succeeded.
async fn all_have_ended(storage: &Postgres) -> Result<()> {
    let done = async {
        loop {
            let runs = storage.list(RunQuery { limit: RUNS + 1, ..RunQuery::default() }).await?;
            if runs.iter().filter(|run| run.status == RunStatus::Succeeded).count() == RUNS {
                return Ok(());
            }
            Delay::new(Duration::from_millis(50)).await;
        }
    };
    match select(pin!(done), Delay::new(DEADLINE)).await {
        Either::Left((done, _)) => done,
        Either::Right(_) => Err(format!("some runs have not succeeded after {DEADLINE:?}").into()),
    }
}

/// Three processes, two of which see the end.
fn show(place: &Place) -> Result<()> {
    let storage = block_on(place.open())?;
    block_on(storage.migrate())?;
    let [ann, bob, cid] = NAMES.map(|name| spawn(name, place));
    let (mut ann, mut others) = (ann?, [bob?, cid?]);
    for other in &mut others {
        let mut said = other.stdout.take().ok_or("it says nothing")?;
        // What they have done stands in the witness.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    }
    let mut said = BufReader::new(ann.stdout.take().ok_or("she says nothing")?);
    watch(&mut said, SHARE * 2)?;
    ann.kill()?;
    assert!(was_killed(ann.wait()?), "she died, and not before her time");
    let before = block_on(recorded(&storage))?;
    println!(
        "killed ann in the middle; {} of {} results are recorded",
        before.len(),
        RUNS * STEPS.len()
    );
    block_on(all_have_ended(&storage))?;
    for mut other in others {
        drop(other.stdin.take());
        assert!(other.wait()?.success(), "the others end well");
    }
    check(place, &before, &block_on(recorded(&storage))?)
}

/// By a signal, where there are signals.
#[cfg(unix)]
fn was_killed(status: ExitStatus) -> bool {
    const SIGKILL: i32 = 9;
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(SIGKILL)
}

#[cfg(not(unix))]
fn was_killed(status: ExitStatus) -> bool {
    !status.success()
}

type Steps = [(String, String)];

/// What must hold in the end, when some had results at the time of the kill.
fn check(place: &Place, before: &Steps, after: &Steps) -> Result<()> {
    let all = RUNS * STEPS.len();
    let steps: BTreeSet<&(String, String)> = after.iter().collect();
    assert_eq!((after.len(), steps.len()), (all, all), "one result for each step");

    let noted = fs::read_to_string(&place.witness)?;
    let mut begun: BTreeMap<(&str, &str), Vec<(&str, &str)>> = BTreeMap::new();
    let mut ended: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for line in noted.lines() {
        let [name, what, run, step, key] = *line.split(' ').collect::<Vec<_>>() else {
            return Err(format!("this line is no note: {line}").into());
        };
        if what == "begins" {
            begun.entry((run, step)).or_default().push((name, key));
        } else {
            assert!(ended.entry((run, step)).or_default().insert(name), "twice: {line}");
        }
    }
    assert_eq!((begun.len(), ended.len()), (all, all), "each step was begun, and has ended");
    let keys: BTreeSet<&str> = begun.values().flatten().map(|(_, key)| *key).collect();
    assert_eq!(keys.len(), all, "one key for each step, whoever is at it");
    for (run, step) in before {
        let begun = &begun[&(run.as_str(), step.as_str())];
        assert_eq!(begun.len(), 1, "{step} of {run} had a result, and began again: {begun:?}");
    }
    let again: Vec<_> = begun.iter().filter(|(_, begun)| begun.len() > 1).collect();
    for (step, begun) in &again {
        let [(first, _), (second, _)] = begun[..] else {
            return Err(format!("{step:?} began more than twice: {begun:?}").into());
        };
        assert_eq!(first, "ann", "only hers begin again");
        assert_ne!(second, "ann");
    }
    let hers: Vec<String> = (0..SHARE).map(|number| format!("parcel-{number}")).collect();
    let mut rest = 0;
    for ((run, step), begun) in &begun {
        let is_hers = hers.iter().any(|id| id == run);
        let others = begun.iter().filter(|(name, _)| *name != "ann").count();
        assert!(is_hers || others == 1, "nobody who lives loses {step} of {run}: {begun:?}");
        rest += usize::from(is_hers && others == 1);
    }
    assert!(rest > 0, "nothing was left for the others");
    for name in NAMES {
        let ended = noted.lines().filter(|line| line.starts_with(&format!("{name} ends")));
        let runs: BTreeSet<Option<&str>> =
            ended.clone().map(|line| line.split(' ').nth(2)).collect();
        println!("{name} did {} steps of {} runs", ended.count(), runs.len());
    }
    println!(
        "all {RUNS} runs have succeeded; the others did {rest} steps of ann's runs, and of those {} that \
         she was at were begun again, with the same keys, and no other",
        again.len()
    );
    Ok(())
}

/// Shows it in a schema that is there only so long.
fn show_on(url: String) -> Result<()> {
    let name = format!("many_engines_{}", std::process::id());
    let witness = std::env::temp_dir().join(format!("stepwell-{name}"));
    let place = Place { url, schema: name, witness };
    let shown = show(&place);
    block_on(async {
        let mut connection = PgConnection::connect(&place.url).await?;
        let remove = format!("DROP SCHEMA IF EXISTS {} CASCADE", place.schema);
        sqlx::raw_sql(AssertSqlSafe(remove)).execute(&mut connection).await
    })?;
    // It is not there if nobody came so far.
    let _ = fs::remove_file(&place.witness);
    shown
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next(), arguments.next(), arguments.next(), arguments.next()) {
        (Some(name), Some(url), Some(schema), Some(witness)) => {
            take_part(&name, &Place { url, schema, witness: witness.into() })
        }
        (Some(url), ..) => show_on(url),
        (None, ..) => {
            // What it says is lost with the machine, and so is the server.
            let Some(server) = Server::start("many-engines", "-c fsync=off")? else {
                // There it must not be passed over.
                if std::env::var("CI").as_deref() == Ok("true") {
                    return Err(MISSING.into());
                }
                println!("{MISSING}; give the URL of a database as an argument");
                return Ok(());
            };
            show_on(server.url())
        }
    }
}
