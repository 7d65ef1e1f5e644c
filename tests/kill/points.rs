//! Dead at every write: before it, and after it is done but before anybody hears so.

use std::sync::atomic::AtomicU64;

use stepwell::journal::Recorded;
use stepwell::run::Want;
use stepwell::storage::{
    Answer, Beat, Claim, Claimed, Commit, Created, Denied, Message, NewRun, Owner, Purge, Reply,
    RunQuery, StoredRun, Summary,
};
use stepwell::{ErrorKind, Result, RunId, StepKey, Timestamp};

use super::check::{Snapshot, check};
use super::*;

/// A storage whose process dies of one of its writes.
#[derive(Debug)]
struct Deadly {
    storage: Sqlite,
    writes: AtomicU64,
    /// Counted from 1.
    dies_at: u64,
    /// Otherwise after it.
    before: bool,
}

impl Deadly {
    fn write<T: Send + Unpin + 'static>(
        &self,
        write: impl FnOnce(&Sqlite) -> Reply<T>,
    ) -> Reply<T> {
        if self.writes.fetch_add(1, Ordering::SeqCst) + 1 != self.dies_at {
            return write(&self.storage);
        }
        if self.before {
            std::process::abort();
        }
        let done = write(&self.storage);
        Reply::later(async move {
            drop(done.await);
            std::process::abort()
        })
    }
}

impl Storage for Deadly {
    fn create(&self, run: NewRun) -> Reply<Result<Created>> {
        self.write(|storage| storage.create(run))
    }

    fn commit(&self, run: &RunId, commit: Commit) -> Reply<Result<Vec<Recorded>>> {
        self.write(|storage| storage.commit(run, commit))
    }

    fn load(&self, run: &RunId) -> Reply<Result<Option<StoredRun>>> {
        self.storage.load(run)
    }

    fn events(&self, run: &RunId, from: u64, limit: usize) -> Reply<Result<Vec<(u64, Recorded)>>> {
        self.storage.events(run, from, limit)
    }

    fn post(&self, run: &RunId, message: Message) -> Reply<Result<u64>> {
        self.write(|storage| storage.post(run, message))
    }

    fn inbox(&self, run: &RunId) -> Reply<Result<Vec<(u64, Message)>>> {
        self.storage.inbox(run)
    }

    fn answer(&self, run: &RunId, number: u64) -> Reply<Result<Option<Answer>>> {
        self.storage.answer(run, number)
    }

    fn acquire(
        &self,
        run: &RunId,
        step: StepKey,
        wants: Vec<Want>,
        now: Timestamp,
    ) -> Reply<Result<Option<Denied>>> {
        self.write(|storage| storage.acquire(run, step, wants, now))
    }

    fn beat(&self, owner: Owner) -> Reply<Result<Vec<Beat>>> {
        self.write(|storage| storage.beat(owner))
    }

    fn retire(&self, owner: Owner) -> Reply<Result<()>> {
        self.write(|storage| storage.retire(owner))
    }

    fn held(&self, owner: Owner, after: Option<RunId>, limit: usize) -> Reply<Result<Vec<RunId>>> {
        self.storage.held(owner, after, limit)
    }

    fn mail(&self, owner: Owner, limit: usize) -> Reply<Result<Vec<RunId>>> {
        self.storage.mail(owner, limit)
    }

    fn claim(&self, claim: Claim) -> Reply<Result<Vec<Claimed>>> {
        self.write(|storage| storage.claim(claim))
    }

    fn set_aside(
        &self,
        run: &RunId,
        owner: Owner,
        until: Timestamp,
        why: String,
    ) -> Reply<Result<()>> {
        self.write(|storage| storage.set_aside(run, owner, until, why))
    }

    fn takes_writes(&self) -> bool {
        self.storage.takes_writes()
    }

    fn next_due(&self) -> Reply<Result<Option<Timestamp>>> {
        self.storage.next_due()
    }

    fn purge(&self, which: Purge) -> Reply<Result<Vec<RunId>>> {
        self.write(|storage| storage.purge(which))
    }

    fn clear(&self, owner: Owner, runs: Vec<RunId>) -> Reply<Result<()>> {
        self.write(|storage| storage.clear(owner, runs))
    }

    fn list(&self, query: RunQuery) -> Reply<Result<Vec<Summary>>> {
        self.storage.list(query)
    }
}

const DIES_AT: &str = "STEPWELL_TEST_KILL_AT";
const RUNS: [&str; 6] = ["each-0", "retry-1", "timer-2", "signal-3", "undo-4", "locked-5"];

/// All runs to their ends, the one that waits for a signal, too.
fn all(place: &Place, storage: impl Storage) {
    let (engine, witness) = (place.engine(storage), place.witness());
    block_on(async {
        let run = start(&engine, &witness, "signal-3").await.unwrap();
        if let Err(error) = run.signal("go", "gone").await {
            // An earlier one came through, and the run has ended.
            assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
        }
        finish(&engine, &witness, &RUNS.map(String::from)).await.unwrap();
        // Until now: what a run that nobody wants is at is dropped, and begun again.
        drop(run);
    });
}

fn at_every_write(test: &str, before: bool) {
    if let Some(place) = Place::given() {
        let dies_at = std::env::var(DIES_AT).unwrap().parse().unwrap();
        let writes = AtomicU64::new(0);
        return all(&place, Deadly { storage: place.open(), writes, dies_at, before });
    }
    for point in 1.. {
        let place = Place::new(&format!("{}-{point}", if before { "before" } else { "after" }));
        let lives = |dies_at: u64| {
            let mut child = place.child(test, &[(DIES_AT, dies_at.to_string())]);
            let output = child.output().unwrap();
            place.witness().over();
            if output.status.code().is_some_and(|code| code != 0) {
                panic!("{}", String::from_utf8_lossy(&output.stderr));
            }
            output.status.success()
        };
        let is_last = lives(point);
        let mut snapshots = vec![Snapshot::take(&place, &place.open())];
        if !is_last && point % 4 == 0 {
            // While it recovers, too.
            lives(1 + point / 4 % 12);
            snapshots.push(Snapshot::take(&place, &place.open()));
        }
        all(&place, place.open());
        check(&place, &snapshots);
        if is_last {
            assert!(point > 40, "{point} writes are too few for this to mean anything");
            break;
        }
    }
}

#[test]
fn nothing_is_lost_or_done_twice_when_a_process_dies_before_any_of_its_writes() {
    let test = "nothing_is_lost_or_done_twice_when_a_process_dies_before_any_of_its_writes";
    at_every_write(&format!("points::{test}"), true);
}

#[test]
fn nothing_is_lost_or_done_twice_when_a_process_dies_after_any_of_its_writes() {
    let test = "nothing_is_lost_or_done_twice_when_a_process_dies_after_any_of_its_writes";
    at_every_write(&format!("points::{test}"), false);
}
