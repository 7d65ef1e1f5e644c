//! Where the runs of a test are: in a file, or in a schema of a PostgreSQL server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stepwell::storage::{SqliteOptions, Storage, Synchronous};

pub(super) enum Base {
    File(PathBuf),
    #[cfg(feature = "postgres")]
    Schema(schema::Schema),
}

impl Base {
    pub(super) fn file(folder: &Path) -> Self {
        Self::File(folder.join("runs.db"))
    }

    /// The one that a child was told.
    pub(super) fn given(folder: &Path) -> Self {
        #[cfg(feature = "postgres")]
        if let Some(schema) = schema::Schema::given() {
            return Self::Schema(schema);
        }
        Self::file(folder)
    }

    /// What a child is told.
    pub(super) fn told(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::File(_) => Vec::new(),
            #[cfg(feature = "postgres")]
            Self::Schema(schema) => schema.told(),
        }
    }

    /// Before anybody opens it.
    pub(super) fn prepare(&self) {
        let orders = format!("CREATE TABLE {} (step TEXT, result TEXT)", self.orders());
        match self {
            Self::File(file) => {
                drop(self.open());
                plain(file).execute_batch(&orders).unwrap();
            }
            #[cfg(feature = "postgres")]
            Self::Schema(schema) => schema.prepare(&orders),
        }
    }

    pub(super) fn open(&self) -> Arc<dyn Storage> {
        match self {
            // A kill takes nothing away that the system was given: the disk need not be waited for.
            Self::File(file) => {
                let options = SqliteOptions::new().synchronous(Synchronous::Normal);
                loop {
                    match options.clone().open(file) {
                        Ok(storage) => return Arc::new(storage),
                        // A process that was stopped while it wrote may have it for a while.
                        Err(error) => assert!(error.is_transient(), "{error}"),
                    }
                }
            }
            #[cfg(feature = "postgres")]
            Self::Schema(schema) => Arc::new(schema.open()),
        }
    }

    /// The table that steps write to in the transactions of their results.
    pub(super) fn orders(&self) -> String {
        match self {
            Self::File(_) => "orders".into(),
            #[cfg(feature = "postgres")]
            Self::Schema(schema) => schema.orders(),
        }
    }

    /// Its rows, as a program reads them that knows nothing of stepwell: steps and results.
    pub(super) fn rows(&self) -> Vec<(String, String)> {
        let query = format!("SELECT step, result FROM {}", self.orders());
        match self {
            Self::File(file) => {
                let plain = plain(file);
                let mut query = plain.prepare(&query).unwrap();
                let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
                rows.map(Result::unwrap).collect()
            }
            #[cfg(feature = "postgres")]
            Self::Schema(schema) => schema.rows(query),
        }
    }
}

fn plain(file: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(file).unwrap()
}

#[cfg(feature = "postgres")]
pub(super) mod schema {
    use futures::executor::block_on;
    use sqlx::{AssertSqlSafe, Connection, PgConnection};
    use stepwell::storage::{Postgres, PostgresOptions};

    const URL: &str = "STEPWELL_TEST_KILL_URL";
    const NAME: &str = "STEPWELL_TEST_KILL_SCHEMA";

    pub(in super::super) struct Schema {
        pub(in super::super) url: String,
        pub(in super::super) name: String,
    }

    impl Schema {
        pub(super) fn given() -> Option<Self> {
            Some(Self { url: std::env::var(URL).ok()?, name: std::env::var(NAME).unwrap() })
        }

        pub(super) fn told(&self) -> Vec<(&'static str, String)> {
            vec![(URL, self.url.clone()), (NAME, self.name.clone())]
        }

        pub(super) fn prepare(&self, orders: &str) {
            block_on(self.open().migrate()).unwrap();
            let orders = AssertSqlSafe(orders.to_owned());
            block_on(async {
                let mut connection = PgConnection::connect(&self.url).await.unwrap();
                sqlx::raw_sql(orders).execute(&mut connection).await.unwrap();
            });
        }

        pub(super) fn open(&self) -> Postgres {
            // Many places may be at work at once, and the server has only so many.
            let options = PostgresOptions::new().schema(&self.name).connections(4);
            block_on(options.connect(&self.url)).unwrap()
        }

        pub(super) fn orders(&self) -> String {
            format!("{}_orders", self.name)
        }

        pub(super) fn rows(&self, query: String) -> Vec<(String, String)> {
            block_on(async {
                let mut connection = PgConnection::connect(&self.url).await.unwrap();
                let query = sqlx::query_as(AssertSqlSafe(query));
                query.fetch_all(&mut connection).await.unwrap()
            })
        }
    }
}
