//! Each call of a storage fails once: the first, the second, and so on until none is left, before it is
//! done, after it was, and without an answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{Either, join, select};
use stepwell::Workflow;
use stepwell::storage::{Memory, RunQuery, Storage};
use stepwell::testing::Fault;

use super::{World, check, client, shapes};

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
                let world = World::new(failing, storage, Some((failing, fault)));
                let runs = world.time.block_on(async {
                    let asks = async {
                        let id = client(Arc::clone(&world), 0, shape.clone(), 0).await;
                        world.all_done.store(true, Ordering::Relaxed);
                        vec![id]
                    };
                    let all = join(asks, Arc::clone(&world).process(0));
                    match select(Box::pin(all), Box::pin(world.nap(PATIENCE))).await {
                        Either::Left(((runs, ()), _)) => runs,
                        Either::Right(_) => {
                            let stored = world.storage.list(RunQuery::default()).await.unwrap();
                            panic!("{}: {fault:?} call {failing}: {stored:#?}", shape.id());
                        }
                    }
                });
                futures::executor::block_on(check(&world, &runs.unwrap()));
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

const FAULTS: [Fault; 4] = [Fault::Before, Fault::After, Fault::Hangs, Fault::HangsAfter];

#[test]
fn every_call_may_fail_once() {
    for fault in FAULTS {
        let calls = each_call_fails(fault, &shapes(), |run| run(Memory::new()));
        assert!(calls > 20, "{calls} calls");
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn every_call_of_a_file_may_fail_once() {
    // Files take their time; these shapes make every kind of call.
    let few = |shape: &Workflow| ["diamond", "signal"].contains(&shape.id());
    let shapes: Vec<Workflow> = shapes().into_iter().filter(few).collect();
    for fault in [Fault::Before, Fault::After] {
        each_call_fails(fault, &shapes, |run| {
            let file = super::files::File::new();
            run(file.open());
        });
    }
}
