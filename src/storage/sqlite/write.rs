//! Adding runs, appending to them, and saying something to them.

use rusqlite::{Connection, OptionalExtension, params};

use super::guests::Guests;
use super::history;
use super::locks;
use super::workflows;
use super::writer::Done;
use crate::error::Result;
use crate::id::{RunId, StepKey};
use crate::journal::Snapshot;
use crate::storage::rows::{
    Events, HoldingRow, NewRows, integer, owner_bytes, status_word, to_json,
};
use crate::storage::{ANSWERS_KEPT, Commit, Created, Owner, StepWrites, conflict, not_found};
use crate::time::Timestamp;

/// Adds a run.
pub(super) fn create(new: &NewRows, connection: &Connection) -> Done<Created> {
    let mut whose = connection.prepare_cached(
        "SELECT workflows.id FROM runs JOIN workflows USING (workflow) WHERE runs.id = ?1
         UNION ALL SELECT workflow FROM purged WHERE id = ?1",
    )?;
    if let Some(workflow) = whose.query_row([new.id.as_str()], |row| row.get(0)).optional()? {
        return Ok(Ok(Created::Exists(workflow)));
    }
    let workflow = workflows::row(&new.workflow, connection)?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO runs (id, workflow, status, created_at, changed_at, events,
           state, owner, due, user, metadata)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    let run = insert.insert(params![
        new.id.as_str(),
        workflow,
        new.status,
        new.created_at,
        new.changed_at(),
        new.events.len(),
        new.holding.state,
        new.holding.owner,
        new.holding.due,
        new.user,
        new.metadata,
    ])?;
    for (position, linked) in (0_i64..).zip(&new.linked) {
        let workflow = workflows::row(linked, connection)?;
        let mut insert = connection.prepare_cached(
            "INSERT INTO run_workflows (run, position, workflow) VALUES (?1, ?2, ?3)",
        )?;
        insert.execute(params![run, position, workflow])?;
    }
    append(connection, run, 0, &new.events)?;
    Ok(Ok(Created::New))
}

/// A change of a run, with its columns.
pub(super) struct Change {
    run: RunId,
    owner: [u8; 16],
    expected: i64,
    events: Events,
    status: &'static str,
    is_end: bool,
    /// None says that it was done.
    answers: Vec<(i64, Option<String>)>,
    holding: HoldingRow,
    released: Vec<StepKey>,
    recovered: bool,
    /// What steps write, and who lets them.
    writes: Option<(Box<[StepWrites]>, Guests)>,
    snapshot: Option<Box<Snapshot>>,
}

impl Change {
    pub(super) fn of(run: &RunId, commit: &Commit, guests: &Guests) -> Result<Self> {
        let answers = commit.answers.iter().map(|(number, answer)| {
            let rejection = answer.as_ref().err().map(to_json).transpose()?;
            Ok((integer(*number), rejection))
        });
        Ok(Self {
            run: run.clone(),
            owner: owner_bytes(commit.owner),
            expected: integer(commit.expected),
            events: Events::of(&commit.events)?,
            status: status_word(commit.status),
            is_end: commit.status.is_end(),
            answers: answers.collect::<Result<_>>()?,
            holding: commit.holding.into(),
            released: commit.released.clone(),
            recovered: commit.recovered,
            writes: commit.writes.clone().map(|writes| (writes, guests.clone())),
            snapshot: commit.snapshot.clone(),
        })
    }

    pub(super) fn commit(&self, connection: &Connection) -> Done<()> {
        let mut find = connection
            .prepare_cached("SELECT run, events, owner, status FROM runs WHERE id = ?1")?;
        let found = find.query_row([self.run.as_str()], |row| {
            let owner: Option<[u8; 16]> = row.get(2)?;
            // Nearly every commit changes neither the run's status nor who holds it, so no index.
            let goes_on = owner.is_some()
                && owner == self.holding.owner
                && row.get_ref(3)?.as_str()? == self.status
                && !self.recovered;
            Ok((row.get(0)?, row.get(1)?, owner, goes_on))
        });
        let Some((run, events, owner, goes_on)) = found.optional()? else {
            return Ok(Err(not_found(&self.run)));
        };
        let (run, events): (i64, i64) = (run, events);
        if events != self.expected || owner.is_some_and(|owner| owner != self.owner) {
            return Ok(Err(conflict(&self.run)));
        }
        if let Some((writes, guests)) = &self.writes
            && let Err(refused) = guests.write(connection, writes)?
        {
            return Ok(Err(refused.into_error().of_run(&self.run)));
        }
        if goes_on {
            self.go_on(connection, run)?;
        } else {
            self.turn(connection, run)?;
        }
        append(connection, run, self.expected, &self.events)?;
        if let Some(snapshot) = &self.snapshot {
            history::keep(connection, run, snapshot)?;
        }
        for (number, rejection) in &self.answers {
            answer(connection, run, *number, rejection.as_deref())?;
        }
        for step in &self.released {
            locks::release(connection, &self.run, *step)?;
        }
        if self.is_end {
            locks::release_all(connection, &self.run)?;
        }
        Ok(Ok(()))
    }

    fn length(&self) -> i64 {
        self.expected.saturating_add(self.events.len())
    }

    fn go_on(&self, connection: &Connection, run: i64) -> rusqlite::Result<()> {
        let mut update = connection.prepare_cached(
            "UPDATE runs SET events = ?1, changed_at = coalesce(?2, changed_at) WHERE run = ?3",
        )?;
        update.execute(params![self.length(), self.events.last_at(), run]).map(drop)
    }

    fn turn(&self, connection: &Connection, run: i64) -> rusqlite::Result<()> {
        let mut update = connection.prepare_cached(
            "UPDATE runs SET events = ?1, changed_at = coalesce(?2, changed_at), status = ?3,
               state = ?4, owner = ?5, due = ?6, problem = iif(?4 = 'aside', problem, NULL),
               recoveries = iif(?7, 0, recoveries)
             WHERE run = ?8",
        )?;
        let columns = params![
            self.length(),
            self.events.last_at(),
            self.status,
            self.holding.state,
            self.holding.owner,
            self.holding.due,
            self.recovered,
            run,
        ];
        update.execute(columns).map(drop)
    }
}

fn append(connection: &Connection, run: i64, from: i64, events: &Events) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO events (run, position, at, kind, scope, step, data)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for (position, row) in (from..).zip(events.rows()) {
        insert.execute(params![run, position, row.at, row.kind, row.scope, row.step, row.data])?;
    }
    Ok(())
}

fn answer(
    connection: &Connection,
    run: i64,
    number: i64,
    rejection: Option<&str>,
) -> rusqlite::Result<()> {
    let mut delete =
        connection.prepare_cached("DELETE FROM messages WHERE run = ?1 AND number = ?2")?;
    if delete.execute([run, number])? == 0 {
        return Ok(());
    }
    let mut count = connection.prepare_cached(
        "UPDATE runs SET inbox = inbox - 1, answered = answered + 1 WHERE run = ?1
         RETURNING answered",
    )?;
    let position: i64 = count.query_row([run], |row| row.get(0))?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO answers (run, position, number, rejection) VALUES (?1, ?2, ?3, ?4)",
    )?;
    insert.execute(params![run, position, number, rejection])?;
    let mut forget =
        connection.prepare_cached("DELETE FROM answers WHERE run = ?1 AND position <= ?2")?;
    forget.execute([run, position - integer(ANSWERS_KEPT)]).map(drop)
}

/// Puts a message, as JSON, into an inbox.
pub(super) fn post(connection: &Connection, run: &RunId, message: &str) -> Done<u64> {
    let mut count = connection.prepare_cached(
        "UPDATE runs SET inbox = inbox + 1, posted = posted + 1 WHERE id = ?1 RETURNING run, posted",
    )?;
    let found = count.query_row([run.as_str()], |row| Ok((row.get(0)?, row.get(1)?)));
    let Some((key, number)) = found.optional()? else {
        return Ok(Err(not_found(run)));
    };
    let (key, number): (i64, i64) = (key, number);
    let mut insert = connection
        .prepare_cached("INSERT INTO messages (run, number, message) VALUES (?1, ?2, ?3)")?;
    insert.execute(params![key, number, message])?;
    Ok(Ok(number.unsigned_abs()))
}

pub(super) fn set_aside(
    connection: &Connection,
    run: &RunId,
    owner: Owner,
    until: Timestamp,
    why: &str,
) -> Done<()> {
    let mut update = connection.prepare_cached(
        "UPDATE runs SET state = 'aside', owner = NULL, due = ?1, problem = ?2
         WHERE id = ?3 AND owner = ?4",
    )?;
    let changed =
        update.execute(params![until.as_micros(), why, run.as_str(), owner_bytes(owner)])?;
    if changed == 0 {
        let mut find = connection.prepare_cached("SELECT 1 FROM runs WHERE id = ?1")?;
        if !find.exists([run.as_str()])? {
            return Ok(Err(not_found(run)));
        }
    }
    Ok(Ok(()))
}
