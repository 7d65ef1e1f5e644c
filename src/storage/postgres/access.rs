//! The way to the server: connections, statements with the schema put in, transactions, patience.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{io, mem};

use futures::future::{Either, select};
use futures_timer::Delay;
use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Row, Transaction};

use super::fault::Fault;
use super::schema::{self, Found};
use crate::error::{Error, Result};

/// What a piece of work came to: an error of the database, or an answer, which may be a refusal that has
/// changed nothing.
pub(super) type Done<T> = sqlx::Result<Result<T>>;

/// What a piece of work needs of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// A single statement.
    One,
    /// Several statements that read as of one moment.
    Moment,
    /// Several statements that write all or nothing.
    Whole,
}

/// How long the server keeps a transaction of somebody who says nothing, and with it the rows that are
/// locked: whoever vanished in the middle is not waited for longer.
const BEGIN_WHOLE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED;
    SET LOCAL idle_in_transaction_session_timeout = '30s'";

const BEGIN_MOMENT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL idle_in_transaction_session_timeout = '30s'";

pub(super) struct Access {
    pub(super) pool: PgPool,
    pub(super) sql: Sql,
    pub(super) fault: Fault,
    pub(super) patience: Duration,
    /// That of migrations.
    long_patience: Duration,
    /// Whether the schema is known to be the newest.
    checked: AtomicBool,
}

/// What is waited for at most: the longest time that a setting of the server takes.
pub(super) const PATIENCE_MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// A statement with its values.
pub(super) type Statement = Query<'static, sqlx::Postgres, PgArguments>;

/// Makes statements for a schema.
#[derive(Clone)]
pub(super) struct Sql {
    name: Arc<str>,
    /// Quoted, with the dot behind it.
    schema: Arc<str>,
    /// Whether each transaction may be given to another session of the server: then none may count on
    /// what another has prepared.
    pooled: bool,
}

impl Sql {
    pub(super) fn new(schema: &str, pooled: bool) -> Self {
        let quoted = format!("\"{}\".", schema.replace('"', "\"\""));
        Self { name: schema.into(), schema: quoted.into(), pooled }
    }

    /// The name of the schema.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether no session lasts longer than a transaction.
    pub(super) const fn is_pooled(&self) -> bool {
        self.pooled
    }

    /// The name as a statement has it.
    pub(super) fn quoted(&self) -> &str {
        self.schema.trim_end_matches('.')
    }

    /// A statement that names our tables as `stepwell.table`.
    pub(super) fn query(&self, text: &str) -> Statement {
        let text = AssertSqlSafe(self.put_in(text));
        sqlx::query(text).persistent(!self.pooled)
    }

    pub(super) fn put_in(&self, text: &str) -> String {
        text.replace("stepwell.", &self.schema)
    }
}

impl Access {
    pub(super) fn new(
        pool: PgPool,
        sql: Sql,
        fault: Fault,
        patience: Duration,
        long_patience: Duration,
    ) -> Self {
        let patience = patience.min(PATIENCE_MAX);
        let long_patience = long_patience.min(PATIENCE_MAX);
        Self { pool, sql, fault, patience, long_patience, checked: AtomicBool::new(false) }
    }

    /// A connection, once the schema is known to be the newest.
    pub(super) async fn connection(&self) -> Result<Held> {
        let mut held = self.acquire().await?;
        if !self.is_checked() {
            schema::must_be_newest(self.inspect(&mut held).await?, &self.fault)?;
            self.checked.store(true, Ordering::Relaxed);
        }
        Ok(held)
    }

    /// Whether nobody has seen that the schema might not be the newest any more.
    pub(super) fn is_checked(&self) -> bool {
        self.checked.load(Ordering::Relaxed)
    }

    /// What a schema that has another version is to whoever has found it so. Everybody looks from now on.
    pub(super) async fn changed(&self) -> Error {
        self.checked.store(false, Ordering::Relaxed);
        match self.patiently(self.connection()).await {
            Ok(_) => self.fault.error("the schema was just changed; try again").transient(),
            Err(error) => error,
        }
    }

    /// A statement that cannot be understood may be so because the schema is another by now.
    pub(super) fn failed(&self, error: &sqlx::Error) -> Error {
        let code = error.as_database_error().and_then(DatabaseError::code);
        if code.is_some_and(|code| code.starts_with("42")) {
            self.checked.store(false, Ordering::Relaxed);
        }
        self.fault.of(error)
    }

    /// A connection as soon as one is free. Without tokio nobody overtakes in the line of a pool: a
    /// future that stands first there and is not polled any more would hold up all others. So a task
    /// stands there, and such a future keeps no more from others than the connection that it was given.
    async fn acquire(&self) -> Result<Held> {
        let (pool, patience) = (self.pool.clone(), self.patience);
        let wait = async move {
            let connection = Some(pool.acquire().await?);
            Ok(Held { connection, usable: true, patience })
        };
        let held = if cfg!(feature = "tokio") { wait.await } else { smol::spawn(wait).await };
        held.map_err(|error| self.fault.of(&error))
    }

    async fn inspect(&self, held: &mut Held) -> Result<Found> {
        let look = async {
            let mut open = self.open(held, Scope::One).await?;
            let found = schema::inspect(&mut open, &self.sql).await?;
            open.close(found).await
        };
        let done = look.await;
        held.settle(&done);
        done.map_err(|error| self.fault.of(&error))?
    }

    /// Connects, and fails if the schema is newer than this program.
    pub(super) async fn try_out(&self) -> Result<()> {
        self.patiently(async {
            let mut held = self.acquire().await?;
            let found = self.inspect(&mut held).await?;
            schema::must_not_be_newer(found, &self.fault)?;
            if self.sql.is_pooled() { Ok(()) } else { self.must_read_committed(&mut held).await }
        })
        .await
    }

    /// A single statement has the isolation that sessions begin with, and is to see what was committed
    /// while it waited for a row.
    async fn must_read_committed(&self, held: &mut Held) -> Result<()> {
        let look = async {
            let mut open = self.open(held, Scope::One).await?;
            let look = self.sql.query("SELECT current_setting('default_transaction_isolation')");
            let level: String = look.fetch_one(&mut *open).await?.try_get(0)?;
            open.close(Ok(level)).await
        };
        let done = look.await;
        held.settle(&done);
        match done.map_err(|error| self.fault.of(&error))??.as_str() {
            "read committed" => Ok(()),
            level => Err(self.fault.isolated(level)),
        }
    }

    /// Makes the schema the newest.
    pub(super) async fn migrate(&self) -> Result<()> {
        let mut held = self.patiently(self.acquire()).await?;
        let change = async {
            let mut open = self.open(&mut held, Scope::Whole).await?;
            let waits = (self.long_patience, self.patience);
            let done = schema::migrate(&mut open, &self.sql, &self.fault, waits).await?;
            open.close(done).await
        };
        // Should others migrate, the server is to say so first.
        let limit = self.long_patience.saturating_mul(2).saturating_add(self.patience);
        let done = within(limit.min(PATIENCE_MAX), change).await;
        // What was let go in the middle is closed.
        let Some(done) = done else { return Err(self.fault.silent(limit)) };
        held.settle(&done);
        done.unwrap_or_else(|error| Err(self.fault.of(&error)))
    }

    /// Begins something, which must be closed; then the connection must be settled.
    pub(super) async fn open<'c>(
        &self,
        held: &'c mut Held,
        scope: Scope,
    ) -> sqlx::Result<Open<'c>> {
        let connection = held.begin()?;
        let begin = match scope {
            Scope::One if !self.sql.pooled => return Ok(Open::Plain(connection)),
            Scope::Moment => BEGIN_MOMENT,
            Scope::One | Scope::Whole => BEGIN_WHOLE,
        };
        connection.begin_with(begin).await.map(Open::Whole)
    }

    /// Fails when it takes too long: whom nobody answers cannot know whether it was done.
    pub(super) async fn patiently<T>(
        &self,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let done = within(self.patience, work).await;
        done.unwrap_or_else(|| Err(self.fault.silent(self.patience)))
    }
}

pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = T> + Send) -> Option<T> {
    match select(pin!(work), Delay::new(limit)).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(((), _)) => None,
    }
}

/// Something that has begun. What is dropped without being closed has not happened, unless it was a
/// single statement.
pub(super) enum Open<'c> {
    Plain(&'c mut PgConnection),
    Whole(Transaction<'c, sqlx::Postgres>),
}

impl Open<'_> {
    /// A refusal changes nothing.
    pub(super) async fn close<T>(self, done: Result<T>) -> Done<T> {
        match (self, done.is_ok()) {
            (Self::Plain(_), _) => {}
            (Self::Whole(transaction), true) => transaction.commit().await?,
            (Self::Whole(transaction), false) => transaction.rollback().await?,
        }
        Ok(done)
    }
}

impl Deref for Open<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Plain(connection) => connection,
            Self::Whole(transaction) => transaction,
        }
    }
}

impl DerefMut for Open<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Plain(connection) => connection,
            Self::Whole(transaction) => transaction,
        }
    }
}

/// A connection that goes back to the pool when it was used to the end of something, and is closed when
/// it was let go in the middle.
pub(super) struct Held {
    connection: Option<PoolConnection<sqlx::Postgres>>,
    usable: bool,
    patience: Duration,
}

impl Held {
    /// Until it is settled, it is in the middle of something.
    fn begin(&mut self) -> sqlx::Result<&mut PgConnection> {
        let usable = mem::replace(&mut self.usable, false);
        let connection = self.connection.as_deref_mut().filter(|_| usable);
        connection.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected).into())
    }

    /// Says what was done with it.
    pub(super) fn settle<T>(&mut self, done: &sqlx::Result<T>) {
        self.usable = !done.as_ref().is_err_and(super::fault::is_lost);
    }

    pub(super) const fn is_usable(&self) -> bool {
        self.usable
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if !self.usable {
            connection.close_on_drop();
            return;
        }
        // On its way back it is asked whether it still lives. By itself the pool would wait for the
        // answer for as long as it takes, and with the place of the connection: a network that swallows
        // what is said would have cost all places in time.
        let back = connection.return_to_pool();
        let patience = self.patience;
        // What does not answer is closed.
        let back = async move { within(patience, back).await };
        smol::spawn(back).detach();
    }
}
