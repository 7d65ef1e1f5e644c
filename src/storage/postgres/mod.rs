//! Runs in a PostgreSQL database.

mod access;
mod create;
mod fault;
mod guests;
mod history;
mod lane;
mod locks;
mod news;
mod owners;
mod purge;
mod read;
mod schema;
mod text;
mod wording;
mod write;

use std::fmt;
use std::hash::BuildHasher;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use rustc_hash::FxBuildHasher;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Executor, PgPool};

use self::access::{Access, PATIENCE_MAX, Scope, Sql};
use self::create::rows_of;
use self::fault::Fault;
use self::lane::{Lane, Piece};
use self::write::{Change, Letter};
use super::workflows::Workflows;
use super::{
    Acquire, Answer, Beat, Claim, Claimed, Commit, Created, Denied, Message, NewRun, Owner, Purge,
    Reply, RunQuery, Storage, StoredRun, Summary,
};
use crate::error::{Error, ErrorKind, Result};
use crate::id::RunId;
use crate::journal::Recorded;
use crate::time::Timestamp;

/// Runs in a PostgreSQL database. Clones share its connections, and engines on any number of machines
/// may share the database.
///
/// Everything is in a schema of its own, `stepwell`. [`migrate`](Self::migrate) makes it, or makes it the
/// newest; call it when a new version of your program is put in place, or at each start.
///
/// ```no_run
/// # async fn example() -> stepwell::Result<()> {
/// use stepwell::Engine;
/// use stepwell::storage::Postgres;
///
/// let storage = Postgres::connect("postgres://app:password@db.example.com/app").await?;
/// storage.migrate().await?;
/// let engine = Engine::builder().storage(storage).build()?;
/// # Ok(())
/// # }
/// ```
///
/// An `Ok` of a write is as durable as the server makes it: on its disk, unless `synchronous_commit` is off.
/// Writes that come while others are written are sent together with the next, so that many runs wait for
/// the disk together; one that is refused does not touch the others. What fails because the server is
/// away is [transient](Error::is_transient): engines try again until it is back. What
/// [steps write](crate::guide::durability#in-the-transaction-of-the-result) goes into tables of yours that
/// the `search_path` of the connections finds.
///
/// It works under any executor. With the feature `tokio` and inside of tokio its connections use that; else
/// they use a thread of their own that waits for the network. Connections belong to the runtime in which
/// they were opened: a storage is of no use any more when that has ended.
///
/// For encrypted connections enable one of the `tls-…` features of the crate `sqlx` 0.9 in your own
/// `Cargo.toml`, and say `?sslmode=verify-full` in the URL; or bring your own pool, by
/// [`with_pool`](Self::with_pool).
///
/// # The schema
///
/// Times are microseconds since 1970 in UTC; `stepwell.moment(at)` makes `timestamptz` of them, and the
/// views have that. PostgreSQL has no text with U+0000: it is kept as U+001A and `0`, and U+001A as itself
/// twice. JSON is kept as `json`, as it was written: `jsonb` would lose the order of keys and digits of
/// numbers. What is written by hand is not checked.
///
/// | table | one row for each | columns |
/// | --- | --- | --- |
/// | `runs` | run | `run bigint`, `id text`, `workflow bigint`, `status text`, `created_at bigint`, `changed_at bigint`, `events bigint` (length of the journal), `state text` (`held`, `parked`, `finished`, `aside`), `owner uuid`, `due bigint`, `inbox bigint` (messages that wait), `posted bigint`, `answered bigint`, `recoveries bigint`, `problem text`, `user_name text`, `metadata json` |
/// | `workflows` | definition | `workflow bigint`, `id text`, `version bigint` (its author's, or null), `hash text` (its [digest](crate::Workflow::digest)), `definition json` |
/// | `run_workflows` | sub-workflow of a run | `run bigint`, `position integer`, `workflow bigint` |
/// | `events` | event of a journal | `run bigint`, `position bigint` (from 0), `at bigint`, `kind text`, `scope bigint` and `step bigint` (where it is about a step), `data json` |
/// | `snapshots` | run whose state was written | `run bigint`, `events bigint` (how many made it), `forgotten bigint` (events before this position are gone, but for those about what people did), `state text` (JSON) |
/// | `messages` | message without an answer | `run bigint`, `number bigint`, `message json` |
/// | `answers` | of the last answers of a run | `run bigint`, `position bigint`, `number bigint`, `rejection json` (null when it was done) |
/// | `locks` | lock with a rate | `lock text`, `next bigint` (when it could be taken at an even pace) |
/// | `lock_holders` | lock that a step holds | `lock text`, `run text` (id), `scope bigint`, `step bigint` |
/// | `owners` | engine | `owner uuid`, `beats bigint`, `state text` (`alive`, `retired`, `gone`) |
/// | `purged` | removed run whose blobs may be there still | `id text`, `workflow text` (id), `owner uuid` |
/// | `removed` | workflow of which runs were removed | `workflow text` (id), `runs bigint` (how many) |
/// | `migrations` | version of the schema | `version integer`, `at timestamp with time zone` |
///
/// | view | one row for each | columns |
/// | --- | --- | --- |
/// | `run_overview` | run | `run` (id), `workflow` (id), `version` and `definition` (first letters of the digest) of the workflow that it began with, `status`, `created_at`, `changed_at`, `events`, `forgotten`, `state`, `due`, `inbox`, `recoveries`, `problem`, `user_name` |
/// | `definition_changes` | other definition that a run was given | `run` (id), `position` (in its journal), `at`, `version`, `changed_by`, `why` |
/// | `step_states` | step of a run that has moved | `run` (id), `scope`, `step`, `name` (of outermost steps), `status`, `since`, `position` (of the event that says so); numbers are those of the definition of the time, names those of the one that the run began with |
/// | `workflow_steps` | outermost step of a definition | `workflow` (id), `version`, `definition` (first letters of the digest), `step` (number), `name` |
/// | `step_dependencies` | pair of outermost steps of which one comes after the other | `workflow` (id), `version`, `definition` (first letters of the digest), `name`, `depends_on`, `kind` (`after`, `on_success`, `on_failure`, `on_error`, `otherwise`, `always`: what the definition says), `class` (of errors; a step that is `finally` comes after all others, and is listed with none) |
///
/// Where `run_overview` says that something is `forgotten`, `events` lacks what happened before, and
/// `step_states` the steps that have not moved since.
///
/// What failed last, at which step, and why:
/// ```sql
/// SELECT runs.id, workflows.id AS workflow, stepwell.moment(events.at) AS at,
///   events.data #>> '{outcome,failed,step}' AS step,
///   events.data #>> '{outcome,failed,failure,message}' AS why
/// FROM stepwell.runs JOIN stepwell.workflows USING (workflow) JOIN stepwell.events USING (run)
/// WHERE runs.status = 'failed' AND events.kind = 'run_finished'
///   AND events.data #> '{outcome,failed}' IS NOT NULL
/// ORDER BY events.at DESC LIMIT 20;
/// ```
/// Which runs are set aside, as no engine could go on with them, or to wait for their turn, until when, why:
/// ```sql
/// SELECT run, workflow, due, problem FROM stepwell.run_overview WHERE state = 'aside';
/// ```
/// Which are in quarantine, since when, and how often they were taken from engines that were gone:
/// ```sql
/// SELECT runs.id, stepwell.moment(events.at) AS since, events.data ->> 'recoveries' AS recoveries
/// FROM stepwell.runs JOIN stepwell.events USING (run)
/// WHERE runs.status IN ('paused', 'cancelling') AND events.kind = 'run_quarantined'
///   AND NOT EXISTS (SELECT 1 FROM stepwell.events AS later WHERE later.run = events.run
///     AND later.position > events.position AND later.kind IN ('run_resumed', 'run_reopened'));
/// ```
/// Of which steps somebody has to say what became of them, and what is known:
/// ```sql
/// SELECT runs.id, events.scope, events.step, stepwell.moment(events.at) AS since,
///   events.data #>> '{failure,message}' AS why
/// FROM stepwell.runs JOIN stepwell.events USING (run)
/// WHERE runs.status IN ('running', 'paused', 'cancelling') AND events.kind = 'step_outcome_unknown'
///   AND NOT EXISTS (SELECT 1 FROM stepwell.events AS later WHERE later.run = events.run
///     AND later.position > events.position AND (later.scope, later.step) = (events.scope, events.step));
/// ```
/// Which decisions wait for whose vote, or for anybody's, where it names nobody:
/// ```sql
/// SELECT runs.id, stepwell.moment(events.at) AS since,
///   events.data #>> '{wait,approval,id}' AS approval, voter.who AS waits_for
/// FROM stepwell.runs JOIN stepwell.events USING (run)
/// LEFT JOIN LATERAL json_array_elements_text(events.data #> '{wait,approval,approvers}')
///   AS voter (who) ON true
/// WHERE runs.status IN ('running', 'paused', 'cancelling') AND events.kind = 'wait_started'
///   AND events.data #> '{wait,approval}' IS NOT NULL
///   AND NOT EXISTS (SELECT 1 FROM stepwell.events AS later WHERE later.run = events.run
///     AND later.position > events.position AND (later.scope, later.step) = (events.scope, events.step)
///     AND (later.kind <> 'voted' OR later.data #>> '{vote,by}' = voter.who));
/// ```
/// Who holds which lock, and when one with a rate could be taken at an even pace:
/// ```sql
/// SELECT lock, run, scope, step, workflow, status, stepwell.moment(next) AS next
/// FROM stepwell.lock_holders JOIN stepwell.run_overview USING (run)
/// LEFT JOIN stepwell.locks USING (lock) ORDER BY lock, run;
/// ```
/// How many runs each engine holds:
/// ```sql
/// SELECT owners.owner AS engine, owners.state, count(run) AS held
/// FROM stepwell.owners LEFT JOIN stepwell.runs USING (owner)
/// GROUP BY owners.owner ORDER BY held DESC;
/// ```
/// How many runs of which workflow are in which state:
/// ```sql
/// SELECT workflow, version, status, count(*) AS runs FROM stepwell.run_overview GROUP BY 1, 2, 3;
/// ```
/// How many runs there have ever been:
/// ```sql
/// SELECT (SELECT count(*) FROM stepwell.runs)
///   + (SELECT coalesce(sum(runs), 0) FROM stepwell.removed) AS runs;
/// ```
/// Which live runs are not at version 2 of a workflow:
/// ```sql
/// SELECT run, version, latest FROM stepwell.run_overview LEFT JOIN (
///   SELECT DISTINCT ON (run) run, version AS latest FROM stepwell.definition_changes
///   ORDER BY run, position DESC) AS changes USING (run)
/// WHERE workflow = 'w' AND status IN ('running', 'paused') AND coalesce(latest, version, 0) <> 2;
/// ```
/// What has happened to a run:
/// ```sql
/// SELECT position, stepwell.moment(at) AS at, kind, step, data
/// FROM stepwell.events WHERE run = (SELECT run FROM stepwell.runs WHERE id = 'order-4711')
/// ORDER BY position;
/// ```
/// Who has paused, resumed, cancelled, changed, decided or sent what, and why; a signal that was kept
/// until a step took it is listed twice:
/// ```sql
/// SELECT runs.id, stepwell.moment(events.at) AS at, events.kind,
///   coalesce(events.data #>> '{by,by}', events.data #>> '{vote,by}',
///     events.data #>> '{signal,by}') AS who,
///   coalesce(events.data #>> '{by,why}', events.data #>> '{vote,comment}') AS why,
///   coalesce(events.data -> 'operation', events.data -> 'vote', events.data -> 'signal') AS what
/// FROM stepwell.runs JOIN stepwell.events USING (run)
/// WHERE events.kind IN ('run_paused', 'run_resumed', 'run_cancel_requested', 'run_terminated',
///   'operated', 'voted', 'signal_received', 'signal_taken')
/// ORDER BY events.at DESC LIMIT 100;
/// ```
/// Where its steps stand:
/// ```sql
/// SELECT scope, step, name, status, since FROM stepwell.step_states WHERE run = 'order-4711';
/// ```
/// Which steps nothing has happened to so far, of live runs that still have the definition that they began with:
/// ```sql
/// SELECT runs.run, steps.step, steps.name FROM stepwell.run_overview AS runs
/// JOIN stepwell.workflow_steps AS steps USING (definition)
/// LEFT JOIN stepwell.step_states AS states ON states.run = runs.run AND states.scope = 0
///   AND states.step = steps.step
/// WHERE runs.status IN ('running', 'paused') AND states.step IS NULL
///   AND NOT EXISTS (SELECT 1 FROM stepwell.definition_changes AS changes WHERE changes.run = runs.run)
/// ORDER BY runs.run, steps.step;
/// ```
/// Which step of a workflow comes after which:
/// ```sql
/// SELECT name, depends_on, kind, class FROM stepwell.step_dependencies WHERE workflow = 'w'
/// ORDER BY name, depends_on;
/// ```
/// The slowest attempts of the steps of a workflow, in seconds:
/// ```sql
/// SELECT runs.id, began.step, max(ended.at - began.at) / 1e6 AS seconds
/// FROM stepwell.workflows JOIN stepwell.runs USING (workflow)
/// JOIN stepwell.events AS began ON began.run = runs.run AND began.kind = 'step_started'
/// JOIN stepwell.events AS ended ON ended.run = began.run AND ended.position > began.position
///   AND (ended.scope, ended.step) = (began.scope, began.step) AND ended.kind = 'step_succeeded'
/// WHERE workflows.id = 'w' GROUP BY runs.id, began.step ORDER BY seconds DESC LIMIT 10;
/// ```
/// What steps have come to:
/// ```sql
/// SELECT runs.id, events.step, events.data -> 'output' AS output
/// FROM stepwell.runs JOIN stepwell.events USING (run)
/// WHERE events.kind = 'step_succeeded' LIMIT 100;
/// ```
#[derive(Clone)]
pub struct Postgres(Arc<Opened>);

struct Opened {
    access: Arc<Access>,
    /// Writes to runs, each run's in one of them.
    lanes: Vec<Arc<Lane>>,
    workflows: Arc<Workflows>,
}

/// How a database is used.
///
/// ```no_run
/// # async fn example() -> stepwell::Result<()> {
/// use std::time::Duration;
/// use stepwell::storage::PostgresOptions;
///
/// let storage = PostgresOptions::new()
///     .schema("workflows")
///     .patience(Duration::from_secs(10))
///     .connect("postgres://app:password@db.example.com/app")
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    schema: String,
    connections: u32,
    patience: Duration,
    migration_patience: Duration,
    pooled: bool,
}

/// Bytes of a schema's name; what is longer PostgreSQL would cut off.
pub const SCHEMA_BYTES_MAX: usize = 63;

/// Writes that are under way at once: while the server writes one batch, the next is put together.
const LANES: usize = 2;

const READ_COMMITTED: &str =
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED";

/// Connections of a pool from which on each lane keeps one: enough are left for everything else.
const KEEP_FROM: u32 = 4;

impl PostgresOptions {
    /// The schema `stepwell`, ten connections, thirty seconds of patience, an hour of it for migrations,
    /// and no proxy that pools.
    #[must_use]
    pub fn new() -> Self {
        Self {
            schema: "stepwell".into(),
            connections: 10,
            patience: Duration::from_secs(30),
            migration_patience: Duration::from_secs(3_600),
            pooled: false,
        }
    }

    /// The schema that has our tables. Names that begin with `pg_` are the server's own.
    #[must_use]
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = name.into();
        self
    }

    /// Connections that are open at once, at most; at least one. Two of them write, if there are
    /// four. Not used with a pool of the host's.
    #[must_use]
    pub const fn connections(mut self, most: u32) -> Self {
        self.connections = most;
        self
    }

    /// How long anything but a migration waits for the server before it fails. A write that failed so
    /// may have been done all the same.
    #[must_use]
    pub const fn patience(mut self, wait: Duration) -> Self {
        self.patience = wait;
        self
    }

    /// How long [`migrate`](Postgres::migrate) waits for another program that migrates, and how long its
    /// own work may take then. For those who use a table that is to be changed it waits no longer than
    /// the usual [`patience`](Self::patience), as others wait with it.
    #[must_use]
    pub const fn migration_patience(mut self, wait: Duration) -> Self {
        self.migration_patience = wait;
        self
    }

    /// Counts on nothing that outlasts a transaction: needed behind a proxy that gives each transaction
    /// another session of the server, as PgBouncer does with `pool_mode = transaction`. Each call then
    /// takes some round trips more. A pool of the host's must not prepare statements on its own
    /// account either: `statement_cache_capacity(0)`.
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
        let mut pool = PgPoolOptions::new()
            .max_connections(self.connections.max(1))
            .acquire_timeout(self.patience.min(PATIENCE_MAX));
        if self.pooled {
            options = options.statement_cache_capacity(0).extra_float_digits(None);
        } else {
            // Whatever the role or the database has for others.
            pool = pool.after_connect(|connection, _| {
                Box::pin(async { connection.execute(READ_COMMITTED).await.map(drop) })
            });
        }
        let pool = pool.connect_lazy_with(options);
        self.with_pool(pool).await
    }

    /// Uses connections of the host's pool.
    ///
    /// # Errors
    /// As those of [`connect`](Self::connect).
    pub async fn with_pool(self, pool: PgPool) -> Result<Postgres> {
        let name = &self.schema;
        let is_reserved = name.starts_with("pg_");
        if name.is_empty() || name.len() > SCHEMA_BYTES_MAX || name.contains('\0') || is_reserved {
            let message = format!(
                "`{}` cannot be the name of a schema; use 1 to {SCHEMA_BYTES_MAX} bytes, and not `pg_` \
                 at the beginning, which is the server's own",
                name.escape_debug()
            );
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        let keep = pool.options().get_max_connections() >= KEEP_FROM;
        let fault = Fault::new(&pool.connect_options(), name);
        let sql = Sql::new(name, self.pooled);
        let (patience, migration) = (self.patience, self.migration_patience);
        let access = Arc::new(Access::new(pool, sql, fault, patience, migration));
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

    /// Makes the schema, or makes it the newest. Any number of programs may do so at once: one does it,
    /// and the others [wait](PostgresOptions::migration_patience). It happens as a whole or not at all.
    ///
    /// Older programs that are running notice with the next sign of life of their engines, and refuse the
    /// schema from then on. Engines that are served, or drive something, give one three times in a lease.
    /// Their runs go to engines of newer programs.
    ///
    /// # Errors
    /// `Storage` when the schema is another program's, or newer, or the user may not make it; transient
    /// when others migrate for too long, or use a table that is to be changed.
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
                done.unwrap_or_else(|error| Err(access.failed(&error)))
            };
            access.patiently(asking).await
        })
    }};
}

impl Storage for Postgres {
    fn news(&self, owner: Owner) -> BoxStream<'static, ()> {
        news::news(Arc::clone(&self.0.access), owner)
    }

    fn create(&self, run: NewRun) -> Reply<Result<Created>> {
        let id = run.id.clone();
        match rows_of(run, &self.0.workflows) {
            Ok(rows) => self.lane(&id).send(&id, |sender| Piece::Create(Box::new(rows), sender)),
            Err(error) => Reply::ready(Err(error.of_run(&id))),
        }
    }

    fn commit(&self, run: &RunId, mut commit: Commit) -> Reply<Result<Vec<Recorded>>> {
        let change = match Change::of(run, &commit, self.0.access.patience) {
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

    fn events(&self, run: &RunId, from: u64, limit: usize) -> Reply<Result<Vec<(u64, Recorded)>>> {
        let run = run.clone();
        ask!(self, One, |connection, sql| history::events(connection, sql, &run, from, limit))
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

    fn acquire(&self, run: &RunId, asked: Acquire) -> Reply<Result<Option<Denied>>> {
        let asked = Box::new((run.clone(), asked));
        self.lane(run).send(run, |sender| Piece::Acquire(asked, sender))
    }

    fn beat(&self, owner: Owner) -> Reply<Result<Vec<Beat>>> {
        let access = Arc::clone(&self.0.access);
        let asked = ask!(self, One, |connection, sql| owners::beat(connection, sql, owner));
        Reply::later(async move {
            match asked.await? {
                Some(beats) => Ok(beats),
                None => Err(access.changed().await),
            }
        })
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

    fn takes_writes(&self) -> bool {
        true
    }

    fn list(&self, query: RunQuery) -> Reply<Result<Vec<Summary>>> {
        ask!(self, One, |connection, sql| read::list(connection, sql, &query))
    }

    fn purge(&self, which: Purge) -> Reply<Result<Vec<RunId>>> {
        ask!(self, Whole, |connection, sql| purge::purge(connection, sql, &which))
    }

    fn clear(&self, owner: Owner, runs: Vec<RunId>) -> Reply<Result<()>> {
        ask!(self, One, |connection, sql| purge::clear(connection, sql, owner, &runs))
    }
}
