//! Runs in a SQLite file, ours and by hand.

use std::time::SystemTime;

use rusqlite::{Connection, Statement, params};
use stepwell::storage::{Sqlite, SqliteOptions, Synchronous};
use stepwell::{Engine, RunId, Workflow};

use super::script::Script;
use super::{Folder, chain, engine, execute, medians, seconds};

pub(crate) struct Pair {
    hand: ByHand,
    engine: Engine,
    workflow: Workflow,
}

impl Pair {
    pub(crate) fn open(folder: &Folder, synchronous: Synchronous, steps: usize) -> Self {
        let workflow = chain(steps);
        let hand = folder.file("hand.db");
        // Makes the tables and the definition's row, too.
        let script = Script::record(&hand, &workflow);
        let connection = Connection::open(&hand).unwrap();
        let word = if synchronous == Synchronous::Full { "FULL" } else { "NORMAL" };
        for (name, value) in
            [("synchronous", word), ("foreign_keys", "ON"), ("wal_autocheckpoint", "4000")]
        {
            connection.pragma_update(None, name, value).unwrap();
        }
        let storage: Sqlite =
            SqliteOptions::new().synchronous(synchronous).open(folder.file("ours.db")).unwrap();
        Self { hand: ByHand { connection, script, made: 0 }, engine: engine(storage), workflow }
    }

    pub(crate) fn by_hand(&mut self, runs: usize) {
        self.hand.write(runs);
    }

    pub(crate) fn ours(&self, runs: usize) {
        execute(&self.engine, &self.workflow, runs);
    }

    /// Seconds.
    pub(crate) fn medians(&mut self, runs: usize, rounds: usize) -> super::Pair {
        let Self { hand, engine, workflow } = self;
        let by_hand = || seconds(|| hand.write(runs));
        medians(rounds, by_hand, || seconds(|| execute(engine, workflow, runs)))
    }
}

/// Microseconds since 1970.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as i64
}

/// Somebody's own program.
struct ByHand {
    connection: Connection,
    script: Script,
    made: u64,
}

impl ByHand {
    /// A transaction for each turn, of all runs.
    fn write(&mut self, runs: usize) {
        let Self { connection, script, made } = self;
        let prepare = |sql| connection.prepare(sql).unwrap();
        let mut create = prepare(
            "INSERT INTO runs (id, workflow, status, created_at, changed_at, events, state, owner)
             VALUES (?1, 1, 'running', ?2, ?2, ?3, 'held', ?4)",
        );
        let mut go_on = prepare("UPDATE runs SET events = ?1, changed_at = ?2 WHERE run = ?3");
        let mut end = prepare(
            "UPDATE runs SET events = ?1, changed_at = ?2, status = 'succeeded', state = 'finished',
               owner = NULL
             WHERE run = ?3",
        );
        let mut append = prepare(
            "INSERT INTO events (run, position, at, kind, scope, step, data)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        );
        let mut keys: Vec<i64> = Vec::with_capacity(runs);
        let mut position = 0;
        for (turn, events) in script.0.iter().enumerate() {
            let length = position + events.len() as i64;
            connection.execute_batch("BEGIN IMMEDIATE").unwrap();
            for at in 0..runs {
                let now = now();
                match turn {
                    0 => {
                        *made += 1;
                        let id = RunId::generated(now as u64 / 1_000, made_bytes(*made));
                        let row = params![id.as_str(), now, length, [7_u8; 16]];
                        keys.push(create.insert(row).unwrap());
                    }
                    _ if turn + 1 == script.0.len() => {
                        end.execute(params![length, now, keys[at]]).unwrap();
                    }
                    _ => {
                        go_on.execute(params![length, now, keys[at]]).unwrap();
                    }
                }
                append_all(&mut append, keys[at], position, now, events);
            }
            connection.execute_batch("COMMIT").unwrap();
            position = length;
        }
    }
}

fn append_all(
    append: &mut Statement<'_>,
    run: i64,
    from: i64,
    now: i64,
    events: &[super::script::Event],
) {
    for (position, event) in (from..).zip(events) {
        let row = params![run, position, now, event.kind, event.scope, event.step, event.data];
        append.execute(row).unwrap();
    }
}

/// Ten bytes that no other run has.
pub(crate) fn made_bytes(number: u64) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[2..].copy_from_slice(&number.to_be_bytes());
    bytes
}
