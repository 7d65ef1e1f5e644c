//! Nothing that is in a database, or was in it for a moment, shows the canary. Each run has a snapshot
//! after each of its commits, and the tables are looked at before each call of the storage.

use stepwell::testing::Faulty;

use super::*;

/// The engine as it is with others, but for how often it writes the state.
fn with_snapshots(time: &VirtualRuntime, storage: impl Storage) -> Engine {
    let limits = EngineLimits { snapshot_every: 1, ..EngineLimits::default() };
    leaking_engine(time, storage).limits(limits).build().unwrap()
}

/// What stands in tables: their names, each with a text for each row.
type Tables = Vec<(String, Vec<String>)>;

/// Whether steps said their secret into this table, and it is not there.
fn is_hidden_in(tables: &Tables, name: &str) {
    let (_, rows) = tables.iter().find(|(table, _)| table == name).unwrap();
    assert!(rows.iter().any(|row| row.contains("[secret]")), "{name}: {rows:?}");
}

fn is_in_no_table(tables: &Tables) {
    for (table, rows) in tables {
        rows.iter().for_each(|row| assert_absent(&format!("{table}: {row}")));
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use std::path::{Path, PathBuf};

    use rusqlite::types::ValueRef;
    use rusqlite::{Connection, Row};
    use stepwell::storage::Sqlite;

    use super::*;

    fn text(row: &Row<'_>) -> rusqlite::Result<String> {
        let mut text = String::new();
        for column in 0..row.as_ref().column_count() {
            let _ = match row.get_ref(column)? {
                ValueRef::Null => Ok(()),
                ValueRef::Integer(number) => write!(text, "{number} "),
                ValueRef::Real(number) => write!(text, "{number} "),
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                    write!(text, "{} ", String::from_utf8_lossy(bytes))
                }
            };
        }
        Ok(text)
    }

    fn tables(plain: &Connection) -> Tables {
        let all = |query: &str, of: fn(&Row<'_>) -> rusqlite::Result<String>| {
            let mut query = plain.prepare(query).unwrap();
            query.query_map([], of).unwrap().map(Result::unwrap).collect::<Vec<_>>()
        };
        let names = all("SELECT name FROM sqlite_master WHERE type = 'table'", |row| row.get(0));
        let rows = |name: String| {
            let rows = all(&format!("SELECT * FROM \"{name}\""), text);
            (name, rows)
        };
        names.into_iter().map(rows).collect()
    }

    /// The bytes of each file, and how each is called.
    fn files(folder: &Path) -> Vec<(PathBuf, String)> {
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files
            .map(|file| {
                let bytes = std::fs::read(&file).unwrap();
                (file, String::from_utf8_lossy(&bytes).into_owned())
            })
            .collect()
    }

    #[test]
    fn the_canary_is_in_no_table_of_a_file_and_in_no_byte_of_it_or_of_its_log() {
        let folder = format!("stepwell-canary-sqlite-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("runs.db");
        let opened = Sqlite::open(&file).unwrap();
        let plain = Connection::open(&file).unwrap();
        let looks = Connection::open(&file).unwrap();
        let storage = Faulty::new(opened, move |_| {
            is_in_no_table(&tables(&looks));
            None
        });
        let time = VirtualRuntime::new(1);
        assert_hidden(&canary(&time, &with_snapshots(&time, storage.clone()), &storage));

        let all = tables(&plain);
        is_in_no_table(&all);
        ["events", "snapshots"].iter().for_each(|table| is_hidden_in(&all, table));
        // What is not in the tables any more is in the log.
        let log = folder.join("runs.db-wal");
        let open = files(&folder);
        assert_hidden(&open.iter().find(|(file, _)| *file == log).unwrap().1);
        open.iter().for_each(|(_, bytes)| assert_absent(bytes));
        drop((plain, storage));
        let closed = files(&folder);
        assert_hidden(&closed.iter().find(|(closed, _)| *closed == file).unwrap().1);
        closed.iter().for_each(|(_, bytes)| assert_absent(bytes));
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[cfg(feature = "postgres")]
#[path = "../postgres/server.rs"]
#[allow(dead_code, reason = "no server is restarted here")]
mod server;

#[cfg(feature = "postgres")]
mod postgres {
    use futures::executor::block_on;
    use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
    use stepwell::storage::Postgres;

    use super::server::Own;
    use super::*;

    /// Rows as texts, in which bytes are hexadecimal.
    fn tables(plain: &mut PgConnection) -> Tables {
        block_on(async {
            let names = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'stepwell'";
            let names: Vec<String> =
                sqlx::query_scalar(names).fetch_all(&mut *plain).await.unwrap();
            let mut tables = Vec::new();
            for name in names {
                let rows = format!("SELECT of_it::text FROM stepwell.\"{name}\" AS of_it");
                let rows = sqlx::query_scalar(AssertSqlSafe(rows)).fetch_all(&mut *plain).await;
                tables.push((name, rows.unwrap()));
            }
            tables
        })
    }

    #[test]
    fn the_canary_is_in_no_table_of_a_server() {
        let Some(own) = Own::start() else { return };
        let opened = block_on(Postgres::connect(&own.url())).unwrap();
        block_on(opened.migrate()).unwrap();
        let connect = || block_on(PgConnection::connect(&own.url())).unwrap();
        let (mut plain, mut looks) = (connect(), connect());
        let storage = Faulty::new(opened, move |_| {
            // Its own thread is in the middle of a future.
            std::thread::scope(|scope| {
                let looking = scope.spawn(|| is_in_no_table(&tables(&mut looks)));
                looking.join().unwrap();
            });
            None
        });
        let time = VirtualRuntime::new(1);
        assert_hidden(&canary(&time, &with_snapshots(&time, storage.clone()), &storage));
        let all = tables(&mut plain);
        is_in_no_table(&all);
        ["events", "snapshots"].iter().for_each(|table| is_hidden_in(&all, table));
    }
}
