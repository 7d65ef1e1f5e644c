//! What is in the file when it is opened: nothing, ours, newer, somebody else's, or damaged.

use stepwell::ErrorKind;
use stepwell::run::Rejection;

use super::*;

#[test]
fn what_was_written_is_there_when_the_file_is_opened_again() {
    let folder = Folder::new("again");
    let main = workflow("main");
    let storage = folder.open();
    let run = NewRun {
        linked: vec![workflow("one"), workflow("two"), workflow("one")],
        journal: vec![started()],
        ..new_run("r", &main, Holding::Held(A))
    };
    block_on(storage.create(run)).unwrap();
    write(&storage, "r", commit(A, 1, vec![ready(0), ready(1)])).unwrap();
    let first = block_on(storage.post(&id("r"), signal("s"))).unwrap();
    let second = block_on(storage.post(&id("r"), pause())).unwrap();
    let last = Recorded { at: at(9), event: Event::RunLimitReached };
    let answers = vec![(first, Err(Rejection::Finished))];
    let park = Holding::Parked(Some(at(100)));
    let parked = Commit { answers, holding: park, ..commit(A, 3, vec![last.clone()]) };
    write(&storage, "r", parked).unwrap();
    let before = format!("{:?}", load(&storage, "r"));
    drop(storage);

    let storage = Sqlite::open(folder.file()).unwrap();
    let stored = load(&storage, "r");
    assert_eq!(format!("{stored:?}"), before);
    assert_eq!(stored.journal, [started(), ready(0), ready(1), last]);
    assert_eq!(stored.workflow, main);
    let linked: Vec<&str> = stored.linked.iter().map(Workflow::id).collect();
    assert_eq!(linked, ["one", "two", "one"]);
    assert_eq!((stored.holding, stored.status), (park, RunStatus::Running));
    assert_eq!(block_on(storage.inbox(&id("r"))).unwrap(), [(second, pause())]);
    let answer = |number| block_on(storage.answer(&id("r"), number)).unwrap();
    assert_eq!(answer(first), Some(Err(Rejection::Finished)));
    assert_eq!((answer(second), answer(u64::MAX)), (None, None));
    assert!(block_on(storage.post(&id("r"), pause())).unwrap() > second, "numbers only grow");
}

#[test]
fn runs_of_one_definition_share_one_workflow() {
    let folder = Folder::new("share");
    let storage = folder.open();
    for run in ["x", "y"] {
        // Built twice: what counts is the content.
        create(&storage, run);
    }
    let rows: i64 =
        folder.plain().query_row("SELECT count(*) FROM workflows", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
    drop(storage);
    let storage = folder.open();
    let (x, y) = (load(&storage, "x").workflow, load(&storage, "y").workflow);
    assert!(std::sync::Arc::ptr_eq(x.program(), y.program()));
}

#[test]
fn each_content_is_kept_with_its_version_and_its_digest() {
    let folder = Folder::new("version");
    let storage = folder.open();
    let other = Workflow::builder("w").version(7).step(Step::task("other", "t")).build().unwrap();
    create(&storage, "x");
    block_on(storage.create(new_run("y", &other, Holding::Finished))).unwrap();
    let kept: Vec<(Option<u32>, String)> = folder
        .plain()
        .prepare("SELECT version, definition FROM run_overview ORDER BY run")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(|row| row.unwrap())
        .collect();
    let digest = |workflow: &Workflow| workflow.digest()[..12].to_string();
    let first = load(&storage, "x").workflow;
    assert_eq!(kept, [(None, digest(&first)), (Some(7), digest(&other))]);
    assert_eq!(load(&storage, "y").workflow, other);
}

#[test]
fn a_file_with_a_newer_schema_is_refused_and_left_alone() {
    let folder = Folder::new("newer");
    drop(folder.open());
    folder.plain().pragma_update(None, "user_version", 99).unwrap();
    let error = Sqlite::open(folder.file()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    let text = error.to_string();
    assert!(text.contains("version 99") && text.contains("runs.db"), "{text}");
}

#[test]
fn a_program_that_is_running_writes_nothing_to_a_newer_schema() {
    let folder = Folder::new("overtaken");
    let storage = folder.open();
    create(&storage, "r");
    alive(&storage, A);
    let version = folder.plain().pragma_query_value(None, "user_version", |row| row.get(0));
    let version: i64 = version.unwrap();
    folder.plain().pragma_update(None, "user_version", 99).unwrap();
    let is_refused = |error: stepwell::Error| {
        assert!(error.kind() == ErrorKind::Storage && !error.is_transient(), "{error:?}");
        assert!(error.to_string().contains("version 99"), "{error}");
    };
    is_refused(block_on(storage.beat(A)).unwrap_err());
    is_refused(write(&storage, "r", commit(A, 0, vec![started()])).unwrap_err());
    // Also in place, as for who writes to one run after the other.
    is_refused(write(&storage, "r", commit(A, 0, vec![started()])).unwrap_err());
    is_refused(block_on(storage.post(&id("r"), pause())).unwrap_err());
    folder.plain().pragma_update(None, "user_version", version).unwrap();
    write(&storage, "r", commit(A, 0, vec![started()])).unwrap();
    assert_eq!(load(&storage, "r").journal, [started()]);
}

#[test]
fn a_file_of_another_program_is_refused_and_left_alone() {
    let folder = Folder::new("foreign");
    folder.plain().execute_batch("CREATE TABLE bookmarks (url TEXT)").unwrap();
    let before = fs::read(folder.file()).unwrap();
    let error = Sqlite::open(folder.file()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.to_string().contains("another program"), "{error}");
    assert_eq!(fs::read(folder.file()).unwrap(), before);

    fs::write(folder.file(), "no database at all, but a text that is long enough".repeat(20))
        .unwrap();
    let error = Sqlite::open(folder.file()).unwrap_err();
    assert!(error.to_string().contains("not a SQLite file"), "{error}");
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing was put beside it");

    let error = Sqlite::open(folder.0.join("nowhere").join("runs.db")).unwrap_err();
    assert!(error.to_string().contains("its folder"), "{error}");
}

#[test]
fn a_damaged_run_is_an_error_that_names_it_and_others_are_not_touched() {
    let folder = Folder::new("damaged");
    let storage = folder.open();
    let damages = [
        ("kind", "UPDATE events SET kind = 'nonsense' WHERE run = ?1 AND position = 1"),
        ("data", "UPDATE events SET data = '{]' WHERE run = ?1 AND position = 0"),
        ("gap", "DELETE FROM events WHERE run = ?1 AND position = 1"),
        ("end", "DELETE FROM events WHERE run = ?1 AND position = 2"),
        ("metadata", "UPDATE runs SET metadata = '[]' WHERE run = ?1"),
    ];
    create(&storage, "whole");
    // A list of runs would fail for all of them.
    let dancing = "UPDATE runs SET status = 'dancing'";
    assert!(folder.plain().execute(dancing, []).unwrap_err().to_string().contains("CHECK"));
    for (name, damage) in damages {
        create(&storage, name);
        write(&storage, name, commit(A, 0, vec![started(), ready(0), ready(1)])).unwrap();
        let find = "(SELECT run FROM runs WHERE id = ?1)";
        folder.plain().execute(&damage.replace("?1", find), [name]).unwrap();
        let error = block_on(storage.load(&id(name))).unwrap_err();
        assert_eq!((error.kind(), error.run()), (ErrorKind::Damaged, Some(&id(name))), "{name}");
        assert!(!error.is_transient());
    }
    assert_eq!(load(&storage, "whole").status, RunStatus::Pending);

    let changed = "UPDATE workflows SET definition = replace(definition, 't', 'u')";
    folder.plain().execute(changed, []).unwrap();
    drop(storage);
    let error = block_on(folder.open().load(&id("whole"))).unwrap_err();
    assert_eq!(error.run(), Some(&id("whole")));
}
