//! Locks as rows, by the rules of those in memory.

use sqlx::{PgConnection, Row};

use super::access::{Done, Sql};
use super::text::encode;
use super::write::uuid_of;
use crate::error::Result;
use crate::id::RunId;
use crate::run::Want;
use crate::storage::locks::{HOLDERS_NAMED, taken, too_early};
use crate::storage::rows::integer;
use crate::storage::{Acquire, Denied, conflict, not_found};
use crate::time::Timestamp;

/// For a step of which run.
pub(super) type Asked = (RunId, Acquire);

/// One after the other, in one transaction.
pub(super) async fn all(
    connection: &mut PgConnection,
    sql: &Sql,
    asked: &[Box<Asked>],
) -> Done<Vec<Result<Option<Denied>>>> {
    let mut answers = Vec::with_capacity(asked.len());
    for asked in asked {
        answers.push(acquire(connection, sql, &asked.0, &asked.1).await?);
    }
    Ok(Ok(answers))
}

/// Gives a step all of these, or none and says why. Inside of a transaction.
async fn acquire(
    connection: &mut PgConnection,
    sql: &Sql,
    run: &RunId,
    asked: &Acquire,
) -> Done<Option<Denied>> {
    // Its row stays as it is until the end of the transaction.
    let fence = sql.query(
        "SELECT events = $2 AND coalesce(owner = $3, false)
           AND status NOT IN ('succeeded', 'failed', 'cancelled', 'timed_out')
         FROM stepwell.runs WHERE id = $1 FOR SHARE",
    );
    let fence = fence.bind(run.as_str()).bind(integer(asked.expected)).bind(uuid_of(asked.owner));
    let fits = fence.fetch_optional(&mut *connection).await?;
    match fits.map(|row| row.try_get(0)).transpose()? {
        None => return Ok(Err(not_found(run))),
        Some(false) => return Ok(Err(conflict(run))),
        Some(true) => {}
    }
    alone(connection, sql, asked).await?;
    for want in &asked.wants {
        if let Some(denied) = refuse(connection, sql, run, asked, want).await? {
            return Ok(Ok(Some(denied)));
        }
    }
    for want in &asked.wants {
        give(connection, sql, run, asked, want).await?;
    }
    if asked.wants.iter().any(|want| want.rate.is_some()) {
        // It says nothing any more: keys come and go, and would become many.
        let forget = sql.query(
            "DELETE FROM stepwell.locks WHERE lock IN (
               SELECT lock FROM stepwell.locks WHERE next <= $1 FOR UPDATE SKIP LOCKED
             )",
        );
        forget.bind(asked.now.as_micros()).execute(&mut *connection).await?;
    }
    Ok(Ok(None))
}

/// Waits until nobody else asks for any of these locks: a lock has no row to wait for before it is held.
/// In one order, so that nobody waits for somebody who waits for him.
async fn alone(connection: &mut PgConnection, sql: &Sql, asked: &Acquire) -> sqlx::Result<()> {
    let lock = sql.query(
        "SELECT pg_advisory_xact_lock(key) FROM (
           SELECT DISTINCT hashtextextended('lock ' || $1 || ' ' || lock, 0) AS key
           FROM unnest($2::text[]) AS wanted (lock) ORDER BY key
         ) AS keys",
    );
    let names: Vec<_> = asked.wants.iter().map(|want| encode(&want.lock).into_owned()).collect();
    lock.bind(sql.name()).bind(names).execute(connection).await.map(drop)
}

async fn refuse(
    connection: &mut PgConnection,
    sql: &Sql,
    run: &RunId,
    asked: &Acquire,
    want: &Want,
) -> sqlx::Result<Option<Denied>> {
    let look = sql.query(
        "SELECT EXISTS (SELECT FROM stepwell.lock_holders
                        WHERE lock = $1 AND run = $2 AND scope = $3 AND step = $4),
           (SELECT count(*) FROM stepwell.lock_holders WHERE lock = $1),
           ARRAY (SELECT DISTINCT run FROM stepwell.lock_holders WHERE lock = $1 LIMIT $5),
           (SELECT next FROM stepwell.locks WHERE lock = $1)",
    );
    let name = encode(&want.lock);
    let look = look.bind(&*name).bind(run.as_str()).bind(i64::from(asked.step.scope));
    let look = look.bind(i64::from(asked.step.step)).bind(HOLDERS_NAMED as i64);
    let row = look.fetch_one(connection).await?;
    if row.try_get(0)? {
        return Ok(None);
    }
    let lock = want.lock.clone();
    if want.max.is_some_and(|max| row.try_get(1).is_ok_and(|held: i64| held >= i64::from(max))) {
        let holders: Vec<String> = row.try_get(2)?;
        let holders = holders.into_iter().filter_map(|run| RunId::new(run).ok()).collect();
        return Ok(Some(Denied { lock, until: None, holders }));
    }
    let next: Option<i64> = row.try_get(3)?;
    let until = too_early(want.rate, next.map(Timestamp::from_micros), asked.now);
    Ok(until.map(|until| Denied { lock, until: Some(until), holders: Vec::new() }))
}

async fn give(
    connection: &mut PgConnection,
    sql: &Sql,
    run: &RunId,
    asked: &Acquire,
    want: &Want,
) -> sqlx::Result<()> {
    let name = encode(&want.lock);
    let insert = sql.query(
        "WITH given AS (
           INSERT INTO stepwell.lock_holders (lock, run, scope, step) VALUES ($1, $2, $3, $4)
           ON CONFLICT DO NOTHING RETURNING lock
         )
         SELECT (SELECT next FROM stepwell.locks WHERE lock = $1) FROM given",
    );
    let insert = insert.bind(&*name).bind(run.as_str()).bind(i64::from(asked.step.scope));
    let insert = insert.bind(i64::from(asked.step.step));
    let Some(row) = insert.fetch_optional(&mut *connection).await? else { return Ok(()) };
    let before: Option<i64> = row.try_get(0)?;
    let after = taken(want.rate, before.map(Timestamp::from_micros), asked.now);
    if let Some(after) = after.map(Timestamp::as_micros).filter(|after| Some(*after) != before) {
        let set = sql.query(
            "INSERT INTO stepwell.locks AS locks (lock, next) VALUES ($1, $2)
             ON CONFLICT (lock) DO UPDATE SET next = $2",
        );
        set.bind(&*name).bind(after).execute(connection).await?;
    }
    Ok(())
}
