//! A schema of a PostgreSQL server, which has nothing in it again and again.

use futures::executor::block_on;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use stepwell::storage::{Postgres, PostgresOptions};

use super::server::server;

pub(crate) struct Schema {
    pool: PgPool,
    /// What removes all that runs leave.
    empty: String,
}

const NAME: &str = "simulation";

impl Schema {
    /// None where there is no server.
    pub(crate) fn new() -> Option<Self> {
        let pool = PgPoolOptions::new().max_connections(5).connect_lazy(&server()?.url()).unwrap();
        let schema = Self { pool, empty: String::new() };
        block_on(schema.open().migrate()).unwrap();
        // Definitions stay, as in any database; so does what the schema is.
        let tables = "SELECT format('DELETE FROM %I.%I;', schemaname, tablename) FROM pg_tables
                      WHERE schemaname = $1 AND tablename NOT IN ('workflows', 'migrations')";
        let tables = sqlx::query_scalar::<_, String>(tables).bind(NAME).fetch_all(&schema.pool);
        let tables = block_on(tables).unwrap();
        assert!(tables.len() > 8, "{tables:?}");
        Some(Self { empty: tables.concat(), ..schema })
    }

    fn open(&self) -> Postgres {
        let options = PostgresOptions::new().schema(NAME);
        block_on(options.with_pool(self.pool.clone())).unwrap()
    }

    pub(crate) fn emptied(&self) -> Postgres {
        let empty = AssertSqlSafe(self.empty.clone());
        block_on(sqlx::raw_sql(empty).execute(&self.pool)).unwrap();
        self.open()
    }
}
