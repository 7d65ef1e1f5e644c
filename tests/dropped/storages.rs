//! Answers of storages and stores: whoever drops one finds all of its effect, or none, and the next call
//! is answered.
//!
//! What creations, commits, messages and claims leave behind is asked of every storage by the cases of
//! its contract, group `dropped`.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use futures::StreamExt;
use futures::executor::block_on;
use stepwell::run::Want;
use stepwell::storage::{
    Acquire, BlobStore, Claim, Commit, Holding, Memory, MemoryBlobs, NewRun, Owner, Purge,
    RunQuery, Storage,
};
use stepwell::{RunId, RunStatus, Step, StepKey, Timestamp, Workflow};

/// The functions that are dropped here, and by the cases of the contract.
pub(crate) const FUNCTIONS: [&str; 23] = [
    "BlobStore::delete",
    "BlobStore::delete_run",
    "BlobStore::get",
    "BlobStore::put",
    "Storage::acquire",
    "Storage::answer",
    "Storage::beat",
    "Storage::claim",
    "Storage::clear",
    "Storage::commit",
    "Storage::create",
    "Storage::events",
    "Storage::held",
    "Storage::inbox",
    "Storage::list",
    "Storage::load",
    "Storage::mail",
    "Storage::news",
    "Storage::next_due",
    "Storage::post",
    "Storage::purge",
    "Storage::retire",
    "Storage::set_aside",
];

const A: Owner = Owner(1);
const B: Owner = Owner(2);

fn drop_after<T>(reply: impl Future<Output = T>, polls: u32) {
    let mut reply = pin!(reply);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..polls {
        if reply.as_mut().poll(&mut context).is_ready() {
            return;
        }
    }
}

fn id(name: &str) -> RunId {
    RunId::new(name).unwrap()
}

fn held(storage: &dyn Storage, name: &str) {
    let run = NewRun {
        id: id(name),
        holding: Holding::Held(A),
        workflow: Workflow::builder("w").step(Step::task("a", "t")).build().unwrap(),
        linked: Vec::new(),
        user: None,
        metadata: Default::default(),
        at: Timestamp::EPOCH,
        journal: Vec::new(),
        status: RunStatus::Pending,
    };
    block_on(storage.create(run)).unwrap();
}

fn each(test: impl Fn(&dyn Storage, u32)) {
    for polls in 0..4 {
        test(&Memory::new(), polls);
    }
    #[cfg(feature = "sqlite")]
    for polls in 0..4 {
        let file = super::files::File::new();
        test(&file.open(), polls);
    }
}

#[test]
fn a_dropped_question_for_a_lock_holds_it_or_not_and_its_run_is_given_it() {
    each(|storage, polls| {
        held(storage, "r");
        held(storage, "s");
        let now = Timestamp::EPOCH;
        let ask = |run: &str| {
            storage.acquire(
                &id(run),
                Acquire {
                    owner: A,
                    expected: 0,
                    step: StepKey::root(0),
                    wants: vec![Want::new("l")],
                    now,
                },
            )
        };
        drop_after(ask("r"), polls);
        let other = block_on(ask("s")).unwrap();
        let own = block_on(ask("r")).unwrap();
        let holders = [&other, &own].map(|denied| denied.as_ref().map(|d| d.holders.clone()));
        assert!(
            holders == [Some(vec![id("r")]), None] || holders == [None, Some(vec![id("s")])],
            "{holders:?}"
        );
    });
}

#[test]
fn a_dropped_beat_counts_once_or_not() {
    each(|storage, polls| {
        block_on(storage.beat(A)).unwrap();
        drop_after(storage.beat(A), polls);
        let beats = block_on(storage.beat(A)).unwrap();
        assert!((2..=3).contains(&beats[0].count), "{beats:?}");
    });
}

#[test]
fn after_a_dropped_farewell_an_owner_is_gone_or_can_say_it_again() {
    each(|storage, polls| {
        block_on(storage.beat(A)).unwrap();
        held(storage, "r");
        drop_after(storage.retire(A), polls);
        block_on(storage.retire(A)).unwrap();
        let now = Timestamp::EPOCH;
        let claim = Claim { owner: B, now, gone: Vec::new(), run: None, limit: 10 };
        assert_eq!(block_on(storage.claim(claim)).unwrap()[0].recoveries, 0);
    });
}

#[test]
fn a_run_that_somebody_began_to_set_aside_is_aside_or_held() {
    each(|storage, polls| {
        block_on(storage.beat(A)).unwrap();
        held(storage, "r");
        let until = Timestamp::MAX;
        drop_after(storage.set_aside(&id("r"), A, until, "why".into()), polls);
        // It may still be on its way; who asks for something else is told when it has come.
        block_on(storage.beat(A)).unwrap();
        let holding = block_on(storage.load(&id("r"))).unwrap().unwrap().holding;
        assert!([Holding::Held(A), Holding::Aside(until)].contains(&holding), "{holding:?}");
    });
}

#[test]
fn whoever_drops_what_was_read_can_read_it_again() {
    each(|storage, polls| {
        held(storage, "r");
        drop_after(storage.load(&id("r")), polls);
        drop_after(storage.events(&id("r"), 0, 10), polls);
        drop_after(storage.inbox(&id("r")), polls);
        drop_after(storage.answer(&id("r"), 1), polls);
        drop_after(storage.mail(A, 10), polls);
        drop_after(storage.news(A).next(), polls);
        drop_after(storage.held(A, None, 10), polls);
        drop_after(storage.next_due(), polls);
        drop_after(storage.list(RunQuery::default()), polls);
        assert!(block_on(storage.load(&id("r"))).unwrap().is_some());
        assert_eq!(block_on(storage.events(&id("r"), 0, 10)).unwrap(), []);
        assert_eq!(block_on(storage.inbox(&id("r"))).unwrap(), []);
        assert_eq!(block_on(storage.answer(&id("r"), 1)).unwrap(), None);
        assert_eq!(block_on(storage.mail(A, 10)).unwrap(), []);
        assert_eq!(block_on(storage.held(A, None, 10)).unwrap(), [id("r")]);
        assert_eq!(block_on(storage.next_due()).unwrap(), None);
        assert_eq!(block_on(storage.list(RunQuery::default())).unwrap().len(), 1);
    });
}

#[test]
fn a_run_whose_removal_was_dropped_is_named_to_who_asks_again() {
    each(|storage, polls| {
        block_on(storage.beat(A)).unwrap();
        held(storage, "r");
        let (status, holding) = (RunStatus::Succeeded, Holding::Finished);
        let commit = Commit {
            owner: A,
            expected: 0,
            events: Vec::new(),
            status,
            answers: Vec::new(),
            holding,
            released: Vec::new(),
            recovered: false,
            writes: None,
            snapshot: None,
        };
        block_on(storage.commit(&id("r"), commit)).unwrap();
        let all = || Purge { owner: A, before: None, keep: Some(0), workflow: None, limit: 10 };
        drop_after(storage.purge(all()), polls);
        assert_eq!(block_on(storage.purge(all())).unwrap(), [id("r")]);
        drop_after(storage.clear(A, vec![id("r")]), polls);
        block_on(storage.clear(A, vec![id("r")])).unwrap();
        held(storage, "r");
    });
}

fn each_store(test: impl Fn(&dyn BlobStore, u32)) {
    for polls in 0..4 {
        test(&MemoryBlobs::new(), polls);
    }
    #[cfg(all(feature = "files", feature = "sqlite"))]
    for polls in 0..4 {
        let file = super::files::File::new();
        test(&stepwell::storage::FileBlobs::open(file.folder().join("blobs")).unwrap(), polls);
    }
}

#[test]
fn a_blob_whose_putting_was_dropped_is_whole_or_as_it_was() {
    each_store(|blobs, polls| {
        let (run, old, new) = (id("r"), vec![1; 100_000], vec![2; 200_000]);
        block_on(blobs.put(&run, "b", old.clone())).unwrap();
        drop_after(blobs.put(&run, "b", new.clone()), polls);
        drop_after(blobs.get(&run, "b"), polls);
        let found = block_on(blobs.get(&run, "b")).unwrap().unwrap();
        assert!(found == old || found == new, "{} bytes", found.len());
    });
}

#[test]
fn blobs_whose_deletion_was_dropped_can_be_deleted() {
    each_store(|blobs, polls| {
        let run = id("r");
        block_on(blobs.put(&run, "b", vec![1])).unwrap();
        drop_after(blobs.delete(&run, vec!["b".into()]), polls);
        block_on(blobs.delete(&run, vec!["b".into()])).unwrap();
        assert_eq!(block_on(blobs.get(&run, "b")).unwrap(), None);
        block_on(blobs.put(&run, "b", vec![2])).unwrap();
        drop_after(blobs.delete_run(&run), polls);
        block_on(blobs.delete_run(&run)).unwrap();
        assert_eq!(block_on(blobs.get(&run, "b")).unwrap(), None);
    });
}
