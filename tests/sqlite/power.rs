//! Loss of power, as far as files can show it: what was not synced is there, missing, torn, or garbage,
//! in any order, and what an `Ok` was given for is there.
//!
//! The files are copied after each commit. With `FULL` all of the log was on the disk by then, and
//! what came later may be there in pieces of a sector. That the disk does as it is told is taken for
//! granted, and that a write changes nothing beside itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stepwell::run::RunState;
use stepwell::storage::RunQuery;

use super::*;

/// What a disk writes at once.
const SECTOR: usize = 512;
/// What precedes all frames of a log.
const HEADER: usize = 32;
/// What precedes the page in a frame.
const FRAME_HEADER: usize = 24;

/// A database and its log, as they are or may be on the disk.
#[derive(Clone, PartialEq, Eq)]
struct Files {
    database: Vec<u8>,
    log: Vec<u8>,
}

/// All runs, as text.
type Dump = BTreeMap<String, String>;

impl Files {
    fn of(folder: &Folder) -> Self {
        let log = folder.0.join("runs.db-wal");
        Self { database: fs::read(folder.file()).unwrap(), log: fs::read(log).unwrap_or_default() }
    }

    fn page(&self) -> usize {
        match u16::from_be_bytes([self.database[16], self.database[17]]) {
            1 => 65_536,
            size => usize::from(size),
        }
    }

    /// What is found when the power is back, and that it is sound.
    fn found(&self, folder: &Folder, shm: Option<&[u8]>) -> Dump {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let file = folder.0.join(format!("cut-{}.db", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let beside = |what: &str| format!("{}-{what}", file.display());
        fs::write(&file, &self.database).unwrap();
        fs::write(beside("wal"), &self.log).unwrap();
        if let Some(shm) = shm {
            fs::write(beside("shm"), shm).unwrap();
        }
        let storage = open(&file);
        let dump = dump(&storage);
        drop(storage);
        let plain = rusqlite::Connection::open(&file).unwrap();
        let check = "PRAGMA integrity_check";
        let whole: String = plain.query_row(check, [], |row| row.get(0)).unwrap();
        assert_eq!(whole, "ok");
        drop(plain);
        for file in [file.display().to_string(), beside("wal"), beside("shm"), beside("alive")] {
            let _ = fs::remove_file(file);
        }
        dump
    }
}

fn open(file: &Path) -> Sqlite {
    SqliteOptions::new().synchronous(Synchronous::Normal).open(file).unwrap()
}

/// Everything of all runs, each of which is sound in itself.
fn dump(storage: &Sqlite) -> Dump {
    let runs = block_on(storage.list(RunQuery::default())).unwrap();
    let text = |summary: stepwell::storage::Summary| {
        let run = load(storage, summary.id.as_str());
        assert_eq!(run.journal.len() as u64, summary.events, "{}", summary.id);
        assert_eq!(run.status, summary.status);
        let program = Arc::clone(run.workflow.program());
        let state = RunState::replay(summary.id.clone(), program, &run.journal);
        assert_eq!(state.version(), summary.events);
        let inbox = block_on(storage.inbox(&summary.id)).unwrap();
        let text = format!("{:?} {:?} {:?} {inbox:?}", run.journal, run.status, run.holding);
        (summary.id.to_string(), text)
    };
    runs.into_iter().map(text).collect()
}

/// One after the other, what a writer did, and how the disk was after each.
struct History {
    folder: Folder,
    storage: Sqlite,
    files: Vec<Files>,
    dumps: Vec<Dump>,
}

impl History {
    fn new(name: &str, synchronous: Synchronous) -> Self {
        let folder = Folder::new(name);
        let options = SqliteOptions::new().synchronous(synchronous);
        let storage = options.open(folder.file()).unwrap();
        let mut history = Self { folder, storage, files: Vec::new(), dumps: Vec::new() };
        history.note();
        history
    }

    fn note(&mut self) {
        self.files.push(Files::of(&self.folder));
        self.dumps.push(dump(&self.storage));
    }

    /// Creations, commits with several events, messages, answers and ends, each a transaction.
    fn write(&mut self, runs: std::ops::Range<u32>) {
        for number in runs {
            let name = format!("r{number}");
            create(&self.storage, &name);
            self.note();
            let one = commit(A, 0, vec![started(), ready(0)]);
            write(&self.storage, &name, one).unwrap();
            self.note();
            let message = block_on(self.storage.post(&id(&name), signal("s"))).unwrap();
            self.note();
            let long = Recorded {
                at: at(3),
                event: Event::VariablesSet {
                    step: None,
                    values: serde_json::json!({"v": "x".repeat(6_000)}).into(),
                },
            };
            let answers = vec![(message, Ok(()))];
            let two = Commit { answers, ..commit(A, 2, vec![long, ready(1)]) };
            write(&self.storage, &name, two).unwrap();
            self.note();
        }
    }

    /// As SQLite does by itself when the log has grown long, and somebody at the same file may.
    fn checkpoint(&self) {
        let plain = self.folder.plain();
        let (busy, log, done): (i64, i64, i64) = plain
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .unwrap();
        assert_eq!((busy, log), (0, done), "all of it");
    }

    /// What is found is how it was after one of these commits, and not after an earlier one.
    fn is_one_of(&self, found: &Dump, from: usize, to: usize, what: &str) {
        let is = (from..=to).any(|number| self.dumps[number] == *found);
        let at = || self.dumps.iter().position(|dump| dump == found);
        assert!(is, "{what}: after commits {from} to {to}, what is found is as after {:?}", at());
    }
}

/// Cuts of a log at every frame that came after this length, at the bytes around it, and in it.
fn cuts(files: &Files, from: usize) -> Vec<usize> {
    let frame = FRAME_HEADER + files.page();
    let begins = (0..).map(|number| HEADER + number * frame);
    let begins: Vec<usize> = begins.take_while(|at| *at <= files.log.len()).collect();
    let mut cuts: Vec<usize> = begins
        .iter()
        .flat_map(|at| [at.saturating_sub(1), *at, at + 1, at + FRAME_HEADER, at + frame / 2])
        .filter(|cut| (from..files.log.len()).contains(cut))
        .collect();
    cuts.extend([from]);
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// Some sectors of these bytes are the new ones, some the old, nothing, or garbage. What is on the
/// disk for sure stays: where sectors begin, a write is not torn.
fn mix(dice: &mut StdRng, old: &[u8], new: &[u8], from: usize, garbage: bool) -> Vec<u8> {
    let mut mixed = new.to_vec();
    let mut at = from;
    while at < mixed.len() {
        let end = ((at / SECTOR + 1) * SECTOR).min(mixed.len());
        match dice.random_range(0..if garbage { 6 } else { 4 }) {
            0 | 1 => {}
            2 | 3 => {
                for (place, byte) in (at..).zip(&mut mixed[at..end]) {
                    *byte = old.get(place).copied().unwrap_or(0);
                }
            }
            4 => mixed[at..end].fill(0),
            _ => mixed[at..end].iter_mut().for_each(|byte| *byte = dice.random()),
        }
        at = end;
    }
    // How long the file is was written for itself.
    if dice.random_range(0..3) == 0 {
        mixed.truncate(dice.random_range(from..=mixed.len()));
    }
    mixed
}

#[test]
fn what_was_answered_is_there_wherever_the_log_was_cut_afterwards() {
    let mut history = History::new("power-cut", Synchronous::Full);
    history.write(0..3);
    let garbage = vec![0xa5; 32_768];
    for (number, [before, after]) in history.files.array_windows().enumerate() {
        assert_eq!(before.database, after.database, "no checkpoint comes between");
        assert!(after.log.starts_with(&before.log), "a log only grows");
        for cut in cuts(after, before.log.len()) {
            let mut files = after.clone();
            files.log.truncate(cut);
            let shm = [None, Some(&garbage[..]), Some(&[][..])][cut % 3];
            let found = files.found(&history.folder, shm);
            // Only the whole of it is the next commit.
            history.is_one_of(&found, number, number, &format!("cut at {cut}"));
        }
        let found = after.found(&history.folder, None);
        history.is_one_of(&found, number + 1, number + 1, "nothing was lost");
    }
}

#[test]
fn what_was_not_synced_may_be_there_in_any_pieces() {
    let mut history = History::new("power-pieces", Synchronous::Full);
    history.write(0..3);
    let mut dice = StdRng::seed_from_u64(7);
    for _ in 0..cases() {
        let last = history.files.len() - 1;
        let number = dice.random_range(0..last);
        // Several commits under way: of those that share a transaction none has its answer.
        let later = dice.random_range(number + 1..=last.min(number + 4));
        let (old, new) = (&history.files[number], &history.files[later]);
        let log = mix(&mut dice, &old.log, &new.log, old.log.len(), true);
        let files = Files { database: old.database.clone(), log };
        let found = files.found(&history.folder, None);
        history.is_one_of(&found, number, later, "pieces");
    }
}

#[test]
fn without_syncs_only_the_end_is_lost() {
    let mut history = History::new("power-normal", Synchronous::Normal);
    history.write(0..2);
    // With `NORMAL` a checkpoint is what syncs, and the header when the log is begun anew.
    history.checkpoint();
    history.note();
    let synced = history.files.len() - 1;
    history.write(2..4);
    let mut dice = StdRng::seed_from_u64(8);
    for _ in 0..cases() {
        let later = dice.random_range(synced + 1..history.files.len());
        let (old, new) = (&history.files[synced], &history.files[later]);
        let log = mix(&mut dice, &old.log, &new.log, HEADER, true);
        let files = Files { database: new.database.clone(), log };
        let found = files.found(&history.folder, None);
        history.is_one_of(&found, synced, later, "a suffix");
    }
}

#[test]
fn a_checkpoint_may_be_cut_anywhere() {
    let mut history = History::new("power-checkpoint", Synchronous::Full);
    history.write(0..3);
    let last = history.files.len() - 1;
    history.checkpoint();
    let (before, after) = (history.files[last].clone(), Files::of(&history.folder));
    assert_ne!(before.database, after.database, "it has moved pages");
    assert_eq!(before.log, after.log, "and left the log");
    let mut dice = StdRng::seed_from_u64(9);
    for _ in 0..cases() {
        // The log holds each page that is being written; what a torn one looks like does not matter. Not
        // so for the first sector, by which the file is known: it is the old one or the new one.
        let mut database = mix(&mut dice, &before.database, &after.database, SECTOR, true);
        let first = if dice.random() { &before } else { &after };
        database[..SECTOR].copy_from_slice(&first.database[..SECTOR]);
        let found = Files { database, log: after.log.clone() }.found(&history.folder, None);
        history.is_one_of(&found, last, last, "the log holds it");
    }
}

#[test]
fn a_log_that_is_begun_anew_may_be_cut_anywhere() {
    let mut history = History::new("power-anew", Synchronous::Full);
    history.write(0..3);
    history.checkpoint();
    history.note();
    let last = history.files.len() - 1;
    history.write(3..4);
    let old = &history.files[last];
    assert_ne!(old.log[..HEADER], history.files[last + 1].log[..HEADER], "the log begins anew");
    let mut dice = StdRng::seed_from_u64(10);
    for _ in 0..cases() {
        // The header is synced before what follows: until then all else is as it was.
        let new = &history.files[last + 1];
        let mut log = old.log.clone();
        let upto = dice.random_range(0..=HEADER);
        log[..upto].copy_from_slice(&new.log[..upto]);
        let files = Files { database: old.database.clone(), log };
        let found = files.found(&history.folder, None);
        history.is_one_of(&found, last, last, "the header alone");

        let later = dice.random_range(last + 1..history.files.len());
        let new = &history.files[later];
        assert_eq!(new.database, old.database);
        let log = mix(&mut dice, &old.log, &new.log, HEADER, true);
        let files = Files { database: old.database.clone(), log };
        let found = files.found(&history.folder, None);
        history.is_one_of(&found, last, later, "over the old log");
    }
}

#[test]
fn what_others_were_told_is_there_while_many_write() {
    let folder = Folder::new("power-many");
    let storage = SqliteOptions::new().open(folder.file()).unwrap();
    let told: Vec<Arc<AtomicU64>> = (0..4).map(|_| Arc::default()).collect();
    let writer = |number: usize| {
        let (storage, told) = (storage.clone(), Arc::clone(&told[number]));
        std::thread::spawn(move || {
            let name = format!("r{number}");
            create(&storage, &name);
            for turn in 0..40 {
                let two = vec![ready(turn as u32), ready(turn as u32)];
                write(&storage, &name, commit(A, turn * 2, two)).unwrap();
                told.store(turn + 1, Ordering::SeqCst);
            }
        })
    };
    let writers: Vec<_> = (0..4).map(writer).collect();
    let mut dice = StdRng::seed_from_u64(11);
    let mut looks = 0;
    while !writers.iter().all(std::thread::JoinHandle::is_finished) || looks < 5 {
        looks += 1;
        let witness: Vec<u64> = told.iter().map(|told| told.load(Ordering::SeqCst)).collect();
        // What was told is before this: it was synced first.
        let sure = Files::of(&folder);
        let now = Files::of(&folder);
        assert_eq!(sure.database, now.database, "no checkpoint comes between");
        let log = mix(&mut dice, &sure.log, &now.log, sure.log.len(), true);
        let found = Files { database: now.database, log }.found(&folder, None);
        for (number, told) in witness.iter().enumerate().filter(|(_, told)| **told > 0) {
            let text = &found[&format!("r{number}")];
            let events = text.matches("StepReady").count() as u64;
            assert!(events >= told * 2 && events.is_multiple_of(2), "{events} of {told} commits");
        }
    }
    writers.into_iter().for_each(|writer| writer.join().unwrap());
}

fn cases() -> u32 {
    let number = std::env::var("STEPWELL_TEST_POWER").ok().and_then(|text| text.parse().ok());
    number.unwrap_or(60)
}
