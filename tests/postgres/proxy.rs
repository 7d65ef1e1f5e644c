//! Engines behind a network that fails, on a server that dies: connections are cut at random moments, the
//! bytes of others vanish without a word for longer than a lease, both ways or one way, or take their
//! time, and the server is stopped and started.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use futures::{FutureExt, StreamExt};
use futures_timer::Delay;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

use super::engines::{World, insist, wait_until};
use super::server::Own;
use super::*;

/// How often all of it is done, instead of once.
const ROUNDS: &str = "STEPWELL_TEST_PROXY_ROUNDS";
const LEASE: Duration = Duration::from_millis(1_500);
const PATIENCE: Duration = Duration::from_secs(1);

/// Passes bytes between TCP and a server's socket, as long as it is let.
struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
}

/// What goes to the server, and what comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Questions,
    Answers,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Connections that were opened before the last one are reset.
    cuts: u64,
    /// What comes is swallowed.
    loses_questions: bool,
    loses_answers: bool,
    /// What comes is passed on so much later, each way.
    delay: Duration,
}

impl State {
    const fn loses(&self, way: Way) -> bool {
        match way {
            Way::Questions => self.loses_questions,
            Way::Answers => self.loses_answers,
        }
    }
}

impl Proxy {
    /// Its thread ends with the test program.
    fn before(socket: PathBuf) -> Self {
        let (state, seen) = watch::channel(State::default());
        let (sender, address) = mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
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

    fn lose(&self, way: Way, loses: bool) {
        self.state.send_modify(|state| match way {
            Way::Questions => state.loses_questions = loses,
            Way::Answers => state.loses_answers = loses,
        });
    }

    fn set_deaf(&self, is_deaf: bool) {
        self.lose(Way::Questions, is_deaf);
        self.lose(Way::Answers, is_deaf);
    }

    fn set_delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }
}

async fn pass(
    mut client: TcpStream,
    socket: PathBuf,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let cuts = state.borrow_and_update().cuts;
    let mut server = UnixStream::connect(socket).await?;
    let is_cut = {
        let (asks, answered) = client.split();
        let (answers, asked) = server.split();
        tokio::select! {
            ended = pump(Way::Questions, asks, asked, state.clone()) => { ended?; false }
            ended = pump(Way::Answers, answers, answered, state.clone()) => { ended?; false }
            // Whoever could say otherwise is gone, too.
            _ = state.wait_for(|state| state.cuts != cuts) => true,
        }
    };
    // Closed so, it is reset.
    if is_cut { client.set_zero_linger() } else { Ok(()) }
}

/// One way, until it ends.
async fn pump(
    way: Way,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    // For good: what is missing is missing.
    let mut has_swallowed = false;
    let mut bytes = [0; 1 << 14];
    loop {
        has_swallowed |= state.borrow_and_update().loses(way);
        let count = tokio::select! {
            changed = state.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
            count = from.read(&mut bytes) => count?,
        };
        let now = *state.borrow();
        if count == 0 {
            // The other side does not hear of it before.
            let _ = state.wait_for(|state| !state.loses(way)).await;
            return Ok(());
        }
        if !has_swallowed && !now.loses(way) {
            tokio::time::sleep(now.delay).await;
            to.write_all(&bytes[..count]).await?;
        }
    }
}

/// A server, and a way to it for each engine.
struct Behind {
    own: Own,
    proxies: Vec<Proxy>,
    world: World,
}

impl Behind {
    fn new(engines: usize, patience: Duration, lease: Duration) -> Option<Self> {
        let own = Own::start()?;
        let direct = block_on(Postgres::connect(&own.url())).unwrap();
        block_on(direct.migrate()).unwrap();
        let proxy = |_| Proxy::before(own.socket());
        let proxies: Vec<Proxy> = (0..engines).map(proxy).collect();
        let urls: Vec<String> = proxies.iter().map(Proxy::url).collect();
        let options = PostgresOptions::new().patience(patience);
        let world = World::new(direct, &options, &urls, lease);
        Some(Self { own, proxies, world })
    }

    /// All that may befall them, each while work is done; and work is done after it.
    fn trouble(own: &mut Own, proxies: &[Proxy], world: &World, mut seed: usize) {
        let mut some = || {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            1 + (seed >> 33) % 40
        };
        for _ in 0..3 {
            world.let_work(some());
            proxies.iter().for_each(Proxy::cut);
        }
        world.let_work(some());
        own.restart();
        // One is alone: the other takes over what it has.
        world.let_work(some());
        proxies[0].set_deaf(true);
        world.let_work(1);
        lose(2 * LEASE);
        proxies[0].set_deaf(false);
        world.let_work(some());
        proxies.iter().for_each(|proxy| proxy.set_deaf(true));
        lose(2 * LEASE);
        proxies.iter().for_each(|proxy| proxy.set_deaf(false));
        world.let_work(some());
        own.restart();
        proxies.iter().for_each(Proxy::cut);
        world.let_work(some());
    }
}

/// So long the bytes are lost: nothing is waited for.
fn lose(time: Duration) {
    block_on(Delay::new(time));
}

fn rounds() -> usize {
    std::env::var(ROUNDS).map_or(1, |rounds| rounds.parse().unwrap())
}

#[test]
fn engines_go_on_by_themselves_whatever_becomes_of_the_network_and_the_server() {
    let Some(Behind { mut own, proxies, world }) = Behind::new(2, PATIENCE, LEASE) else { return };
    world.goes_on(|_| {
        (0..rounds()).for_each(|round| Behind::trouble(&mut own, &proxies, &world, round));
    });
}

#[test]
fn engines_go_on_when_bytes_are_lost_one_way_only() {
    let Some(Behind { own: _own, proxies, world }) = Behind::new(2, PATIENCE, LEASE) else {
        return;
    };
    world.goes_on(|_| {
        for round in 0..rounds() {
            for way in [Way::Questions, Way::Answers] {
                world.let_work(5 + round);
                proxies[0].lose(way, true);
                world.let_work(1);
                lose(2 * LEASE);
                proxies[0].lose(way, false);
                world.let_work(5 + round);
            }
            // What one says and what the other hears.
            proxies[0].lose(Way::Questions, true);
            proxies[1].lose(Way::Answers, true);
            lose(2 * LEASE);
            proxies[0].lose(Way::Questions, false);
            proxies[1].lose(Way::Answers, false);
            world.let_work(20);
        }
    });
}

#[test]
fn engines_go_on_where_each_word_takes_its_time() {
    let patience = Duration::from_secs(5);
    let Some(Behind { own: _own, proxies, world }) = Behind::new(2, patience, patience) else {
        return;
    };
    world.goes_on(|_| {
        proxies.iter().for_each(|proxy| proxy.set_delay(Duration::from_millis(100)));
        (0..rounds()).for_each(|_| world.let_work(8));
        proxies.iter().for_each(Proxy::cut);
        world.let_work(4);
        proxies.iter().for_each(|proxy| proxy.set_delay(Duration::ZERO));
    });
}

/// A way to a server for a storage with a single connection, and little patience.
fn single() -> Option<(Own, Proxy, Postgres)> {
    let own = Own::start()?;
    block_on(block_on(Postgres::connect(&own.url())).unwrap().migrate()).unwrap();
    let proxy = Proxy::before(own.socket());
    let options = PostgresOptions::new().connections(1).patience(Duration::from_millis(500));
    let storage = block_on(options.connect(&proxy.url())).unwrap();
    Some((own, proxy, storage))
}

#[test]
fn a_connection_that_is_lost_while_it_goes_back_costs_no_place() {
    let Some((_own, proxy, storage)) = single() else { return };
    let ask = || block_on(storage.next_due());
    assert!(insist(ask).is_none());
    // Long enough for whatever is asked behind the answer.
    proxy.set_delay(Duration::from_millis(30));
    assert!(insist(ask).is_none());
    proxy.lose(Way::Answers, true);
    lose(Duration::from_secs(1));
    proxy.lose(Way::Answers, false);
    proxy.set_delay(Duration::ZERO);
    assert!(insist(ask).is_none());
}

#[test]
fn who_listens_on_a_connection_that_was_lost_without_a_word_listens_again() {
    let Some((_own, proxy, storage)) = single() else { return };
    let mut news = storage.news(A);
    let mut hears = || {
        let mut heard = false;
        wait_until("something may be new", || {
            heard = heard || news.next().now_or_never().is_some();
            heard
        });
    };
    hears();
    proxy.set_deaf(true);
    lose(Duration::from_millis(100));
    proxy.set_deaf(false);
    // It listens anew: something may have been missed.
    hears();
}
