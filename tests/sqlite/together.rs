//! Commits that come at once share a transaction, and nothing else.

use futures::future::join_all;
use stepwell::ErrorKind;

use super::runs::together;
use super::*;

#[test]
fn many_threads_that_commit_to_many_runs_lose_nothing() {
    let folder = Folder::new("threads");
    let storage = folder.open();
    together::many_threads_commit(&storage, 50);
}

#[test]
fn one_that_is_refused_among_many_changes_nothing_and_the_others_are_done() {
    let folder = Folder::new("refused");
    let storage = folder.open();
    together::some_of_many_are_refused(&storage);
}

#[test]
fn one_that_the_database_cannot_take_does_not_spoil_the_others() {
    let folder = Folder::new("spoil");
    let storage = folder.open();
    for name in ["good", "bad", "fine"] {
        create(&storage, name);
    }
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON events
                  WHEN new.run = (SELECT run FROM runs WHERE id = 'bad')
                  BEGIN SELECT raise(ABORT, 'the disk of this run is full'); END";
    folder.plain().execute_batch(refuse).unwrap();
    let commits: Vec<_> = ["good", "bad", "fine"]
        .map(|name| storage.commit(&id(name), commit(A, 0, vec![ready(0), ready(1)])))
        .into();
    let done: Vec<bool> = block_on(join_all(commits)).iter().map(Result::is_ok).collect();
    assert_eq!(done, [true, false, true]);
    let summaries = block_on(storage.list(Default::default())).unwrap();
    let events: Vec<(&str, u64)> =
        summaries.iter().map(|run| (run.id.as_str(), run.events)).collect();
    assert_eq!(events, [("good", 2), ("fine", 2), ("bad", 0)]);
    // Alone, and in place.
    for _ in 0..3 {
        let error = write(&storage, "bad", commit(A, 0, vec![ready(0)])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.to_string().contains("runs.db"), "{error}");
    }
    write(&storage, "good", commit(A, 2, vec![ready(0)])).unwrap();
}

/// How many transactions the log holds: the last frame of each says how large the file is from then on.
fn transactions(folder: &Folder) -> usize {
    let log = fs::read(folder.0.join("runs.db-wal")).unwrap();
    let page = u32::from_be_bytes(log[8..12].try_into().unwrap()) as usize;
    log[32..].chunks_exact(24 + page).filter(|frame| frame[4..8] != [0; 4]).count()
}

#[test]
fn what_comes_while_others_write_is_committed_together_with_the_next() {
    let folder = Folder::new("group");
    let storage = folder.open();
    let names: Vec<String> = (0..100).map(|number| format!("r{number}")).collect();
    names.iter().for_each(|name| create(&storage, name));
    let before = transactions(&folder);
    let other = folder.plain();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let commits = names.iter().map(|name| storage.commit(&id(name), commit(A, 0, vec![ready(0)])));
    let commits: Vec<_> = commits.collect();
    other.execute_batch("ROLLBACK").unwrap();
    assert!(block_on(join_all(commits)).iter().all(Result::is_ok));
    // With the first those that were there when it was begun, and then all others.
    let made = transactions(&folder) - before;
    assert!((1..=2).contains(&made), "{made} transactions");
}

#[test]
fn a_lone_caller_is_answered_at_once_and_gets_its_buffer_back() {
    let folder = Folder::new("lone");
    let storage = folder.open();
    create(&storage, "r");
    for turn in 0..10 {
        let mut reply = storage.commit(&id("r"), commit(A, turn, vec![ready(0)]));
        let answer = match &mut reply {
            stepwell::storage::Reply::Ready(answer) => answer.take().unwrap(),
            stepwell::storage::Reply::Later(_) => panic!("nobody else is there"),
        };
        let emptied = answer.unwrap();
        assert!(emptied.is_empty() && emptied.capacity() > 0);
    }
}

#[test]
fn another_process_that_writes_is_waited_for_and_after_the_timeout_it_is_worth_another_try() {
    let folder = Folder::new("busy");
    let options = SqliteOptions::new().busy_timeout(Duration::from_millis(1));
    let storage = options.open(folder.file()).unwrap();
    create(&storage, "r");
    let other = folder.plain();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = write(&storage, "r", commit(A, 0, vec![ready(0)])).unwrap_err();
    assert!(error.is_transient() && error.kind() == ErrorKind::Storage, "{error:?}");
    assert!(load(&storage, "r").journal.is_empty(), "reading goes on");
    other.execute_batch("ROLLBACK").unwrap();
    write(&storage, "r", commit(A, 0, vec![ready(0)])).unwrap();
}

#[test]
fn what_was_sent_is_done_before_the_file_is_closed() {
    let folder = Folder::new("closing");
    let storage = folder.open();
    let names: Vec<String> = (0..100).map(|number| format!("r{number}")).collect();
    for name in &names {
        let run = new_run(name, &workflow("w"), Holding::Finished);
        drop(storage.create(run));
    }
    drop(storage);
    let storage = folder.open();
    assert_eq!(block_on(storage.list(Default::default())).unwrap().len(), names.len());
}
