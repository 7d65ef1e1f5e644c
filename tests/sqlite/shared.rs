//! One file, opened more than once: by clones, by other processes, and after one was killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use stepwell::ErrorKind;

use super::*;

#[test]
fn two_that_opened_one_file_see_what_the_other_commits() {
    let folder = Folder::new("two");
    let (one, two) = (folder.open(), folder.open());
    create(&one, "r");
    for turn in 0..20 {
        let storage = if turn % 2 == 0 { &one } else { &two };
        write(storage, "r", commit(A, turn, vec![ready(0)])).unwrap();
        assert_eq!(load(&one, "r").journal.len() as u64, turn + 1);
        assert_eq!(load(&two, "r").journal.len() as u64, turn + 1);
    }
    let number = block_on(two.post(&id("r"), pause())).unwrap();
    assert_eq!(block_on(one.inbox(&id("r"))).unwrap(), [(number, pause())]);
    assert_eq!(block_on(one.mail(A, 10)).unwrap(), [id("r")]);
}

#[test]
fn a_run_is_claimed_by_one_of_two_and_the_other_cannot_write() {
    let folder = Folder::new("fence");
    let (one, two) = (folder.open(), folder.open());
    create(&one, "r");
    alive(&one, A);
    assert_eq!(claimed(&two, claim(B, 1)), [], "its owner is alive");
    let gone = vec![Beat { owner: A, count: 1 }];
    assert_eq!(claimed(&two, Claim { gone, ..claim(B, 1) }), [("r".to_string(), 1)]);
    let late = write(&one, "r", commit(A, 0, vec![ready(0)])).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Conflict);
    assert!(load(&one, "r").journal.is_empty());
    write(&two, "r", commit(B, 0, vec![ready(0)])).unwrap();

    for number in 0..50 {
        let run = new_run(&format!("p{number}"), &workflow("w"), Holding::Parked(Some(at(5))));
        block_on(one.create(run)).unwrap();
    }
    let take = |storage: Sqlite, owner| {
        std::thread::spawn(move || {
            let few = || claimed(&storage, Claim { limit: 3, ..claim(owner, 5) });
            std::iter::repeat_with(few).take_while(|few| !few.is_empty()).flatten().collect()
        })
    };
    alive(&two, B);
    alive(&one, A);
    let takers = [take(one, A), take(two, B)];
    let taken: Vec<Vec<(String, u32)>> =
        takers.into_iter().map(|taker| taker.join().unwrap()).collect();
    let mut taken: Vec<(String, u32)> = taken.concat();
    assert_eq!(taken.len(), 50);
    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), 50, "each was given to one");
}

#[test]
fn many_that_open_a_new_file_at_once_all_can() {
    let folder = Folder::new("race");
    let open = |number: usize| {
        let file = folder.file();
        std::thread::spawn(move || {
            let storage = Sqlite::open(file).unwrap();
            create(&storage, &format!("r{number}"));
            storage
        })
    };
    let opening: Vec<_> = (0..8).map(open).collect();
    let opened: Vec<Sqlite> = opening.into_iter().map(|thread| thread.join().unwrap()).collect();
    for storage in opened {
        assert_eq!(block_on(storage.list(Default::default())).unwrap().len(), 8);
    }
}

#[test]
fn who_opens_a_file_alone_knows_that_all_owners_are_gone() {
    let folder = Folder::new("alone");
    let one = folder.open();
    create(&one, "r");
    alive(&one, A);
    let two = folder.open();
    let beats = [Beat { owner: A, count: 1 }, Beat { owner: B, count: 1 }];
    assert_eq!(alive(&two, B), beats, "the other is still there");
    assert_eq!(claimed(&two, claim(B, 1)), []);
    drop((one, two));
    let three = folder.open();
    let owner = Owner(3);
    assert_eq!(alive(&three, owner), [Beat { owner, count: 1 }]);
    assert_eq!(claimed(&three, claim(owner, 1)), [("r".to_string(), 1)]);
}

#[test]
fn those_who_retired_are_remembered_so_that_their_runs_have_not_crashed() {
    let folder = Folder::new("retired");
    let one = folder.open();
    create(&one, "r");
    alive(&one, A);
    block_on(one.retire(A)).unwrap();
    drop(one);
    let two = folder.open();
    assert_eq!(claimed(&two, claim(B, 1)), [("r".to_string(), 0)]);
}

/// The role of the process that is killed, and its file.
const FILE: &str = "STEPWELL_TEST_SQLITE_FILE";
const WRITERS: usize = 4;

#[test]
fn a_process_that_is_killed_leaves_everything_that_it_was_told_is_written() {
    if let Some(file) = std::env::var_os(FILE) {
        return write_until_killed(&file);
    }
    let folder = Folder::new("killed");
    let name = "shared::a_process_that_is_killed_leaves_everything_that_it_was_told_is_written";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(FILE, folder.file())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut count = 0;
    while let Some(Ok(line)) = lines.next() {
        if let Some((run, length)) = line.strip_prefix("written ").and_then(|at| at.split_once(' '))
        {
            told.insert(run.to_owned(), length.parse().unwrap());
            count += 1;
            if count == 300 {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    assert!(count >= 300 && told.len() == WRITERS, "{told:?}");
    let storage = folder.open();
    for (run, length) in &told {
        let stored = load(&storage, run);
        assert!(stored.journal.len() >= *length, "{run} {length}");
        assert!(stored.journal.len() <= *length + 2 * 3, "nothing but what was under way");
    }
    assert_eq!(alive(&storage, B).len(), 1, "the killed one is known to be gone");
    assert_eq!(claimed(&storage, claim(B, 1)).len(), WRITERS);
    let check: String =
        folder.plain().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

fn write_until_killed(file: &std::ffi::OsStr) {
    let storage = Sqlite::open(file).unwrap();
    alive(&storage, A);
    let write = |number: usize| {
        let storage = storage.clone();
        std::thread::spawn(move || {
            let name = format!("r{number}");
            create(&storage, &name);
            for turn in 0..100_000 {
                write(&storage, &name, commit(A, turn * 3, vec![ready(0), ready(1), ready(0)]))
                    .unwrap();
                // One call, so that a line is told as a whole or not at all.
                let line = format!("written {name} {}\n", (turn + 1) * 3);
                std::io::stdout().write_all(line.as_bytes()).unwrap();
            }
        })
    };
    let writers: Vec<_> = (0..WRITERS).map(write).collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
}
