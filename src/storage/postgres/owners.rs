//! Who is alive, and who takes which run.

use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::access::{Done, Sql};
use super::schema::NEWEST;
use super::write::uuid_of;
use crate::id::RunId;
use crate::storage::rows::integer;
use crate::storage::{Beat, Claim, Claimed, Owner};

/// None when the schema is not ours any more: who cannot go on is not to be taken for alive.
pub(super) async fn beat(
    connection: &mut PgConnection,
    sql: &Sql,
    owner: Owner,
) -> Done<Option<Vec<Beat>>> {
    let beat = sql.query(
        "WITH beaten AS (
           INSERT INTO stepwell.owners AS owners (owner, beats, state)
           SELECT $1, 1, 'alive' WHERE $2 = (SELECT max(version) FROM stepwell.migrations)
           ON CONFLICT (owner) DO UPDATE SET beats = owners.beats + 1, state = 'alive'
           RETURNING owner, beats
         )
         SELECT owner, beats FROM beaten
         UNION ALL
         SELECT owner, beats FROM stepwell.owners WHERE state = 'alive' AND owner <> $1",
    );
    let mut alive = Vec::new();
    for row in beat.bind(uuid_of(owner)).bind(NEWEST).fetch_all(connection).await? {
        let owner = Owner(row.try_get::<Uuid, _>(0)?.as_u128());
        alive.push(Beat { owner, count: row.try_get::<i64, _>(1)?.unsigned_abs() });
    }
    let has_beaten = alive.iter().any(|beat| beat.owner == owner);
    Ok(Ok(has_beaten.then_some(alive)))
}

pub(super) async fn retire(connection: &mut PgConnection, sql: &Sql, owner: Owner) -> Done<()> {
    let retire = sql.query(
        "INSERT INTO stepwell.owners (owner, beats, state) VALUES ($1, 0, 'retired')
         ON CONFLICT (owner) DO UPDATE SET state = 'retired'
         RETURNING pg_notify($2, '')",
    );
    retire.bind(uuid_of(owner)).bind(sql.name().to_owned()).execute(connection).await?;
    Ok(Ok(()))
}

/// A run by its name, whoever else wants it.
const CLAIM_ONE: &str = "
WITH free AS MATERIALIZED (
  SELECT run, state = 'held' AND owner NOT IN (
    SELECT owner FROM stepwell.owners WHERE state = 'retired'
  ) AS crashed
  FROM stepwell.runs
  WHERE id = $2 AND CASE state
    WHEN 'held' THEN owner <> $1
      AND owner NOT IN (SELECT owner FROM stepwell.owners WHERE state = 'alive')
    WHEN 'finished' THEN inbox > 0
    ELSE true
  END
  FOR UPDATE
)
UPDATE stepwell.runs SET state = 'held', owner = $1, due = NULL, problem = NULL,
  recoveries = recoveries + free.crashed::integer
FROM free WHERE runs.run = free.run
RETURNING runs.id, runs.recoveries";

/// Runs that may be taken, but for those that somebody else is just changing. Holders are found from one
/// to the next, as each may hold very many; who is alive and who holds what is seen at one moment.
const CLAIM: &str = "
WITH RECURSIVE holders (owner) AS (
  (SELECT owner FROM stepwell.runs WHERE owner IS NOT NULL ORDER BY owner LIMIT 1)
  UNION ALL
  SELECT (SELECT runs.owner FROM stepwell.runs
          WHERE runs.owner > holders.owner ORDER BY runs.owner LIMIT 1)
  FROM holders WHERE holders.owner IS NOT NULL
), gone AS MATERIALIZED (
  SELECT holders.owner, owners.state IS DISTINCT FROM 'retired' AS crashed
  FROM holders LEFT JOIN stepwell.owners ON owners.owner = holders.owner
  WHERE holders.owner <> $1 AND owners.state IS DISTINCT FROM 'alive'
), due AS MATERIALIZED (
  SELECT run FROM stepwell.runs WHERE due <= $2
  ORDER BY due, id LIMIT $3 FOR UPDATE SKIP LOCKED
), addressed AS MATERIALIZED (
  SELECT run FROM stepwell.runs
  WHERE inbox > 0 AND owner IS NULL AND state <> 'aside' AND run NOT IN (SELECT run FROM due)
  ORDER BY id LIMIT greatest($3 - (SELECT count(*) FROM due), 0) FOR UPDATE SKIP LOCKED
), left_behind AS MATERIALIZED (
  SELECT held.run, gone.crashed FROM gone CROSS JOIN LATERAL (
    SELECT runs.run FROM stepwell.runs WHERE runs.owner = gone.owner
    ORDER BY runs.id LIMIT $3 FOR UPDATE SKIP LOCKED
  ) AS held
  LIMIT greatest($3 - (SELECT count(*) FROM due) - (SELECT count(*) FROM addressed), 0)
), free AS (
  SELECT run, false AS crashed FROM due
  UNION ALL SELECT run, false FROM addressed
  UNION ALL SELECT run, crashed FROM left_behind
)
UPDATE stepwell.runs SET state = 'held', owner = $1, due = NULL, problem = NULL,
  recoveries = recoveries + free.crashed::integer
FROM free WHERE runs.run = free.run
RETURNING runs.id, runs.recoveries";

pub(super) async fn claim(
    connection: &mut PgConnection,
    sql: &Sql,
    claim: &Claim,
) -> Done<Vec<Claimed>> {
    if !claim.gone.is_empty() {
        bury(&mut *connection, sql, &claim.gone).await?;
    }
    let taker = uuid_of(claim.owner);
    let query = match &claim.run {
        Some(run) => sql.query(CLAIM_ONE).bind(taker).bind(run.as_str()),
        None => {
            let query = sql.query(CLAIM).bind(taker).bind(claim.now.as_micros());
            query.bind(integer(claim.limit))
        }
    };
    let mut taken = Vec::new();
    if claim.limit > 0 {
        for row in query.fetch_all(&mut *connection).await? {
            // What nobody can name nobody can run.
            if let Ok(run) = RunId::new(row.try_get::<&str, _>(0)?) {
                let recoveries = u32::try_from(row.try_get::<i64, _>(1)?).unwrap_or(u32::MAX);
                taken.push(Claimed { run, recoveries });
            }
        }
    }
    if claim.run.is_none() {
        forget(connection, sql).await?;
    }
    // So that equal histories go equally.
    taken.sort_unstable_by(|a, b| a.run.cmp(&b.run));
    Ok(Ok(taken))
}

/// Owners of which these were the last beats are gone.
async fn bury(connection: &mut PgConnection, sql: &Sql, gone: &[Beat]) -> sqlx::Result<()> {
    let gone_owners = sql.query(
        "WITH last AS MATERIALIZED (
           SELECT owners.owner FROM stepwell.owners JOIN unnest($1::uuid[], $2::bigint[])
             AS gone (owner, beats) ON gone.owner = owners.owner AND gone.beats = owners.beats
           WHERE state = 'alive' ORDER BY owners.owner FOR UPDATE OF owners
         )
         UPDATE stepwell.owners SET state = 'gone' FROM last WHERE owners.owner = last.owner",
    );
    let owners: Vec<Uuid> = gone.iter().map(|beat| uuid_of(beat.owner)).collect();
    let beats: Vec<i64> = gone.iter().map(|beat| integer(beat.count)).collect();
    gone_owners.bind(owners).bind(beats).execute(connection).await.map(drop)
}

/// Those that have retired are remembered as long as they hold something.
async fn forget(connection: &mut PgConnection, sql: &Sql) -> sqlx::Result<()> {
    let forget = sql.query(
        "DELETE FROM stepwell.owners WHERE owner IN (
           SELECT owner FROM stepwell.owners WHERE state = 'retired'
             AND NOT EXISTS (SELECT FROM stepwell.runs WHERE runs.owner = owners.owner)
           FOR UPDATE SKIP LOCKED
         )",
    );
    forget.execute(connection).await.map(drop)
}
