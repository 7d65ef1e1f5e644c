//! Snapshots in the file, files from before there were any, and runs that are removed.

use stepwell::ErrorKind;
use stepwell::journal::Snapshot;
use stepwell::storage::Purge;

use super::*;

fn snapshot(events: u64, forget: u64) -> Option<Box<Snapshot>> {
    Some(Snapshot { events, forget, state: "{\"ä\": 1}".into() }.into())
}

/// A file as the first program made it.
fn of_the_first_schema(folder: &Folder) -> rusqlite::Connection {
    let plain = folder.plain();
    plain.execute_batch(include_str!("../../src/storage/sqlite/schema.sql")).unwrap();
    plain.pragma_update(None, "application_id", 0x7374_6570).unwrap();
    plain.pragma_update(None, "user_version", 1).unwrap();
    plain
}

#[test]
fn a_file_of_the_first_schema_is_opened_and_goes_on() {
    let folder = Folder::new("first");
    let plain = of_the_first_schema(&folder);
    // The definition is written by the newest program, and then everything is as it was.
    let other = Folder::new("first-other");
    let storage = other.open();
    create(&storage, "r");
    write(&storage, "r", commit(A, 0, vec![started(), ready(0)])).unwrap();
    drop(storage);
    let other = other.file();
    let copied = format!("ATTACH '{}' AS other", other.display());
    plain.execute_batch(&copied).unwrap();
    for table in ["workflows", "runs", "events"] {
        plain.execute_batch(&format!("INSERT INTO {table} SELECT * FROM other.{table}")).unwrap();
    }
    drop(plain);

    let storage = folder.open();
    let stored = load(&storage, "r");
    assert_eq!((stored.snapshot, stored.journal), (None, vec![started(), ready(0)]));
    let change = Commit { snapshot: snapshot(3, 2), ..commit(A, 2, vec![ready(1)]) };
    write(&storage, "r", change).unwrap();
    assert_eq!(load(&storage, "r").from(), 3);
    let version: i64 =
        folder.plain().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert!(version > 1, "{version}");
    let sql = "SELECT events, forgotten FROM run_overview WHERE run = 'r'";
    let row = folder.plain().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(row, (3_i64, 2_i64));
}

#[test]
fn what_is_missing_behind_a_snapshot_is_an_error_that_names_the_run() {
    let folder = Folder::new("gap-behind");
    let storage = folder.open();
    create(&storage, "r");
    let change = Commit { snapshot: snapshot(2, 2), ..commit(A, 0, vec![started(), ready(0)]) };
    write(&storage, "r", change).unwrap();
    write(&storage, "r", commit(A, 2, vec![ready(1), ready(2)])).unwrap();
    assert_eq!(load(&storage, "r").journal, [ready(1), ready(2)]);
    folder.plain().execute("DELETE FROM events WHERE position = 2", []).unwrap();
    let error = block_on(storage.load(&id("r"))).unwrap_err();
    assert_eq!((error.kind(), error.run()), (ErrorKind::Damaged, Some(&id("r"))));
    assert!(error.to_string().contains("from 2 on"), "{error}");
}

#[test]
fn a_snapshot_that_is_no_text_is_given_for_others_to_judge() {
    let folder = Folder::new("no-text");
    let storage = folder.open();
    create(&storage, "r");
    let change = Commit { snapshot: snapshot(1, 0), ..commit(A, 0, vec![started()]) };
    write(&storage, "r", change).unwrap();
    let damage = "UPDATE snapshots SET state = CAST(x'ff00' AS TEXT)";
    folder.plain().execute(damage, []).unwrap();
    assert_eq!(load(&storage, "r").snapshot.unwrap().state, "\u{fffd}\0");
    let all = block_on(storage.events(&id("r"), 0, 9)).unwrap();
    assert_eq!(all, [(0, started())], "the whole is still there");
}

#[test]
fn very_long_runs_are_removed_a_few_at_a_time() {
    let folder = Folder::new("very-long");
    let storage = folder.open();
    for name in ["a", "b", "c"] {
        create(&storage, name);
        let events = (0..30_000).map(ready).collect();
        let (status, holding) = (RunStatus::Succeeded, Holding::Finished);
        write(&storage, name, Commit { status, holding, ..commit(A, 0, events) }).unwrap();
    }
    let mut batches = Vec::new();
    loop {
        let (before, keep, workflow) = (Some(Timestamp::MAX), None, None);
        let purge = Purge { owner: A, before, keep, workflow, limit: 100 };
        let removed = block_on(storage.purge(purge)).unwrap();
        batches.push(removed.len());
        if removed.is_empty() {
            break;
        }
        block_on(storage.clear(A, removed)).unwrap();
    }
    assert_eq!(batches, [1, 1, 1, 0]);
    let left: i64 =
        folder.plain().query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[test]
fn runs_that_were_removed_are_counted() {
    let folder = Folder::new("counted");
    let (storage, plain) = (folder.open(), folder.plain());
    let counts = || {
        let runs = plain.query_row("SELECT count(*) FROM runs", [], |row| row.get(0)).unwrap();
        let mut removed = plain.prepare("SELECT workflow, runs FROM removed").unwrap();
        let removed = removed.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        (runs, removed.map(Result::unwrap).collect())
    };
    runs::counted::none_is_unaccounted_for(&storage, &counts);
}

/// How many definitions there are, and how many sub-workflows of runs.
fn definitions(plain: &rusqlite::Connection) -> (i64, i64) {
    let counts = "SELECT (SELECT count(*) FROM workflows), (SELECT count(*) FROM run_workflows)";
    plain.query_row(counts, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

#[test]
fn no_definition_outlives_the_runs_that_name_it() {
    let folder = Folder::new("outlives");
    let (storage, plain) = (folder.open(), folder.plain());
    runs::definitions::none_outlives_its_runs(&storage, &|| definitions(&plain));
}

#[test]
fn a_definition_that_a_run_names_stays() {
    let folder = Folder::new("named");
    let (storage, plain) = (folder.open(), folder.plain());
    runs::definitions::one_that_is_named_stays(&storage, &|| definitions(&plain));
}

#[test]
fn a_definition_that_was_removed_is_written_again() {
    let folder = Folder::new("written-again");
    let (one, two, plain) = (folder.open(), folder.open(), folder.plain());
    let rows = || definitions(&plain);
    runs::definitions::one_that_was_removed_is_written_again(&one, &two, &rows);
}

#[test]
fn definitions_that_earlier_programs_have_left_behind_are_removed_when_the_file_is_opened() {
    let folder = Folder::new("left-behind");
    let plain = of_the_first_schema(&folder);
    let put = "INSERT INTO workflows (id, hash, definition) VALUES ('w', ?1, '{}')";
    for hash in ["named", "linked", "left"] {
        plain.execute(put, [hash]).unwrap();
    }
    let run = "INSERT INTO runs (id, workflow, status, created_at, changed_at, events, state)
               SELECT 'r', workflow, 'pending', 1, 1, 0, 'parked' FROM workflows WHERE hash = 'named'";
    plain.execute(run, []).unwrap();
    let linked = "INSERT INTO run_workflows
                  SELECT run, 0, workflows.workflow FROM runs, workflows WHERE hash = 'linked'";
    plain.execute(linked, []).unwrap();
    drop(plain);
    drop(folder.open());
    let left = "SELECT group_concat(hash) FROM (SELECT hash FROM workflows ORDER BY hash)";
    let left: String = folder.plain().query_row(left, [], |row| row.get(0)).unwrap();
    assert_eq!(left, "linked,named");
}
