//! Each call of a storage fails once: the first, the second, and so on until none is left, before it is
//! done, after it was, without an answer, and late.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join;
use stepwell::Workflow;
use stepwell::storage::{Memory, Storage};
use stepwell::testing::Fault;

use super::client::Client;
use super::mistakes::Mistake;
use super::shapes::shapes;
use super::world::{SECOND, World};
use super::{check, settle, within};

/// How long one run may take when one call has failed: a lease, a life of a client, and then some.
const PATIENCE: Duration = Duration::from_secs(1_200);

/// How many calls one run of each shape takes; each of them fails once.
fn each_call_fails<S: Storage + Clone>(
    fault: Fault,
    shapes: &[Workflow],
    open: impl Fn(&mut dyn FnMut(S)),
) -> u64 {
    let mut most = 0;
    for shape in shapes {
        for failing in 1.. {
            let mut calls = 0;
            open(&mut |storage| {
                // The same each time but for the call that fails.
                let world = World::new(1, storage, Mistake::None, Some((failing, fault)));
                let runs = world.time.block_on(async {
                    let asks = async {
                        let client = Client::new(Arc::clone(&world), 0, shape.clone(), 0);
                        let id = client.come().await;
                        settle(&world).await;
                        world.all_done.store(true, Ordering::Relaxed);
                        vec![id]
                    };
                    let all = join(asks, Arc::clone(&world).process(0, 0));
                    within(&world, PATIENCE, all).await.0
                });
                check(&world, &runs.unwrap());
                calls = world.calls.load(Ordering::Relaxed);
            });
            if calls < failing {
                break;
            }
            most = most.max(calls);
        }
    }
    most
}

const FAULTS: [Fault; 8] = [
    Fault::Before,
    Fault::After,
    Fault::Hangs,
    Fault::HangsAfter,
    Fault::AnswersLate(SECOND),
    Fault::AnswersLate(Duration::from_secs(40)),
    Fault::DoneLate(SECOND),
    Fault::DoneLate(Duration::from_secs(40)),
];

#[test]
fn every_call_may_fail_once() {
    for fault in FAULTS {
        let calls = each_call_fails(fault, shapes(), |run| run(Memory::new()));
        assert!(calls > 20, "{calls} calls");
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn every_call_of_a_file_may_fail_once() {
    // Files take their time; these shapes make every kind of call.
    for (fault, shape) in [(Fault::Before, "signal"), (Fault::After, "diamond")] {
        let few: Vec<Workflow> =
            shapes().iter().filter(|other| other.id() == shape).cloned().collect();
        each_call_fails(fault, &few, |run| {
            let file = super::files::File::new();
            run(file.open());
        });
    }
}
