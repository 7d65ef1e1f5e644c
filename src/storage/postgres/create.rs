//! Adding runs, and the definitions that they need.

use std::collections::BTreeMap;
use std::iter;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;
use sqlx::{PgConnection, Row};

use super::access::{Done, Sql};
use super::text::{encode, encode_json};
use super::write::{EventColumns, holder};
use crate::error::Result;
use crate::storage::rows::NewRows;
use crate::storage::workflows::{KEPT_MAX, Workflows, Written};
use crate::storage::{Created, NewRun, conflict};

/// The numbers that definitions have in the database, by their hashes.
#[derive(Default)]
pub(super) struct Numbers(Mutex<FxHashMap<Arc<str>, i64>>);

impl Numbers {
    fn known(&self) -> MutexGuard<'_, FxHashMap<Arc<str>, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, workflow: &Written) -> Option<i64> {
        self.known().get(&workflow.hash).copied()
    }

    fn keep(&self, workflow: &Written, number: i64) {
        let mut known = self.known();
        if known.len() >= KEPT_MAX {
            known.clear();
        }
        known.insert(Arc::clone(&workflow.hash), number);
    }

    /// Definitions may have been removed.
    pub(super) fn forget(&self) {
        self.known().clear();
    }
}

/// A run to be added, with its texts as they are kept.
pub(super) fn rows_of(run: NewRun, workflows: &Workflows) -> Result<NewRows> {
    let rows = NewRows::of(run, workflows)?;
    let user = rows.user.map(|user| encode(&user).into_owned());
    let metadata = rows.metadata.map(|json| encode_json(&json).into_owned());
    Ok(NewRows { user, metadata, ..rows })
}

/// The first part reads nothing: it has this wait, before it looks at anything, for whoever is just
/// removing runs.
const CREATE: &str = "
WITH settled AS (
  SELECT FROM stepwell.purged WHERE false FOR KEY SHARE
), given AS (
  SELECT * FROM unnest(
    $1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[],
    $8::uuid[], $9::bigint[], $10::text[], $11::text[]
  ) WITH ORDINALITY AS given (
    id, workflow, status, created_at, changed_at, events, state, owner, due, user_name, metadata, place
  )
), made AS (
  INSERT INTO stepwell.runs (
    id, workflow, status, created_at, changed_at, events, state, owner, due, user_name, metadata
  )
  SELECT id, workflow, status, created_at, changed_at, events, state, owner, due, user_name,
    metadata::json
  FROM given WHERE NOT EXISTS (SELECT FROM stepwell.purged WHERE purged.id = given.id)
  ORDER BY id
  ON CONFLICT (id) DO NOTHING
  RETURNING run, id
), placed AS MATERIALIZED (
  SELECT made.run, given.place, given.state = 'parked' AND given.due IS NOT NULL AS is_due
  FROM made JOIN given USING (id)
), linked AS (
  INSERT INTO stepwell.run_workflows (run, position, workflow)
  SELECT placed.run, link.position, link.workflow
  FROM placed JOIN unnest($12::integer[], $13::integer[], $14::bigint[])
    AS link (place, position, workflow) ON link.place = placed.place
), appended AS (
  INSERT INTO stepwell.events (run, position, at, kind, scope, step, data)
  SELECT placed.run, event.position, event.at, event.kind, event.scope, event.step, event.data::json
  FROM placed JOIN unnest(
    $15::integer[], $16::bigint[], $17::bigint[], $18::text[], $19::bigint[], $20::bigint[],
    $21::text[]
  ) AS event (place, position, at, kind, scope, step, data) ON event.place = placed.place
)
SELECT place::bigint, CASE WHEN is_due THEN pg_notify($22, '')::text END FROM placed";

/// Whether each was added; their ids differ.
pub(super) async fn create(
    connection: &mut PgConnection,
    sql: &Sql,
    numbers: &Numbers,
    runs: &[Box<NewRows>],
) -> Done<Vec<Result<Created>>> {
    let workflows = Definitions::of(&mut *connection, sql, numbers, runs).await?;
    let made = insert(&mut *connection, sql, runs, workflows).await?;
    let taken = runs.iter().zip(&made).filter(|(_, made)| !**made).map(|(run, _)| run.id.as_str());
    let mut whose = whose(connection, sql, taken.collect()).await?;
    let answers = runs.iter().zip(made).map(|(run, made)| match whose.remove(run.id.as_str()) {
        _ if made => Ok(Created::New),
        Some(workflow) => Ok(Created::Exists(workflow)),
        // It was removed between the two looks.
        None => Err(conflict(&run.id).transient()),
    });
    Ok(Ok(answers.collect()))
}

/// The same in a transaction, within which nobody removes a definition: no number is known beforehand,
/// and none that was looked up is wrong when it is used.
pub(super) async fn create_settled(
    connection: &mut PgConnection,
    sql: &Sql,
    runs: &[Box<NewRows>],
) -> Done<Vec<Result<Created>>> {
    let settle = sql.query("LOCK TABLE stepwell.purged IN ROW SHARE MODE");
    settle.execute(&mut *connection).await?;
    create(connection, sql, &Numbers::default(), runs).await
}

/// The numbers of the definitions that runs need.
#[derive(Default)]
struct Definitions {
    of: Vec<i64>,
    /// Those of sub-workflows, by the place of the run and theirs in it.
    place: Vec<i32>,
    position: Vec<i32>,
    linked: Vec<i64>,
}

impl Definitions {
    /// Writes those that are not there. In a transaction others wait for what it has written: all write
    /// in the order of hashes, so that nobody waits for somebody who waits for him.
    async fn of(
        connection: &mut PgConnection,
        sql: &Sql,
        numbers: &Numbers,
        runs: &[Box<NewRows>],
    ) -> sqlx::Result<Self> {
        let mut needed = BTreeMap::new();
        for workflow in runs.iter().flat_map(|run| iter::once(&run.workflow).chain(&run.linked)) {
            needed.entry(&*workflow.hash).or_insert((workflow, 0));
        }
        for (workflow, found) in needed.values_mut() {
            *found = number(&mut *connection, sql, numbers, workflow).await?;
        }
        let number =
            |workflow: &Written| needed.get(&*workflow.hash).map_or(0, |(_, number)| *number);
        let mut all = Self::default();
        for (place, run) in (1_i32..).zip(runs) {
            all.of.push(number(&run.workflow));
            for (position, linked) in (0_i32..).zip(&run.linked) {
                all.linked.push(number(linked));
                all.place.push(place);
                all.position.push(position);
            }
        }
        Ok(all)
    }
}

/// Whether each is new.
async fn insert(
    connection: &mut PgConnection,
    sql: &Sql,
    runs: &[Box<NewRows>],
    workflows: Definitions,
) -> sqlx::Result<Vec<bool>> {
    let mut events = EventColumns::default();
    for (place, run) in (1_i32..).zip(runs) {
        events.add(place, 0, &run.events);
    }
    let query = sql
        .query(CREATE)
        .bind(runs.iter().map(|run| run.id.as_str()).collect::<Vec<_>>())
        .bind(workflows.of)
        .bind(runs.iter().map(|run| run.status).collect::<Vec<_>>())
        .bind(runs.iter().map(|run| run.created_at).collect::<Vec<_>>())
        .bind(runs.iter().map(|run| run.changed_at()).collect::<Vec<_>>())
        .bind(runs.iter().map(|run| run.events.len()).collect::<Vec<_>>())
        .bind(runs.iter().map(|run| run.holding.state).collect::<Vec<_>>())
        .bind(runs.iter().map(|run| holder(&run.holding)).collect::<Vec<_>>())
        .bind(runs.iter().map(|run| run.holding.due).collect::<Vec<_>>())
        .bind(runs.iter().map(|run| run.user.as_deref()).collect::<Vec<_>>())
        .bind(runs.iter().map(|run| run.metadata.as_deref()).collect::<Vec<_>>())
        .bind(workflows.place)
        .bind(workflows.position)
        .bind(workflows.linked);
    let mut made = vec![false; runs.len()];
    let query = events.bind(query).bind(sql.name().to_owned());
    for row in query.fetch_all(connection).await? {
        let place = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0);
        if let Some(made) = made.get_mut(place.wrapping_sub(1)) {
            *made = true;
        }
    }
    Ok(made)
}

/// The workflows of the runs with these ids.
async fn whose(
    connection: &mut PgConnection,
    sql: &Sql,
    ids: Vec<&str>,
) -> sqlx::Result<FxHashMap<String, String>> {
    let mut whose = FxHashMap::default();
    if !ids.is_empty() {
        let find = sql.query(
            "SELECT runs.id, workflows.id FROM stepwell.runs JOIN stepwell.workflows USING (workflow)
             WHERE runs.id = ANY ($1)
             UNION ALL SELECT id, workflow FROM stepwell.purged WHERE id = ANY ($1)",
        );
        for row in find.bind(ids).fetch_all(connection).await? {
            whose.insert(row.try_get(0)?, row.try_get(1)?);
        }
    }
    Ok(whose)
}

/// The number of a definition, which is written if it is not there.
async fn number(
    connection: &mut PgConnection,
    sql: &Sql,
    numbers: &Numbers,
    workflow: &Written,
) -> sqlx::Result<i64> {
    if let Some(number) = numbers.of(workflow) {
        return Ok(number);
    }
    loop {
        let find = sql.query("SELECT workflow FROM stepwell.workflows WHERE hash = $1");
        if let Some(row) = find.bind(&*workflow.hash).fetch_optional(&mut *connection).await? {
            let number = row.try_get(0)?;
            numbers.keep(workflow, number);
            return Ok(number);
        }
        // Somebody else may write the same one: then it is looked for again.
        let insert = sql.query(
            "INSERT INTO stepwell.workflows (id, version, hash, definition)
             VALUES ($1, $2, $3, $4::json) ON CONFLICT DO NOTHING",
        );
        let insert = insert.bind(workflow.id()).bind(workflow.version().map(i64::from));
        let insert = insert.bind(&*workflow.hash);
        insert.bind(encode_json(&workflow.json()).as_ref()).execute(&mut *connection).await?;
    }
}
