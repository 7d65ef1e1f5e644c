//! An order that outlasts its process.
//!
//! `cargo run --features sqlite --example durable` kills the program twice, with no warning, starts it
//! again each time, and checks that the order went on where it was. `-- orders.db` after that works on
//! the order in this file instead: kill it yourself, and start it again.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::StreamExt;
use futures::executor::block_on;
use stepwell::executor::{ExecutionContext, RunEvent};
use stepwell::storage::{Sqlite, Storage};
use stepwell::{Engine, Event, RunId, StartOptions, Step, StepError, Wait, Workflow, executor_fn};

const ORDER: &str = "order-4711";

fn workflow() -> stepwell::Result<Workflow> {
    Workflow::builder("order")
        .step(Step::task("reserve", "shop"))
        .step(Step::task("charge", "bank").after("reserve"))
        .step(Step::wait("regret", Wait::For(Duration::from_secs(2))).after("charge"))
        .step(Step::task("ship", "shop").after("regret"))
        .build()
}

fn engine(file: &Path) -> stepwell::Result<Engine> {
    let (shop, bank) = (witness_of(file), witness_of(file));
    Engine::builder()
        .storage(Sqlite::open(file)?)
        .executor("shop", executor_fn(move |ctx| ask(shop.clone(), ctx, Duration::ZERO)))
        .executor(
            "bank",
            executor_fn(move |ctx| {
                // This bank is slow, but answers at once if it has seen the key before. Ask yours
                // with the same key, too: then it pays once, however often it is asked.
                let known = fs::read_to_string(&bank).unwrap_or_default();
                let takes = if known.contains(&ctx.idempotency_key()) { 0 } else { 20 };
                ask(bank.clone(), ctx, Duration::from_secs(takes))
            }),
        )
        .build()
}

/// A step: something is done outside, and takes as long as it takes.
async fn ask(witness: PathBuf, ctx: ExecutionContext, takes: Duration) -> Result<(), StepError> {
    // So that what the step before has come to is printed first.
    ctx.sleep(Duration::from_millis(50)).await;
    note(&witness, &ctx, "begins")?;
    ctx.sleep(takes).await;
    note(&witness, &ctx, "ends")
}

/// The program that this is about: begins the order, or goes on with it.
fn work(file: &Path) -> Result<(), Box<dyn Error>> {
    let engine = engine(file)?;
    block_on(async {
        // Starting twice under one id is starting once.
        let handle = engine.start_with(&workflow()?, (), StartOptions::id(ORDER)).await?;
        let recorded = handle.events().for_each(|event| {
            if let RunEvent::Journal { step, recorded } = event
                && matches!(recorded.event, Event::StepSucceeded { .. })
            {
                println!("{step} is recorded");
            }
            std::future::ready(())
        });
        let (outcome, ()) = futures::join!(handle.outcome(), recorded);
        println!("the order has {}", outcome?);
        Ok(())
    })
}

/// What is outside: a file that knows what the steps have really done.
fn witness_of(file: &Path) -> PathBuf {
    file.with_extension("witness")
}

fn note(witness: &Path, ctx: &ExecutionContext, what: &str) -> Result<(), StepError> {
    let line = format!("{} {what}, key {}\n", ctx.step(), ctx.idempotency_key());
    let mut file = OpenOptions::new().create(true).append(true).open(witness)?;
    file.write_all(line.as_bytes())?;
    print!("{line}");
    Ok(())
}

/// Starts the program, and kills it as soon as it has said this.
fn live(file: &Path, until: Option<&str>) -> Result<(), Box<dyn Error>> {
    let mut child =
        Command::new(std::env::current_exe()?).arg(file).stdout(Stdio::piped()).spawn()?;
    println!("started process {}", child.id());
    let said = child.stdout.take().ok_or("it says nothing")?;
    for line in BufReader::new(said).lines() {
        let line = line?;
        println!("    {line}");
        if until.is_some_and(|until| line.starts_with(until)) {
            child.kill()?;
            child.wait()?;
            println!("killed it\n");
            return Ok(());
        }
    }
    assert!(until.is_none() && child.wait()?.success(), "it ends well, and not before its time");
    Ok(())
}

/// Two crashes, and what must hold after them.
fn show() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("stepwell-durable-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let file = folder.join("orders.db");
    // In the middle of a step; while the order waits; and then it is left alone.
    live(&file, Some("charge begins"))?;
    live(&file, Some("charge is recorded"))?;
    live(&file, None)?;

    let noted = fs::read_to_string(witness_of(&file))?;
    let count = |line: &str| noted.lines().filter(|noted| noted.starts_with(line)).count();
    assert_eq!((count("reserve begins"), count("ship begins")), (1, 1), "{noted}");
    let charge = format!("charge begins, key {ORDER}/charge");
    assert_eq!(
        (count(&charge), count("charge begins"), count("charge ends")),
        (2, 2, 1),
        "{noted}"
    );
    println!("\nreserve and ship ran once; charge, which was interrupted, twice, with one key");

    let stored = block_on(Sqlite::open(&file)?.load(&RunId::new(ORDER)?))?;
    let journal = stored.ok_or("the order is there")?.journal;
    let waits = journal.iter().filter(|it| matches!(it.event, Event::WaitStarted { .. })).count();
    assert_eq!(waits, 1);
    println!("the time for regret was not counted anew: {} events in the journal", journal.len());
    fs::remove_dir_all(&folder)?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args_os().nth(1) {
        Some(file) => work(Path::new(&file)),
        None => show(),
    }
}
