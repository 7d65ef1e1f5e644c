//! Removing runs while others add some, and while others hold tables.

use stepwell::storage::Purge;

use super::*;

fn end(storage: &Postgres, name: &str) -> bool {
    let run = new_run(name, &workflow("w"), Holding::Finished);
    matches!(block_on(storage.create(run)).unwrap(), Created::New)
}

fn all() -> Purge {
    Purge { owner: A, before: None, keep: Some(0), workflow: None, limit: 100 }
}

fn purged(storage: &Postgres) -> Result<Vec<String>> {
    let runs = block_on(storage.purge(all()))?;
    Ok(runs.iter().map(ToString::to_string).collect())
}

/// Somebody with a transaction that is open, as a backup or a person has one.
struct Other(PgConnection);

impl Other {
    fn begin(schema: &str, text: &str) -> Self {
        let url = server().unwrap().url();
        let connect = <PgConnection as sqlx::Connection>::connect(&url);
        let mut other = Self(block_on(connect).unwrap());
        other.says(schema, "BEGIN");
        other.says(schema, text);
        other
    }

    fn says(&mut self, schema: &str, text: &str) {
        let text = AssertSqlSafe(text.replace("s.", &format!("{schema}.")));
        block_on(sqlx::raw_sql(text).execute(&mut self.0)).unwrap();
    }

    fn ends(mut self) {
        self.says("", "COMMIT");
    }
}

/// Until somebody waits for this table.
fn until_waited_for(schema: &str, table: &str) {
    let waits = format!(
        "SELECT count(*) FROM pg_locks WHERE relation = '{schema}.{table}'::regclass AND NOT granted"
    );
    until("somebody waits", || number(server().unwrap(), &waits) > 0);
}

#[test]
fn a_backup_that_is_being_made_holds_up_neither_who_removes_runs_nor_who_adds_some() {
    let Some((_, schema)) = opened("backup") else { return };
    let options = PostgresOptions::new().schema(&schema).patience(Duration::from_secs(5));
    let storage = block_on(options.connect(&server().unwrap().url())).unwrap();
    assert!(end(&storage, "old"));
    // As `pg_dump` does.
    let dump = "LOCK TABLE s.purged, s.runs, s.events, s.owners IN ACCESS SHARE MODE";
    let dump = Other::begin(&schema, dump);
    assert_eq!(purged(&storage).unwrap(), ["old"]);
    assert!(end(&storage, "new"));
    dump.ends();
}

#[test]
fn who_removes_runs_waits_only_a_while_for_who_holds_the_table_and_the_next_removes_them() {
    let Some((storage, schema)) = opened("stuck") else { return };
    assert!(end(&storage, "r"));
    let somebody = Other::begin(&schema, "LOCK TABLE s.purged IN ROW EXCLUSIVE MODE");
    let error = purged(&storage).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("55P03"), "{error}");
    assert!(end(&storage, "s"), "nobody waits for who has given up");
    assert_eq!(storage_names(&storage), ["r", "s"], "nothing was removed");
    somebody.ends();
    assert_eq!(purged(&storage).unwrap(), ["r", "s"]);
}

#[test]
fn who_removes_runs_keeps_nobody_waiting_while_it_waits_itself() {
    let Some((storage, schema)) = opened("stuck_early") else { return };
    assert!(end(&storage, "r"));
    // As somebody who makes an index.
    let somebody = Other::begin(&schema, "LOCK TABLE s.answers IN SHARE MODE");
    let error = purged(&storage).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("55P03"), "{error}");
    somebody.ends();
    assert_eq!(purged(&storage).unwrap(), ["r"]);
}

fn storage_names(storage: &Postgres) -> Vec<String> {
    let runs = block_on(storage.list(Default::default())).unwrap();
    let mut names: Vec<String> = runs.iter().map(|run| run.id.to_string()).collect();
    names.sort_unstable();
    names
}

#[test]
fn who_adds_a_run_that_is_just_being_removed_is_told_that_its_id_is_taken() {
    let Some((storage, schema)) = opened("taken") else { return };
    // Often enough for the server to keep a plan.
    for turn in 0..20 {
        assert!(end(&storage, &format!("r{turn}")));
        let mut purge = Other::begin(&schema, "LOCK TABLE s.purged IN EXCLUSIVE MODE");
        let adding = {
            let storage = storage.clone();
            std::thread::spawn(move || end(&storage, &format!("r{turn}")))
        };
        until_waited_for(&schema, "purged");
        let remove = "INSERT INTO s.purged SELECT id, 'w', gen_random_uuid() FROM s.runs;
                      DELETE FROM s.runs";
        purge.says(&schema, remove);
        purge.ends();
        assert!(!adding.join().unwrap());
        assert_eq!(storage_names(&storage), [""; 0]);
    }
}

#[test]
fn under_no_id_is_a_run_added_that_was_removed_and_is_not_cleared() {
    let Some((storage, schema)) = opened("ids") else { return };
    let storage = Arc::new(storage);
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let adding: Vec<_> = (0..3)
        .map(|_| {
            let (storage, is_over) = (Arc::clone(&storage), Arc::clone(&is_over));
            std::thread::spawn(move || {
                let mut added = 0;
                while !is_over.load(Ordering::Relaxed) {
                    for name in ["a", "b", "c"] {
                        let run = new_run(name, &workflow("w"), Holding::Finished);
                        match block_on(storage.create(run)) {
                            Ok(created) => added += u32::from(matches!(created, Created::New)),
                            // It was there, and then it was not.
                            Err(error) => assert!(error.is_transient(), "{error}"),
                        }
                    }
                }
                added
            })
        })
        .collect();
    let both = format!("SELECT count(*) FROM {schema}.runs JOIN {schema}.purged USING (id)");
    let mut removed = 0;
    while removed < 150 {
        let runs = block_on(storage.purge(all())).unwrap();
        removed += runs.len();
        assert_eq!(number(server().unwrap(), &both), 0);
        block_on(storage.clear(A, runs)).unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    let added: u32 = adding.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!(added as usize >= removed);
}

#[test]
fn many_that_remove_at_once_remove_each_run_once() {
    let Some((storage, schema)) = opened("removers") else { return };
    for number in 0..300 {
        assert!(end(&storage, &format!("r{number}")));
    }
    let remove = |owner: u128| {
        let options = PostgresOptions::new().schema(&schema);
        std::thread::spawn(move || {
            let storage = block_on(options.connect(&server().unwrap().url())).unwrap();
            let (owner, mut removed) = (Owner(owner), Vec::new());
            alive(&storage, owner);
            loop {
                let some = Purge { owner, limit: 7, ..all() };
                let runs = block_on(storage.purge(some)).unwrap();
                if runs.is_empty() {
                    return removed;
                }
                removed.extend(runs.iter().map(ToString::to_string));
                block_on(storage.clear(owner, runs)).unwrap();
            }
        })
    };
    let removers: Vec<_> = (1..=4).map(remove).collect();
    let removed: Vec<Vec<String>> =
        removers.into_iter().map(|remover| remover.join().unwrap()).collect();
    let mut removed = removed.concat();
    assert_eq!(removed.len(), 300);
    removed.sort_unstable();
    removed.dedup();
    assert_eq!(removed.len(), 300, "each was removed by one");
}

#[test]
fn runs_that_were_removed_are_counted() {
    let Some((storage, schema)) = opened("counted") else { return };
    let server = server().unwrap();
    let counts = || {
        let runs = number(server, &format!("SELECT count(*) FROM {schema}.runs"));
        let removed = rows(server, &format!("SELECT workflow, runs FROM {schema}.removed"));
        (runs, removed.iter().map(|row| (row.get(0), row.get(1))).collect())
    };
    runs::counted::none_is_unaccounted_for(&storage, &counts);
}
