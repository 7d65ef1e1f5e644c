//! The contract of `Runtime`, on every one that comes with the crate.
#![cfg(all(feature = "testing", feature = "tokio", feature = "smol", feature = "threads"))]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;
use stepwell::Timestamp;
use stepwell::runtime::{Host, Runtime, Smol, Tokio, threads};
use stepwell::testing::VirtualRuntime;

async fn keeps_the_contract(runtime: Arc<dyn Runtime>) {
    let begin = runtime.now();
    assert!(begin > Timestamp::EPOCH);
    // A time that has passed is there at once.
    runtime.sleep_until(begin).await;
    runtime.sleep_until(Timestamp::EPOCH).await;
    let monotonic = runtime.monotonic();
    runtime.sleep_until(begin + Duration::from_millis(3)).await;
    assert!(runtime.now().since(begin) >= Duration::from_millis(3), "woken too early");
    assert!(runtime.monotonic() > monotonic);
    // A sleep that never ends may be dropped.
    drop(runtime.sleep_until(Timestamp::MAX));
    assert_ne!(runtime.random(), runtime.random());

    // What is spawned runs, here or elsewhere, and what cannot be spawned comes back whole.
    let (sender, receiver) = oneshot::channel();
    let work = Box::pin(async move { sender.send(7).unwrap() });
    match runtime.spawn(work) {
        Ok(()) => {}
        Err(work) => {
            assert!(!runtime.is_parallel());
            work.await;
        }
    }
    assert_eq!(receiver.await, Ok(7));
    let (sender, receiver) = oneshot::channel();
    match runtime.spawn_blocking(Box::new(move || sender.send(8).unwrap())) {
        Ok(()) => {}
        Err(work) => work(),
    }
    assert_eq!(receiver.await, Ok(8));

    // A panic stays inside what panicked.
    if runtime.spawn(Box::pin(async { panic!("on purpose") })).is_ok() {
        let (sender, receiver) = oneshot::channel();
        assert!(runtime.spawn(Box::pin(async move { sender.send(9).unwrap() })).is_ok());
        assert_eq!(receiver.await, Ok(9));
    }
    if runtime.spawn_blocking(Box::new(|| panic!("on purpose"))).is_ok() {
        let (sender, receiver) = oneshot::channel();
        assert!(runtime.spawn_blocking(Box::new(move || sender.send(1).unwrap())).is_ok());
        assert_eq!(receiver.await, Ok(1));
    }
}

#[test]
fn host() {
    futures::executor::block_on(keeps_the_contract(Arc::new(Host::default())));
}

#[test]
fn thread_pool() {
    futures::executor::block_on(keeps_the_contract(Arc::new(threads(2).unwrap())));
}

#[test]
fn smol() {
    smol::block_on(keeps_the_contract(Arc::new(Smol::default())));
}

#[test]
fn tokio_of_one_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { keeps_the_contract(Arc::new(Tokio::current().unwrap())).await });
}

#[test]
fn tokio_of_several_threads() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { keeps_the_contract(Arc::new(Tokio::current().unwrap())).await });
    assert!(Tokio::current().is_none(), "outside there is none");
}

#[test]
fn virtual_time() {
    let time = VirtualRuntime::new(4);
    time.block_on(keeps_the_contract(Arc::new(time.clone()))).unwrap();
}
