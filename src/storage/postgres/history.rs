//! Snapshots, and what is kept of journals that have them.

use sqlx::{PgConnection, Row};

use super::access::{Done, Sql};
use super::text::{decode, decode_json, encode};
use crate::id::RunId;
use crate::journal::{Event, Recorded, Snapshot};
use crate::storage::rows::{integer, recorded_of};

/// Replaces the snapshot of a run, and forgets what it says may be forgotten. In the transaction of the
/// commit that it came with, which has locked the run.
pub(super) async fn keep(
    connection: &mut PgConnection,
    sql: &Sql,
    run: &RunId,
    snapshot: &Snapshot,
) -> sqlx::Result<()> {
    let find = sql.query(
        "SELECT run, coalesce(forgotten, 0) FROM stepwell.runs LEFT JOIN stepwell.snapshots USING (run)
         WHERE id = $1",
    );
    let row = find.bind(run.as_str()).fetch_one(&mut *connection).await?;
    let (key, before): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let forgotten = integer(snapshot.forget.min(snapshot.events)).max(before);
    let put = sql.query(
        "INSERT INTO stepwell.snapshots (run, events, forgotten, state) VALUES ($1, $2, $3, $4)
         ON CONFLICT (run) DO UPDATE SET events = excluded.events, forgotten = excluded.forgotten,
           state = excluded.state",
    );
    let put = put.bind(key).bind(integer(snapshot.events)).bind(forgotten);
    put.bind(encode(&snapshot.state)).execute(&mut *connection).await?;
    let forget = sql.query(
        "DELETE FROM stepwell.events
         WHERE run = $1 AND position >= $2 AND position < $3 AND kind <> ALL ($4)",
    );
    let forget = forget.bind(key).bind(before).bind(forgotten).bind(&Event::KEPT[..]);
    forget.execute(connection).await.map(drop)
}

pub(super) async fn snapshot(
    connection: &mut PgConnection,
    sql: &Sql,
    key: i64,
) -> sqlx::Result<Option<Box<Snapshot>>> {
    let find = sql.query("SELECT events, forgotten, state FROM stepwell.snapshots WHERE run = $1");
    let Some(row) = find.bind(key).fetch_optional(connection).await? else { return Ok(None) };
    Ok(Some(Box::new(Snapshot {
        events: row.try_get::<i64, _>(0)?.unsigned_abs(),
        forget: row.try_get::<i64, _>(1)?.unsigned_abs(),
        state: decode(row.try_get(2)?),
    })))
}

pub(super) async fn events(
    connection: &mut PgConnection,
    sql: &Sql,
    run: &RunId,
    from: u64,
    limit: usize,
) -> Done<Vec<(u64, Recorded)>> {
    let find = sql.query(
        "SELECT position, at, kind, data::text FROM stepwell.events
         WHERE run = (SELECT run FROM stepwell.runs WHERE id = $1) AND position >= $2
         ORDER BY position LIMIT $3",
    );
    let find = find.bind(run.as_str()).bind(integer(from)).bind(integer(limit));
    let mut events = Vec::new();
    for row in find.fetch_all(connection).await? {
        let data = row.try_get::<Option<&str>, _>(3)?.map(decode_json);
        match recorded_of(row.try_get(1)?, row.try_get(2)?, data.as_deref(), run) {
            Ok(recorded) => events.push((row.try_get::<i64, _>(0)?.unsigned_abs(), recorded)),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(events))
}
