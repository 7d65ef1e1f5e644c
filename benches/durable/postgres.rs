//! Runs in a PostgreSQL database, ours and by hand.

use futures::executor::block_on;
use sqlx::{Connection, PgConnection, Row};
use stepwell::storage::PostgresOptions;
use stepwell::{Engine, RunId, Workflow};
use uuid::Uuid;

use super::script::Script;
use super::sqlite::{made_bytes, now};
use super::{Folder, chain, engine, execute, medians, seconds};

pub(crate) struct Pair {
    hand: ByHand,
    engine: Engine,
    workflow: Workflow,
}

impl Pair {
    /// Ours in a schema of this name, by hand in the usual one.
    pub(crate) fn open(url: &str, name: &str, steps: usize) -> Self {
        let workflow = chain(steps);
        let script = Script::record(&Folder::new().file("script.db"), &workflow);
        block_on(async {
            let ours = PostgresOptions::new().schema(name).connect(url).await.unwrap();
            ours.migrate().await.unwrap();
            let hand = PostgresOptions::new().connect(url).await.unwrap();
            hand.migrate().await.unwrap();
            let connection = PgConnection::connect(url).await.unwrap();
            let mut hand = ByHand { connection, script, made: 0, workflow: 0 };
            hand.define().await;
            Self { hand, engine: engine(ours), workflow }
        })
    }

    /// Seconds.
    pub(crate) fn medians(&mut self, runs: usize, rounds: usize) -> super::Pair {
        let Self { hand, engine, workflow } = self;
        let by_hand = || seconds(|| block_on(hand.write(runs)));
        medians(rounds, by_hand, || seconds(|| execute(engine, workflow, runs)))
    }
}

/// Somebody's own program.
struct ByHand {
    connection: PgConnection,
    script: Script,
    made: u64,
    workflow: i64,
}

const CREATE: &str = "
INSERT INTO stepwell.runs (id, workflow, status, created_at, changed_at, events, state, owner)
SELECT id, $2, 'running', $3, $3, $4, 'held', $5 FROM unnest($1::text[]) AS id RETURNING run";

const GO_ON: &str = "
UPDATE stepwell.runs SET events = $2, changed_at = $3
FROM unnest($1::bigint[]) AS given WHERE run = given";

const END: &str = "
UPDATE stepwell.runs SET events = $2, changed_at = $3, status = 'succeeded', state = 'finished', owner = NULL
FROM unnest($1::bigint[]) AS given WHERE run = given";

const APPEND: &str = "
INSERT INTO stepwell.events (run, position, at, kind, scope, step, data)
SELECT run, position, at, kind, scope, step, data::json FROM unnest(
  $1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::text[]
) AS event (run, position, at, kind, scope, step, data)";

impl ByHand {
    async fn define(&mut self) {
        let insert =
            "INSERT INTO stepwell.workflows (id, hash, definition) VALUES ('chain', $1, '{}')
                      RETURNING workflow";
        let insert = sqlx::query(insert).bind(format!("a chain of {}", self.script.0.len()));
        self.workflow = insert.fetch_one(&mut self.connection).await.unwrap().get(0);
    }

    /// A transaction for each turn, of all runs.
    async fn write(&mut self, runs: usize) {
        let Self { connection, script, made, workflow } = self;
        let mut keys: Vec<i64> = Vec::new();
        let mut position = 0;
        for (turn, events) in script.0.iter().enumerate() {
            let (now, length) = (now(), position + events.len() as i64);
            let mut transaction = connection.begin().await.unwrap();
            if turn == 0 {
                let ids: Vec<String> = (0..runs)
                    .map(|_| {
                        *made += 1;
                        RunId::generated(now as u64 / 1_000, made_bytes(*made)).as_str().to_owned()
                    })
                    .collect();
                let create = sqlx::query(CREATE).bind(ids).bind(*workflow).bind(now).bind(length);
                let create = create.bind(Uuid::from_u128(7));
                let rows = create.fetch_all(&mut *transaction).await.unwrap();
                keys = rows.iter().map(|row| row.get(0)).collect();
            } else {
                let update = if turn + 1 == script.0.len() { END } else { GO_ON };
                let update = sqlx::query(update).bind(&keys).bind(length).bind(now);
                update.execute(&mut *transaction).await.unwrap();
            }
            let rows =
                || keys.iter().flat_map(|run| (position..).zip(events).map(move |e| (run, e)));
            let append = sqlx::query(APPEND)
                .bind(rows().map(|(run, _)| *run).collect::<Vec<_>>())
                .bind(rows().map(|(_, (position, _))| position).collect::<Vec<_>>())
                .bind(rows().map(|_| now).collect::<Vec<_>>())
                .bind(rows().map(|(_, (_, event))| event.kind.as_str()).collect::<Vec<_>>())
                .bind(rows().map(|(_, (_, event))| event.scope).collect::<Vec<_>>())
                .bind(rows().map(|(_, (_, event))| event.step).collect::<Vec<_>>())
                .bind(rows().map(|(_, (_, event))| event.data.as_deref()).collect::<Vec<_>>());
            append.execute(&mut *transaction).await.unwrap();
            transaction.commit().await.unwrap();
            position = length;
        }
    }
}
