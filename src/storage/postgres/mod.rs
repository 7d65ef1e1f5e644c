//! Runs in a PostgreSQL database.

mod access;
mod create;
mod fault;
mod lane;
mod locks;
mod owners;
mod read;
mod schema;
mod text;
mod write;

use std::fmt;
use std::hash::BuildHasher;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxBuildHasher;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgPool};

use self::access::{Access, Scope, Sql};
use self::create::NewRows;
use self::fault::Fault;
use self::lane::{Lane, Piece};
use self::locks::Acquire;
use self::write::{Change, Letter};
use super::workflows::Workflows;
use super::{
    Answer, Beat, Claim, Claimed, Commit, Created, Denied, Message, NewRun, Owner, Reply, RunQuery,
    Storage, StoredRun, Summary,
};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{RunId, StepKey};
use crate::journal::Recorded;
use crate::run::Want;
use crate::time::Timestamp;

/// Runs in a PostgreSQL database. Clones share its connections, and engines on any number of machines
/// may share the database.
#[derive(Clone)]
pub struct Postgres(Arc<Opened>);

struct Opened {
    access: Arc<Access>,
    /// Writes to runs, each run's in one of them.
    lanes: Vec<Arc<Lane>>,
    workflows: Arc<Workflows>,
}

/// How a database is used.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    schema: String,
    connections: u32,
    patience: Duration,
    pooled: bool,
}

/// Bytes of a schema's name; what is longer PostgreSQL would cut off.
pub const SCHEMA_BYTES_MAX: usize = 63;

/// Writes that are under way at once: while the server writes one batch, the next is put together.
const LANES: usize = 2;

/// Connections of a pool from which on each lane keeps one: enough are left for everything else.
const KEEP_FROM: u32 = 4;

impl PostgresOptions {
    /// The schema `stepwell`, ten connections, thirty seconds of patience, and no proxy that pools.
    #[must_use]
    pub fn new() -> Self {
        Self {
            schema: "stepwell".into(),
            connections: 10,
            patience: Duration::from_secs(30),
            pooled: false,
        }
    }

    /// The schema that has our tables.
    #[must_use]
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = name.into();
        self
    }

    /// Connections that are open at once, at most. Not used with a pool of the host's.
    #[must_use]
    pub const fn connections(mut self, most: u32) -> Self {
        self.connections = most;
        self
    }

    /// How long anything waits for the server before it fails.
    #[must_use]
    pub const fn patience(mut self, wait: Duration) -> Self {
        self.patience = wait;
        self
    }

    /// Counts on nothing that outlasts a transaction: needed behind a proxy that gives each transaction
    /// another session of the server, as PgBouncer does with `pool_mode = transaction`.
    #[must_use]
    pub const fn behind_a_pooler(mut self) -> Self {
        self.pooled = true;
        self
    }

    /// Connects to the database of this URL, `postgres://user:password@host:port/database`.
    ///
    /// # Errors
    /// `Configuration` for a URL or schema that cannot be; `Storage` when the server cannot be reached
    /// or has a newer schema.
    pub async fn connect(self, url: &str) -> Result<Postgres> {
        let options = PgConnectOptions::from_str(url).map_err(|_| {
            // What is wrong with it may show a password.
            let message = "this is not the URL of a PostgreSQL database; it should look like \
                           postgres://user:password@host:5432/database";
            Error::new(ErrorKind::Configuration, message)
        })?;
        let mut options = options.disable_statement_logging();
        if self.pooled {
            options = options.statement_cache_capacity(0).extra_float_digits(None);
        }
        let pool = PgPoolOptions::new()
            .max_connections(self.connections.max(1))
            .acquire_timeout(self.patience)
            .connect_lazy_with(options);
        self.with_pool(pool).await
    }

    /// Uses connections of the host's pool.
    ///
    /// # Errors
    /// As those of [`connect`](Self::connect).
    pub async fn with_pool(self, pool: PgPool) -> Result<Postgres> {
        let name = &self.schema;
        if name.is_empty() || name.len() > SCHEMA_BYTES_MAX || name.contains('\0') {
            let message = format!(
                "`{}` cannot be the name of a schema; use 1 to {SCHEMA_BYTES_MAX} bytes",
                name.escape_debug()
            );
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        let keep = pool.options().get_max_connections() >= KEEP_FROM;
        let fault = Fault::new(&pool.connect_options(), name);
        let sql = Sql::new(name, self.pooled);
        let access = Arc::new(Access::new(pool, sql, fault, self.patience));
        access.try_out().await?;
        let numbers = Arc::default();
        let lane = || Arc::new(Lane::new(Arc::clone(&access), Arc::clone(&numbers), keep));
        let lanes = std::iter::repeat_with(lane).take(LANES).collect();
        Ok(Postgres(Arc::new(Opened { access, lanes, workflows: Arc::default() })))
    }
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl Postgres {
    /// Connects to the database of this URL, with [`PostgresOptions::new`].
    ///
    /// # Errors
    /// Those of [`PostgresOptions::connect`].
    pub async fn connect(url: &str) -> Result<Self> {
        PostgresOptions::new().connect(url).await
    }

    /// Uses connections of the host's pool, with [`PostgresOptions::new`].
    ///
    /// # Errors
    /// Those of [`PostgresOptions::connect`].
    pub async fn with_pool(pool: PgPool) -> Result<Self> {
        PostgresOptions::new().with_pool(pool).await
    }

    /// Makes the schema, or makes it the newest. Any number of programs may do so at once.
    ///
    /// # Errors
    /// `Storage` when the schema is another program's, or newer, or the user may not make it.
    pub async fn migrate(&self) -> Result<()> {
        self.0.access.migrate().await
    }

    fn lane(&self, run: &RunId) -> &Arc<Lane> {
        // Bits that a hash map would not use first.
        let place = (FxBuildHasher.hash_one(run) >> 20) as usize % LANES;
        #[expect(clippy::indexing_slicing, reason = "there are so many")]
        &self.0.lanes[place]
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Postgres({})", self.0.access.fault)
    }
}

/// Asks on a connection of its own: the name of the scope, then what is done with the connection.
macro_rules! ask {
    ($self:ident, $scope:ident, |$connection:ident, $sql:ident| $work:expr) => {{
        let access = Arc::clone(&$self.0.access);
        Reply::later(async move {
            let asking = async {
                let mut held = access.connection().await?;
                let all = async {
                    let mut open = access.open(&mut held, Scope::$scope).await?;
                    let ($connection, $sql) = (&mut *open, &access.sql);
                    let done = $work.await?;
                    open.close(done).await
                };
                let done = all.await;
                held.settle(&done);
                done.unwrap_or_else(|error| Err(access.fault.of(&error)))
            };
            access.patiently(asking).await
        })
    }};
}

impl Storage for Postgres {
    fn create(&self, run: NewRun) -> Reply<Result<Created>> {
        let id = run.id.clone();
        match NewRows::of(run, &self.0.workflows) {
            Ok(rows) => self.lane(&id).send(&id, |sender| Piece::Create(Box::new(rows), sender)),
            Err(error) => Reply::ready(Err(error.of_run(&id))),
        }
    }

    fn commit(&self, run: &RunId, mut commit: Commit) -> Reply<Result<Vec<Recorded>>> {
        let change = match Change::of(run, &commit) {
            Ok(change) => change,
            Err(error) => return Reply::ready(Err(error.of_run(run))),
        };
        let done = self.lane(run).send(run, |sender| Piece::Commit(Box::new(change), sender));
        commit.events.clear();
        Reply::later(async move { done.await.map(|()| commit.events) })
    }

    fn load(&self, run: &RunId) -> Reply<Result<Option<StoredRun>>> {
        let (run, workflows) = (run.clone(), Arc::clone(&self.0.workflows));
        ask!(self, Moment, |connection, sql| read::load(connection, sql, &workflows, &run))
    }

    fn post(&self, run: &RunId, message: Message) -> Reply<Result<u64>> {
        match Letter::of(run, &message) {
            Ok(letter) => self.lane(run).send(run, |sender| Piece::Post(letter, sender)),
            Err(error) => Reply::ready(Err(error.of_run(run))),
        }
    }

    fn inbox(&self, run: &RunId) -> Reply<Result<Vec<(u64, Message)>>> {
        let run = run.clone();
        ask!(self, One, |connection, sql| read::inbox(connection, sql, &run))
    }

    fn answer(&self, run: &RunId, number: u64) -> Reply<Result<Option<Answer>>> {
        let run = run.clone();
        ask!(self, One, |connection, sql| read::answer(connection, sql, &run, number))
    }

    fn acquire(
        &self,
        run: &RunId,
        step: StepKey,
        wants: Vec<Want>,
        now: Timestamp,
    ) -> Reply<Result<Option<Denied>>> {
        let asked = Box::new(Acquire { run: run.clone(), step, wants, now });
        self.lane(run).send(run, |sender| Piece::Acquire(asked, sender))
    }

    fn beat(&self, owner: Owner) -> Reply<Result<Vec<Beat>>> {
        ask!(self, One, |connection, sql| owners::beat(connection, sql, owner))
    }

    fn retire(&self, owner: Owner) -> Reply<Result<()>> {
        ask!(self, One, |connection, sql| owners::retire(connection, sql, owner))
    }

    fn mail(&self, owner: Owner, limit: usize) -> Reply<Result<Vec<RunId>>> {
        ask!(self, One, |connection, sql| read::mail(connection, sql, owner, limit))
    }

    fn held(&self, owner: Owner, after: Option<RunId>, limit: usize) -> Reply<Result<Vec<RunId>>> {
        ask!(self, One, |connection, sql| read::held(connection, sql, owner, after.as_ref(), limit))
    }

    fn claim(&self, claim: Claim) -> Reply<Result<Vec<Claimed>>> {
        ask!(self, One, |connection, sql| owners::claim(connection, sql, &claim))
    }

    fn set_aside(
        &self,
        run: &RunId,
        owner: Owner,
        until: Timestamp,
        why: String,
    ) -> Reply<Result<()>> {
        let run = run.clone();
        ask!(self, One, |connection, sql| {
            write::set_aside(connection, sql, &run, owner, until, &why)
        })
    }

    fn next_due(&self) -> Reply<Result<Option<Timestamp>>> {
        ask!(self, One, |connection, sql| read::next_due(connection, sql))
    }

    fn list(&self, query: RunQuery) -> Reply<Result<Vec<Summary>>> {
        ask!(self, One, |connection, sql| read::list(connection, sql, &query))
    }
}
