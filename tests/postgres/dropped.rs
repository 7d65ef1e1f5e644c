//! Opening and migrating, dropped after every number of polls.

use sqlx::PgPool;

use super::polled::polled;
use super::*;

const POLLS_MAX: u32 = 2_000;

/// Drops what `open` gives after every number of polls until it ends by itself, each followed by
/// `then`.
fn dropped_everywhere<T>(mut open: impl AsyncFnMut() -> Result<T>, mut then: impl FnMut(u32)) {
    for polls in 0..POLLS_MAX {
        let result = block_on(polled(open(), polls));
        then(polls);
        if let Some(result) = result {
            assert!(result.is_ok());
            assert!(polls > 1, "it had to wait for the server");
            return;
        }
    }
    panic!("it did not end within {POLLS_MAX} polls");
}

#[test]
fn a_migration_that_is_dropped_is_done_by_the_next() {
    let Some(server) = server() else { return };
    let schema = fresh("dropped_migrate");
    let options = PostgresOptions::new().schema(&schema);
    let storage = block_on(options.connect(&server.url())).unwrap();
    dropped_everywhere(
        || storage.migrate(),
        |_| {
            // A connection that was let go of in the middle may still be at it.
            block_on(storage.migrate()).unwrap();
            assert!(block_on(storage.list(Default::default())).unwrap().is_empty());
            sql(server, &format!("DROP SCHEMA {schema} CASCADE"));
        },
    );
}

#[test]
fn opening_that_is_dropped_leaves_a_server_that_can_be_opened() {
    let Some((_, schema)) = opened("dropped_open") else { return };
    let server = server().unwrap();
    let options = || PostgresOptions::new().schema(&schema);
    let pool = block_on(PgPool::connect(&server.url())).unwrap();
    let usable = |_| {
        let storage = block_on(options().with_pool(pool.clone())).unwrap();
        assert!(block_on(storage.list(Default::default())).unwrap().is_empty());
    };
    dropped_everywhere(async || options().connect(&server.url()).await.map(drop), usable);
    dropped_everywhere(async || Postgres::connect(&server.url()).await.map(drop), usable);
    // A pool has its connections already, and looks at none of them.
    assert!(block_on(polled(options().with_pool(pool.clone()), 1)).is_none_or(|it| it.is_ok()));
    assert!(block_on(polled(Postgres::with_pool(pool.clone()), 1)).is_none_or(|it| it.is_ok()));
    usable(0);
}
