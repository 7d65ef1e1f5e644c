//! One line of writes: what comes while others are written is written together with the next.
//!
//! There is no thread. Whoever waits for an answer drives the writes of all, and whoever stops waiting
//! lets another one go on. What has begun is always brought to its end: if nobody waits any more, a
//! thread that connections have anyway does it.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::{BoxFuture, Either, FutureExt, select};
use futures::lock::Mutex as AsyncMutex;
use futures_timer::Delay;
use rustc_hash::FxHashSet;
use sqlx::PgConnection;
use sqlx::error::DatabaseError;

use super::access::{Access, Done, Held, Scope, Sql};
use super::create::{self, Numbers};
use super::fault::again;
use super::locks::{self, Asked};
use super::write::{self, Change, Letter};
use crate::error::{Error, Result};
use crate::id::RunId;
use crate::storage::rows::NewRows;
use crate::storage::{Created, Denied, Reply};

/// Writes that are done together, at most: the first waits for the last.
const TOGETHER_MAX: usize = 1_024;

/// Bytes of events and messages that are sent together, and what comes beyond by the last of them.
const BYTES_MAX: usize = 4 << 20;

/// A connection that was silent for longer goes back to the pool, which looks whether it still lives.
const REST_MAX: Duration = Duration::from_secs(1);

pub(super) struct Lane {
    access: Arc<Access>,
    numbers: Arc<Numbers>,
    /// Whether the connection is kept while there is nothing to do.
    keep: bool,
    queue: Mutex<VecDeque<Job>>,
    flight: AsyncMutex<Flight>,
}

/// What is being written. Whoever has the lock drives it.
#[derive(Default)]
struct Flight {
    under_way: Option<BoxFuture<'static, Option<Held>>>,
    /// With what tells when it has had nothing to do for too long.
    connection: Option<(Held, Delay)>,
}

impl Flight {
    fn rest(&mut self, connection: Option<Held>) {
        self.connection = connection.map(|connection| (connection, Delay::new(REST_MAX)));
    }

    fn rested(&mut self) -> Option<Held> {
        let (connection, mut over) = self.connection.take()?;
        (&mut over).now_or_never().is_none().then_some(connection)
    }
}

struct Job {
    run: RunId,
    piece: Piece,
}

type Sender<T> = oneshot::Sender<Result<T>>;

/// Something to write, and whom to tell.
pub(super) enum Piece {
    Create(Box<NewRows>, Sender<Created>),
    Commit(Box<Change>, Sender<()>),
    Post(Letter, Sender<u64>),
    Acquire(Box<Asked>, Sender<Option<Denied>>),
}

impl Piece {
    /// Whether nobody wants to know any more: then it has not happened.
    fn is_dropped(&self) -> bool {
        match self {
            Self::Create(_, sender) => sender.is_canceled(),
            Self::Commit(_, sender) => sender.is_canceled(),
            Self::Post(_, sender) => sender.is_canceled(),
            Self::Acquire(_, sender) => sender.is_canceled(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Create(run, _) => run.events.bytes(),
            Self::Commit(change, _) => change.bytes(),
            Self::Post(letter, _) => letter.bytes(),
            Self::Acquire(..) => 0,
        }
    }
}

impl Lane {
    pub(super) fn new(access: Arc<Access>, numbers: Arc<Numbers>, keep: bool) -> Self {
        Self { access, numbers, keep, queue: Mutex::default(), flight: AsyncMutex::default() }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something at the end of the line. Of one run, nothing overtakes.
    pub(super) fn send<T: Send + 'static>(
        self: &Arc<Self>,
        run: &RunId,
        piece: impl FnOnce(Sender<T>) -> Piece,
    ) -> Reply<Result<T>> {
        let (sender, receiver) = oneshot::channel();
        self.queue().push_back(Job { run: run.clone(), piece: piece(sender) });
        let waiting = Waiting { lane: Arc::clone(self), answered: false };
        Reply::later(async move {
            // The whole of it, not its parts.
            let mut waiting = waiting;
            let lane = Arc::clone(&waiting.lane);
            let answer = match select(receiver, pin!(lane.drive())).await {
                Either::Left((answer, _)) => answer,
                Either::Right(((), receiver)) => receiver.await,
            };
            waiting.answered = true;
            answer.unwrap_or_else(|_| {
                Err(lane.access.fault.error("it was given up; try again").transient())
            })
        })
    }

    /// Writes until there is nothing to write.
    async fn drive(&self) {
        let mut flight = self.flight.lock().await;
        loop {
            if let Some(under_way) = &mut flight.under_way {
                let connection = under_way.await;
                flight.under_way = None;
                flight.rest(connection);
            }
            let batch = self.take();
            if batch.is_empty() {
                return;
            }
            let write = Write {
                access: Arc::clone(&self.access),
                numbers: Arc::clone(&self.numbers),
                keep: self.keep,
            };
            let connection = flight.rested();
            flight.under_way = Some(Box::pin(write.all(connection, batch)));
        }
    }

    /// The next that can be written together: of each run one thing only.
    fn take(&self) -> Vec<Piece> {
        let mut queue = self.queue();
        let mut runs = FxHashSet::default();
        let (mut batch, mut left, mut bytes) = (Vec::new(), VecDeque::new(), 0);
        while batch.len() < TOGETHER_MAX && bytes < BYTES_MAX {
            let Some(job) = queue.pop_front() else { break };
            if job.piece.is_dropped() {
                continue;
            }
            if runs.contains(&job.run) {
                left.push_back(job);
                continue;
            }
            bytes += job.piece.bytes();
            batch.push(job.piece);
            runs.insert(job.run);
        }
        left.append(&mut queue);
        *queue = left;
        batch
    }
}

/// Somebody who waits for an answer.
struct Waiting {
    lane: Arc<Lane>,
    answered: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        // Somebody else may be driving; otherwise what has begun must not be left in the middle.
        let begun = self.lane.flight.try_lock().is_some_and(|flight| flight.under_way.is_some());
        if begun {
            let lane = Arc::clone(&self.lane);
            smol::spawn(async move { lane.drive().await }).detach();
        }
    }
}

/// What one batch needs.
struct Write {
    access: Arc<Access>,
    numbers: Arc<Numbers>,
    keep: bool,
}

/// Writes several of a kind in one statement.
type Together<W, T> = for<'c> fn(
    &'c mut PgConnection,
    &'c Sql,
    &'c Numbers,
    &'c [W],
) -> BoxFuture<'c, Done<Vec<Result<T>>>>;

/// The same with what it needs of the database.
type Way<W, T> = (Scope, Together<W, T>);

impl Write {
    /// Gives the connection back, if it can be used again and is to be kept.
    async fn all(self, connection: Option<Held>, batch: Vec<Piece>) -> Option<Held> {
        let held = match connection.filter(|_| self.access.is_checked()) {
            Some(held) => Ok(held),
            None => self.access.patiently(self.access.connection()).await,
        };
        let mut sorted = Sorted::default();
        batch.into_iter().for_each(|piece| sorted.add(piece));
        let mut held = match held {
            Ok(held) => held,
            Err(error) => {
                sorted.fail(&error);
                return None;
            }
        };
        let creating: Together<Box<NewRows>, Created> = |connection, sql, numbers, runs| {
            Box::pin(create::create(connection, sql, numbers, runs))
        };
        let settled: Together<Box<NewRows>, Created> =
            |connection, sql, _, runs| Box::pin(create::create_settled(connection, sql, runs));
        let committing: Together<Box<Change>, ()> =
            |connection, sql, _, changes| Box::pin(write::commit(connection, sql, changes));
        let posting: Together<Letter, u64> =
            |connection, sql, _, letters| Box::pin(write::post(connection, sql, letters));
        let acquiring: Together<Box<Asked>, Option<Denied>> =
            |connection, sql, _, asked| Box::pin(locks::all(connection, sql, asked));
        let (one, whole) = (Scope::One, Scope::Whole);
        self.group(&mut held, sorted.creates, (one, creating), (whole, settled)).await;
        self.group(&mut held, sorted.commits, (one, committing), (one, committing)).await;
        for change in sorted.alone {
            self.group(&mut held, vec![change], (whole, committing), (whole, committing)).await;
        }
        self.group(&mut held, sorted.posts, (one, posting), (one, posting)).await;
        for asked in sorted.acquires {
            self.group(&mut held, vec![asked], (whole, acquiring), (whole, acquiring)).await;
        }
        (self.keep && held.is_usable()).then_some(held)
    }

    /// All in one, or each alone when one of them cannot be done: the others are not to suffer for it.
    async fn group<W: Send + Sync, T: Send>(
        &self,
        held: &mut Held,
        pieces: Vec<(W, Sender<T>)>,
        together: Way<W, T>,
        alone: Way<W, T>,
    ) {
        if pieces.is_empty() {
            return;
        }
        let (pieces, senders): (Vec<W>, Vec<Sender<T>>) = pieces.into_iter().unzip();
        let mut done = self.once(held, &pieces, together).await;
        if done.as_ref().is_err_and(|failed| failed.again) && held.is_usable() {
            done = self.once(held, &pieces, alone).await;
        }
        let answers = match done {
            Ok(answers) => answers,
            Err(_) if pieces.len() > 1 && held.is_usable() => {
                let mut answers = Vec::with_capacity(pieces.len());
                for piece in pieces.chunks(1) {
                    let one = self.once(held, piece, alone).await;
                    answers
                        .push(one.map_err(|failed| failed.error).and_then(|mut one| one.remove(0)));
                }
                answers
            }
            // With its source.
            Err(failed) if senders.len() == 1 => vec![Err(failed.error)],
            Err(failed) => senders.iter().map(|_| Err(again(&failed.error))).collect(),
        };
        for (sender, answer) in senders.into_iter().zip(answers) {
            // Nobody may want to know any more.
            let _ = sender.send(answer);
        }
    }

    async fn once<W: Send + Sync, T: Send>(
        &self,
        held: &mut Held,
        pieces: &[W],
        (scope, write): Way<W, T>,
    ) -> Result<Vec<Result<T>>, Failed> {
        let writing = async {
            let mut open = self.access.open(held, scope).await?;
            let done = write(&mut open, &self.access.sql, &self.numbers, pieces).await?;
            open.close(done).await
        };
        let done = match self.access.patiently(async { Ok(writing.await) }).await {
            Ok(done) => done,
            Err(error) => return Err(Failed { error, again: false }),
        };
        held.settle(&done);
        match done {
            Ok(answers) => answers.map_err(|error| Failed { error, again: false }),
            Err(error) => {
                let gone = |error: &dyn DatabaseError| error.is_foreign_key_violation();
                let again = error.as_database_error().is_some_and(gone);
                // What is known of definitions may not be so any more.
                self.numbers.forget();
                Err(Failed { error: self.access.failed(&error), again })
            }
        }
    }
}

/// Why nothing was written.
struct Failed {
    error: Error,
    /// Whether another attempt may go well: a definition was removed, which will be written again.
    again: bool,
}

/// A batch by kind.
#[derive(Default)]
struct Sorted {
    creates: Vec<(Box<NewRows>, Sender<Created>)>,
    commits: Vec<(Box<Change>, Sender<()>)>,
    /// Commits that need a transaction.
    alone: Vec<(Box<Change>, Sender<()>)>,
    posts: Vec<(Letter, Sender<u64>)>,
    acquires: Vec<(Box<Asked>, Sender<Option<Denied>>)>,
}

impl Sorted {
    fn add(&mut self, piece: Piece) {
        match piece {
            Piece::Create(run, sender) => self.creates.push((run, sender)),
            Piece::Commit(change, sender) if change.is_alone() => {
                self.alone.push((change, sender));
            }
            Piece::Commit(change, sender) => self.commits.push((change, sender)),
            Piece::Post(letter, sender) => self.posts.push((letter, sender)),
            Piece::Acquire(asked, sender) => self.acquires.push((asked, sender)),
        }
    }

    fn fail(self, error: &Error) {
        fn all<W, T>(pieces: Vec<(W, Sender<T>)>, error: &Error) {
            for (_, sender) in pieces {
                // Nobody may want to know any more.
                let _ = sender.send(Err(again(error)));
            }
        }
        all(self.creates, error);
        all(self.commits, error);
        all(self.alone, error);
        all(self.posts, error);
        all(self.acquires, error);
    }
}
