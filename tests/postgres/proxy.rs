//! Engines behind a network that fails, on a server that dies: connections are cut at random moments, the
//! bytes of others vanish without a word for longer than a lease, and the server is stopped and started.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use futures::FutureExt;
use futures::channel::oneshot;
use futures_timer::Delay;
use stepwell::engine::EngineLimits;
use stepwell::run::RunState;
use stepwell::storage::{RunQuery, Summary};
use stepwell::{Error, ErrorKind, ExecutionContext, RunHandle, StartOptions, StepError, Wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

use super::server::Own;
use super::*;

/// How often all of it is done, instead of once.
const ROUNDS: &str = "STEPWELL_TEST_PROXY_ROUNDS";
const LEASE: Duration = Duration::from_millis(1_500);
const PATIENCE: Duration = Duration::from_secs(1);
/// For anything that must come about by itself.
const DEADLINE: Duration = Duration::from_secs(60);

/// Passes bytes between TCP and a server's socket, as long as it is let.
struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Connections that were opened before the last one are reset.
    cuts: u64,
    /// What comes is swallowed.
    is_deaf: bool,
}

impl Proxy {
    /// Its thread ends with the test program.
    fn before(socket: PathBuf) -> Self {
        let (state, seen) = watch::channel(State::default());
        let (sender, address) = mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            runtime.unwrap().block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                sender.send(listener.local_addr().unwrap()).unwrap();
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    // One that cannot reach the server, or loses it, ends.
                    drop(tokio::spawn(pass(client, socket.clone(), seen.clone())));
                }
            });
        });
        Self { address: address.recv().unwrap(), state }
    }

    fn url(&self) -> String {
        format!("postgres://postgres@{}/postgres", self.address)
    }

    fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    fn set_deaf(&self, is_deaf: bool) {
        self.state.send_modify(|state| state.is_deaf = is_deaf);
    }
}

async fn pass(
    mut client: TcpStream,
    socket: PathBuf,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let State { cuts, is_deaf } = *state.borrow_and_update();
    // For good: what is missing is missing.
    let mut has_swallowed = is_deaf;
    let mut server = UnixStream::connect(socket).await?;
    let (mut asked, mut answered) = ([0; 1 << 14], [0; 1 << 14]);
    loop {
        let ended = tokio::select! {
            changed = state.changed() => {
                let now = *state.borrow_and_update();
                if changed.is_err() || now.cuts != cuts {
                    // Closed so, it is reset.
                    return client.set_zero_linger();
                }
                has_swallowed |= now.is_deaf;
                false
            }
            count = client.read(&mut asked) => {
                let count = count?;
                if !has_swallowed {
                    server.write_all(&asked[..count]).await?;
                }
                count == 0
            }
            count = server.read(&mut answered) => {
                let count = count?;
                if !has_swallowed {
                    client.write_all(&answered[..count]).await?;
                }
                count == 0
            }
        };
        if ended {
            // Neither side hears of it before.
            let _ = state.wait_for(|state| !state.is_deaf).await;
            return Ok(());
        }
    }
}

/// What a step has done, and with what.
#[derive(Debug)]
struct Line {
    run: String,
    step: String,
    attempt: u32,
    key: String,
    /// What it has taken, when it begins.
    taken: Vec<String>,
    /// What it comes to, when it ends.
    result: Option<String>,
}

#[derive(Clone, Default)]
struct Witness(Arc<Mutex<Vec<Line>>>);

impl Witness {
    fn note(&self, ctx: &ExecutionContext, taken: Vec<String>, result: Option<String>) {
        let (run, step) = (ctx.execution_id().to_string(), ctx.step().to_string());
        let (attempt, key) = (ctx.attempt(), ctx.idempotency_key());
        self.0.lock().unwrap().push(Line { run, step, attempt, key, taken, result });
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

async fn body(witness: Witness, ctx: ExecutionContext) -> std::result::Result<String, StepError> {
    static RESULTS: AtomicU32 = AtomicU32::new(0);
    let taken = ctx.inputs().as_object().into_iter().flatten();
    let taken = taken.filter_map(|(_, value)| value.as_str().map(String::from)).collect();
    witness.note(&ctx, taken, None);
    ctx.sleep(Duration::from_millis(20)).await;
    let result = format!("r{}", RESULTS.fetch_add(1, Ordering::Relaxed));
    witness.note(&ctx, Vec::new(), Some(result.clone()));
    Ok(result)
}

const STEPS: usize = 5;

fn shape() -> Workflow {
    let work = |id| Step::task(id, "work");
    let steps = [
        work("a"),
        work("b").input("a", "a"),
        work("c").input("a", "a"),
        Step::wait("pause", Wait::For(Duration::from_millis(200))).after("b"),
        work("d").input("b", "b").after("pause"),
        Step::wait("go", Wait::signal("go")).after("c"),
        work("e").input("c", "c").input("d", "d").after("go"),
    ];
    Workflow::builder("w").steps(steps).build().unwrap()
}

/// Does this until it goes well: only the storage may be at fault.
fn insist<T>(mut work: impl FnMut() -> Result<T>) -> T {
    let mut done = None;
    wait_until("it goes well again", || match work() {
        Ok(work) => {
            done = Some(work);
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
            false
        }
    });
    done.unwrap()
}

/// Looks now and then, and gives up some time.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let mut end = Delay::new(DEADLINE);
    while !is_so() {
        block_on(Delay::new(Duration::from_millis(5)));
        assert!((&mut end).now_or_never().is_none(), "not within {DEADLINE:?}: {what}");
    }
}

struct World {
    own: Own,
    /// To the server itself.
    direct: Postgres,
    /// One for each engine.
    proxies: Vec<Proxy>,
    engines: Vec<Engine>,
    witness: Witness,
}

impl World {
    fn new(engines: usize) -> Option<Self> {
        let own = Own::start()?;
        let direct = block_on(Postgres::connect(&own.url())).unwrap();
        block_on(direct.migrate()).unwrap();
        let proxy = |_| Proxy::before(own.socket());
        let proxies: Vec<Proxy> = (0..engines).map(proxy).collect();
        let witness = Witness::default();
        let engines = proxies.iter().map(|proxy| engine(proxy, &witness)).collect();
        Some(Self { own, direct, proxies, engines, witness })
    }

    /// What became of all runs.
    fn listed(&self) -> Vec<Summary> {
        let all = RunQuery { limit: usize::MAX, ..RunQuery::default() };
        insist(|| block_on(self.direct.list(all.clone())))
    }

    /// Waits until steps have done so much more.
    fn let_work(&self, lines: usize) {
        let until = self.witness.len() + lines;
        wait_until("somebody goes on", || self.witness.len() >= until);
    }

    /// All that may befall them, each while work is done; and work is done after it.
    fn trouble(&mut self, mut seed: usize) {
        let mut some = || {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            1 + (seed >> 33) % 40
        };
        for _ in 0..3 {
            self.let_work(some());
            self.proxies.iter().for_each(Proxy::cut);
        }
        self.let_work(some());
        self.own.restart();
        // One is alone: the other takes over what it has.
        self.let_work(some());
        self.proxies[0].set_deaf(true);
        self.let_work(1);
        lose(2 * LEASE);
        self.proxies[0].set_deaf(false);
        self.let_work(some());
        self.proxies.iter().for_each(|proxy| proxy.set_deaf(true));
        lose(2 * LEASE);
        self.proxies.iter().for_each(|proxy| proxy.set_deaf(false));
        self.let_work(some());
        self.own.restart();
        self.proxies.iter().for_each(Proxy::cut);
        self.let_work(some());
    }
}

/// So long the bytes are lost: nothing is waited for.
fn lose(time: Duration) {
    block_on(Delay::new(time));
}

fn engine(proxy: &Proxy, witness: &Witness) -> Engine {
    let options = PostgresOptions::new().patience(PATIENCE);
    let storage = block_on(options.connect(&proxy.url())).unwrap();
    let witness = witness.clone();
    let limits = EngineLimits { lease: LEASE, max_recoveries: 1_000, ..EngineLimits::default() };
    let work = executor_fn(move |ctx| body(witness.clone(), ctx));
    Engine::builder().storage(storage).limits(limits).executor("work", work).build().unwrap()
}

/// Runs that are started and given their signals, one after the other, until it is enough. How many
/// there are.
fn call(engines: &[Engine], enough: mpsc::Receiver<()>) -> usize {
    let mut started = 0;
    while enough.try_recv() == Err(mpsc::TryRecvError::Empty) {
        let id = format!("r{started}");
        let engine = &engines[started % engines.len()];
        let start = || block_on(engine.start_with(&shape(), (), StartOptions::id(&id)));
        drop(insist(start));
        // Through the other, sometimes.
        let engine = &engines[started / 2 % engines.len()];
        let mut asked = 0;
        insist(|| {
            let run: RunHandle = block_on(engine.run(&RunId::new(&id).unwrap()))?;
            asked += 1;
            match block_on(run.signal("go", started as u64)) {
                // One that had no answer has come through.
                Err(error) if is_over(&error) && asked > 1 => Ok(()),
                said => said,
            }
        });
        started += 1;
    }
    started
}

fn is_over(error: &Error) -> bool {
    error.kind() == ErrorKind::Rejected
}

#[test]
fn engines_go_on_by_themselves_whatever_becomes_of_the_network_and_the_server() {
    let Some(mut world) = World::new(2) else { return };
    let rounds = std::env::var(ROUNDS).map_or(1, |rounds| rounds.parse().unwrap());
    let engines = world.engines.clone();
    let started = thread::scope(|scope| {
        // Those that wait for them hear it also when a test fails.
        let (stops, serving): (Vec<_>, Vec<_>) = engines
            .iter()
            .map(|engine| {
                let (stop, stopped) = oneshot::channel::<()>();
                (stop, scope.spawn(move || block_on(engine.serve(stopped.map(drop)))))
            })
            .unzip();
        let (enough, until) = mpsc::channel();
        let calling = scope.spawn(|| call(&engines, until));
        for round in 0..rounds {
            world.trouble(round);
        }
        drop(enough);
        let started = calling.join().unwrap();
        wait_until("all come to their ends", || {
            world.listed().iter().all(|run| run.status == RunStatus::Succeeded)
        });
        drop(stops);
        serving.into_iter().for_each(|serving| serving.join().unwrap().unwrap());
        started
    });
    drop(engines);
    check(&world, started);
}

/// What is stored, and what steps have done.
fn check(world: &World, started: usize) {
    assert_eq!(world.listed().len(), started);
    let lines = world.witness.0.lock().unwrap();
    // The keys of steps, by what they have come to.
    let results: BTreeMap<&str, &str> =
        lines.iter().filter_map(|line| Some((line.result.as_deref()?, &*line.key))).collect();
    let mut stored = BTreeSet::new();
    for number in 0..started {
        let name = format!("r{number}");
        let journal = journal(&world.direct, &name);
        let mut keys = BTreeSet::new();
        for recorded in &journal {
            match &recorded.event {
                Event::StepSucceeded { output, .. } => {
                    let Some(result) = output.as_str() else { continue };
                    assert!(keys.insert(results[result]), "{name}: one result for each step");
                    stored.insert(result.to_owned());
                }
                Event::StepFailed { .. } => panic!("{name}: {recorded:?}"),
                _ => {}
            }
        }
        assert_eq!(keys.len(), STEPS, "{name}");
        assert!(keys.iter().all(|key| key.starts_with(&format!("{name}/"))));
        let count = |is: fn(&Event) -> bool| journal.iter().filter(|it| is(&it.event)).count();
        assert_eq!(count(|event| matches!(event, Event::SignalTaken { .. })), 1, "{name}");
        assert_eq!(count(|event| matches!(event, Event::WaitStarted { .. })), 2, "{name}");
        assert_eq!(count(|event| matches!(event, Event::RunFinished { .. })), 1, "{name}");
    }
    agree(&lines, &results, &stored);
}

/// A run's journal, which is whole, and is what the engine would go on from.
fn journal(storage: &Postgres, name: &str) -> Vec<Recorded> {
    let events = block_on(storage.events(&id(name), 0, usize::MAX)).unwrap();
    assert!(events.iter().map(|(position, _)| *position).eq(0..events.len() as u64), "{name}");
    let journal: Vec<Recorded> = events.into_iter().map(|(_, recorded)| recorded).collect();
    let run = load(storage, name);
    assert_eq!((&run.journal, run.holding), (&journal, Holding::Finished), "{name}");
    let state = RunState::replay(id(name), Arc::clone(run.workflow.program()), &journal);
    assert_eq!(state.status(), RunStatus::Succeeded, "{name}");
    journal
}

/// Steps have seen only what is stored, are not begun again after that, and keep their keys.
fn agree(lines: &[Line], results: &BTreeMap<&str, &str>, stored: &BTreeSet<String>) {
    let mut keys: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let mut known: BTreeSet<&str> = BTreeSet::new();
    for line in lines {
        assert_eq!(*keys.entry((&line.run, &line.step)).or_insert(&line.key), line.key);
        assert_eq!(line.attempt, 1, "nothing has failed: {line:?}");
        if line.result.is_none() {
            assert!(!known.contains(&*line.key), "it has a result: {line:?}");
        }
        for taken in &line.taken {
            assert!(stored.contains(taken), "it is not stored: {line:?}");
            known.insert(results[&**taken]);
        }
    }
}
