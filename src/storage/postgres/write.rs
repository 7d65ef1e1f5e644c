//! Adding runs, appending to them, and saying something to them: many at a time, each on its own.
//!
//! Whoever changes a run locks its row first, in the order of ids, so that nobody waits for somebody who
//! waits for him. Under READ COMMITTED a row that was waited for is read again as it is then, so what is
//! compared with is what is there.

use std::borrow::Cow;
use std::time::Duration;

use rustc_hash::FxHashMap;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::access::{Done, Sql, Statement};
use super::guests::Guests;
use super::history;
use super::text::{encode, encode_json};
use crate::error::Result;
use crate::id::{RunId, StepKey};
use crate::journal::Snapshot;
use crate::storage::rows::{Events, HoldingRow, integer, status_word, to_json};
use crate::storage::{ANSWERS_KEPT, Answer, Commit, Message, Owner, conflict, not_found};
use crate::time::Timestamp;

pub(super) const fn uuid_of(owner: Owner) -> Uuid {
    Uuid::from_u128(owner.0)
}

/// The events of several runs as columns; `place` says of which.
#[derive(Default)]
pub(super) struct EventColumns<'a> {
    place: Vec<i32>,
    position: Vec<i64>,
    at: Vec<i64>,
    kind: Vec<&'a str>,
    scope: Vec<Option<i64>>,
    step: Vec<Option<i64>>,
    data: Vec<Option<Cow<'a, str>>>,
}

impl<'a> EventColumns<'a> {
    pub(super) fn add(&mut self, place: i32, from: i64, events: &'a Events) {
        for (number, row) in (0..).zip(events.rows()) {
            self.place.push(place);
            // A place that cannot be is refused by the length.
            self.position.push(from.saturating_add(number));
            self.at.push(row.at);
            self.kind.push(row.kind);
            self.scope.push(row.scope.map(i64::from));
            self.step.push(row.step.map(i64::from));
            self.data.push(row.data.map(encode_json));
        }
    }

    /// Gives a statement its last seven values.
    pub(super) fn bind(self, query: Statement) -> Statement {
        let data: Vec<Option<&str>> = self.data.iter().map(Option::as_deref).collect();
        let query = query.bind(self.place).bind(self.position).bind(self.at).bind(self.kind);
        query.bind(self.scope).bind(self.step).bind(data)
    }
}

/// A change of a run, with its columns.
pub(super) struct Change {
    run: RunId,
    owner: Uuid,
    expected: i64,
    events: Events,
    status: &'static str,
    is_end: bool,
    /// None says that it was done.
    answers: Vec<(i64, Option<String>)>,
    holding: HoldingRow,
    released: Vec<StepKey>,
    recovered: bool,
    guests: Option<Guests>,
    snapshot: Option<Box<Snapshot>>,
}

impl Change {
    pub(super) fn of(run: &RunId, commit: &Commit, patience: Duration) -> Result<Self> {
        Ok(Self {
            run: run.clone(),
            owner: uuid_of(commit.owner),
            expected: integer(commit.expected),
            events: Events::of(&commit.events)?,
            status: status_word(commit.status),
            is_end: commit.status.is_end(),
            answers: answers(&commit.answers)?,
            holding: commit.holding.into(),
            released: commit.released.clone(),
            recovered: commit.recovered,
            guests: Guests::of(commit, patience),
            snapshot: commit.snapshot.clone(),
        })
    }

    /// Whether it needs several statements, and so a transaction of its own.
    pub(super) const fn is_alone(&self) -> bool {
        self.snapshot.is_some() || self.guests.is_some()
    }

    /// Some of how much it is to send.
    pub(super) fn bytes(&self) -> usize {
        self.events.bytes()
    }
}

/// A message has one answer, the first that is given.
fn answers(given: &[(u64, Answer)]) -> Result<Vec<(i64, Option<String>)>> {
    let mut answers: Vec<(i64, Option<String>)> = Vec::with_capacity(given.len());
    for (number, answer) in given {
        let number = integer(*number);
        if given.len() == 1 || answers.iter().all(|(other, _)| *other != number) {
            let rejection = answer.as_ref().err().map(to_json).transpose()?;
            answers.push((number, rejection.map(|json| encode_json(&json).into_owned())));
        }
    }
    Ok(answers)
}

const COMMIT: &str = "
WITH given AS (
  SELECT * FROM unnest(
    $1::text[], $2::bigint[], $3::uuid[], $4::bigint[], $5::bigint[], $6::text[], $7::boolean[],
    $8::text[], $9::uuid[], $10::bigint[], $11::boolean[]
  ) WITH ORDINALITY AS given (
    id, expected, writer, length, last_at, status, is_end, state, owner, due, recovered, place
  )
), locked AS MATERIALIZED (
  SELECT given.*, runs.run, runs.events AS found, runs.owner AS holder, runs.answered
  FROM given JOIN stepwell.runs ON runs.id = given.id
  ORDER BY runs.id FOR UPDATE OF runs
), fits AS MATERIALIZED (
  SELECT * FROM locked WHERE found = expected AND coalesce(holder = writer, true)
), heard AS (
  DELETE FROM stepwell.messages
  USING fits, unnest($12::bigint[], $13::bigint[], $14::text[]) WITH ORDINALITY
    AS answer (place, number, rejection, turn)
  WHERE answer.place = fits.place AND messages.run = fits.run AND messages.number = answer.number
  RETURNING fits.run, fits.answered, answer.number, answer.rejection, answer.turn
), kept AS (
  INSERT INTO stepwell.answers (run, position, number, rejection)
  SELECT run, answered + row_number() OVER (PARTITION BY run ORDER BY turn), number, rejection::json
  FROM heard
), counted AS MATERIALIZED (
  SELECT run, answered, count(*) AS heard FROM heard GROUP BY run, answered
), forgotten AS (
  DELETE FROM stepwell.answers USING counted
  WHERE answers.run = counted.run AND answers.position <= counted.answered + counted.heard - $15
), released AS (
  DELETE FROM stepwell.lock_holders USING fits
  WHERE lock_holders.run = fits.id AND (fits.is_end OR EXISTS (
    SELECT FROM unnest($16::bigint[], $17::bigint[], $18::bigint[]) AS released (place, scope, step)
    WHERE released.place = fits.place
      AND released.scope = lock_holders.scope AND released.step = lock_holders.step
  )) AND (fits.is_end OR fits.place = ANY ($16))
), changed AS (
  UPDATE stepwell.runs SET
    events = fits.expected + fits.length,
    changed_at = coalesce(fits.last_at, runs.changed_at),
    status = fits.status,
    state = fits.state,
    owner = fits.owner,
    due = fits.due,
    problem = CASE WHEN fits.state = 'aside' THEN runs.problem END,
    recoveries = CASE WHEN fits.recovered THEN 0 ELSE runs.recoveries END,
    inbox = runs.inbox - coalesce(counted.heard, 0),
    answered = runs.answered + coalesce(counted.heard, 0)
  FROM fits LEFT JOIN counted USING (run)
  WHERE runs.run = fits.run
), appended AS (
  INSERT INTO stepwell.events (run, position, at, kind, scope, step, data)
  SELECT fits.run, event.position, event.at, event.kind, event.scope, event.step, event.data::json
  FROM fits JOIN unnest(
    $19::integer[], $20::bigint[], $21::bigint[], $22::text[], $23::bigint[], $24::bigint[],
    $25::text[]
  ) AS event (place, position, at, kind, scope, step, data) ON event.place = fits.place
)
SELECT place::bigint, found = expected AND coalesce(holder = writer, true) FROM locked";

/// One answer for each of the changes, which are of as many runs, or a refusal of one that is alone.
pub(super) async fn commit(
    connection: &mut PgConnection,
    sql: &Sql,
    changes: &[Box<Change>],
) -> Done<Vec<Result<()>>> {
    for change in changes {
        if let Some(guests) = &change.guests {
            let fence = (change.owner, change.expected);
            if let Err(refused) = guests.write(connection, sql, &change.run, fence).await? {
                return Ok(Err(refused));
            }
        }
    }
    let column =
        |of: fn(&Change) -> i64| changes.iter().map(|change| of(change)).collect::<Vec<i64>>();
    let mut events = EventColumns::default();
    let (mut answers, mut released) = (Answers::default(), Released::default());
    for (place, change) in (1_i32..).zip(changes) {
        events.add(place, change.expected, &change.events);
        answers.add(place, &change.answers);
        released.add(place, &change.released);
    }
    let query = sql
        .query(COMMIT)
        .bind(changes.iter().map(|change| change.run.as_str()).collect::<Vec<_>>())
        .bind(column(|change| change.expected))
        .bind(changes.iter().map(|change| change.owner).collect::<Vec<_>>())
        .bind(column(|change| change.events.len()))
        .bind(changes.iter().map(|change| change.events.last_at()).collect::<Vec<_>>())
        .bind(changes.iter().map(|change| change.status).collect::<Vec<_>>())
        .bind(changes.iter().map(|change| change.is_end).collect::<Vec<_>>())
        .bind(changes.iter().map(|change| change.holding.state).collect::<Vec<_>>())
        .bind(changes.iter().map(|change| holder(&change.holding)).collect::<Vec<_>>())
        .bind(changes.iter().map(|change| change.holding.due).collect::<Vec<_>>())
        .bind(changes.iter().map(|change| change.recovered).collect::<Vec<_>>())
        .bind(answers.place)
        .bind(answers.number)
        .bind(answers.rejection)
        .bind(integer(ANSWERS_KEPT))
        .bind(released.place)
        .bind(released.scope)
        .bind(released.step);
    let mut done: Vec<Result<()>> =
        changes.iter().map(|change| Err(not_found(&change.run))).collect();
    for row in events.bind(query).fetch_all(&mut *connection).await? {
        let place = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0);
        let fits: bool = row.try_get(1)?;
        if let Some((done, change)) = done.iter_mut().zip(changes).nth(place.wrapping_sub(1)) {
            *done = if fits { Ok(()) } else { Err(conflict(&change.run)) };
        }
    }
    for (change, done) in changes.iter().zip(&done) {
        if let (Some(snapshot), Ok(())) = (&change.snapshot, done) {
            history::keep(connection, sql, &change.run, snapshot).await?;
        }
    }
    Ok(Ok(done))
}

pub(super) fn holder(holding: &HoldingRow) -> Option<Uuid> {
    holding.owner.map(Uuid::from_bytes)
}

#[derive(Default)]
struct Answers<'a> {
    place: Vec<i64>,
    number: Vec<i64>,
    rejection: Vec<Option<&'a str>>,
}

impl<'a> Answers<'a> {
    fn add(&mut self, place: i32, answers: &'a [(i64, Option<String>)]) {
        for (number, rejection) in answers {
            self.place.push(place.into());
            self.number.push(*number);
            self.rejection.push(rejection.as_deref());
        }
    }
}

#[derive(Default)]
struct Released {
    place: Vec<i64>,
    scope: Vec<i64>,
    step: Vec<i64>,
}

impl Released {
    fn add(&mut self, place: i32, released: &[StepKey]) {
        for step in released {
            self.place.push(place.into());
            self.scope.push(step.scope.into());
            self.step.push(step.step.into());
        }
    }
}

/// A message to a run, as JSON.
pub(super) struct Letter {
    run: RunId,
    message: String,
}

impl Letter {
    pub(super) fn of(run: &RunId, message: &Message) -> Result<Self> {
        let message = encode_json(&to_json(message)?).into_owned();
        Ok(Self { run: run.clone(), message })
    }

    pub(super) fn bytes(&self) -> usize {
        self.message.len()
    }
}

const POST: &str = "
WITH given AS (
  SELECT * FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS given (id, message, place)
), locked AS MATERIALIZED (
  SELECT given.*, runs.run FROM given JOIN stepwell.runs ON runs.id = given.id
  ORDER BY runs.id FOR UPDATE OF runs
), counted AS (
  UPDATE stepwell.runs SET inbox = inbox + 1, posted = posted + 1
  FROM locked WHERE runs.run = locked.run
  RETURNING locked.place, locked.message, runs.run, runs.posted, runs.owner
), put AS (
  INSERT INTO stepwell.messages (run, number, message)
  SELECT run, posted, message::json FROM counted
)
SELECT place::bigint, posted, pg_notify($3, coalesce(owner::text, '')) FROM counted";

/// The number of each message; they are to as many runs.
pub(super) async fn post(
    connection: &mut PgConnection,
    sql: &Sql,
    letters: &[Letter],
) -> Done<Vec<Result<u64>>> {
    let query = sql
        .query(POST)
        .bind(letters.iter().map(|letter| letter.run.as_str()).collect::<Vec<_>>())
        .bind(letters.iter().map(|letter| letter.message.as_str()).collect::<Vec<_>>())
        .bind(sql.name().to_owned());
    let mut numbers = FxHashMap::default();
    for row in query.fetch_all(connection).await? {
        numbers.insert(row.try_get::<i64, _>(0)?, row.try_get::<i64, _>(1)?.unsigned_abs());
    }
    let number = |(place, letter): (i64, &Letter)| {
        numbers.get(&place).copied().ok_or_else(|| not_found(&letter.run))
    };
    Ok(Ok((1..).zip(letters).map(number).collect()))
}

pub(super) async fn set_aside(
    connection: &mut PgConnection,
    sql: &Sql,
    run: &RunId,
    owner: Owner,
    until: Timestamp,
    why: &str,
) -> Done<()> {
    let query = sql.query(
        "WITH changed AS (
           UPDATE stepwell.runs SET state = 'aside', owner = NULL, due = $1, problem = $2
           WHERE id = $3 AND owner = $4
         )
         SELECT EXISTS (SELECT FROM stepwell.runs WHERE id = $3)",
    );
    let query = query.bind(until.as_micros()).bind(encode(why)).bind(run.as_str());
    let there: bool = query.bind(uuid_of(owner)).fetch_one(connection).await?.try_get(0)?;
    Ok(if there { Ok(()) } else { Err(not_found(run)) })
}
