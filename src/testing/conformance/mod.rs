//! The contract of [`Storage`] as a suite of tests, for whoever writes one.
//!
//! Each case checks one sentence of the contract, or one edge of it. A storage of your own shows what
//! it can by a [`StorageFactory`], and [`storage_conformance!`](crate::storage_conformance) makes a
//! test of every case. [`differential`] then does to it and to [`Memory`] the same things, in random
//! order, and compares every answer. [`crashes`] and [`failures`] have engines use it while programs are
//! killed, and while its calls fail.
//!
//! This is a whole test file, `tests/conformance.rs`, of a crate that has a storage:
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::sync::{Arc, Mutex};
//!
//! use stepwell::storage::{Memory, Storage};
//! use stepwell::testing::conformance::{self, StorageFactory};
//!
//! /// Keeps each under its name, as folders or databases would be.
//! #[derive(Default)]
//! struct InMemory(Mutex<BTreeMap<String, Memory>>);
//!
//! impl StorageFactory for InMemory {
//!     fn open(&self, name: &str) -> Arc<dyn Storage> {
//!         Arc::new(self.0.lock().unwrap().entry(name.to_string()).or_default().clone())
//!     }
//!
//!     fn is_shared(&self) -> bool {
//!         true
//!     }
//! }
//!
//! stepwell::storage_conformance!(InMemory::default());
//!
//! # fn main() {
//! // Beside the tests of the cases, which the line above has made:
//! conformance::differential(&InMemory::default(), 0..20, 50);
//! conformance::crashes(&InMemory::default(), 0..20);
//! conformance::failures(&InMemory::default(), 5);
//! # let case = conformance::cases().iter().find(|case| case.group() == "fence").unwrap();
//! # case.run(&InMemory::default());
//! # }
//! ```
//!
//! `cargo test --test conformance fence::` runs one group; [`cases`] lists them all. A case panics
//! with the sentence that does not hold.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answers;
mod aside;
mod cases;
mod claim;
mod commit;
mod create;
mod differential;
mod dropped;
mod due;
mod fence;
mod given;
mod held;
#[doc(hidden)]
pub mod kinds;
mod list;
mod locks;
mod mail;
mod matrix;
mod messages;
mod operations;
mod owners;
mod payload;
mod purge;
mod race;
mod rates;
mod recoveries;
mod reopen;
mod scale;
mod shared;
mod snapshots;
mod trial;
mod writes;

use std::fmt;
use std::sync::Arc;

use futures::future::LocalBoxFuture;

pub use differential::differential;
pub use matrix::{crashes, failures};
use trial::Trial;

#[cfg(doc)]
use crate::storage::Memory;
use crate::storage::Storage;

/// Opens storages for the suite, and says what they can.
pub trait StorageFactory: Sync {
    /// The storage of this name, which is empty when the name is new. Names are short, of letters,
    /// digits and `_`.
    ///
    /// Where [`survives_reopen`](Self::survives_reopen), the name of one that was dropped gives what it
    /// kept. Where [`is_shared`](Self::is_shared), the name of one that is still open gives another
    /// handle to the same data, as another process would have it. Other names are asked for once.
    fn open(&self, name: &str) -> Arc<dyn Storage>;

    /// Whether what is kept outlives the storage. The group `reopen` asks nothing of others.
    fn survives_reopen(&self) -> bool {
        false
    }

    /// Whether the storage takes all owners for gone when it is opened again and was open nowhere else.
    /// The contract leaves that to it; one case of the group `reopen` asks nothing of such ones, and
    /// [`differential`] expects it of them.
    fn forgets_owners(&self) -> bool {
        false
    }

    /// Whether several handles can be open at once. The group `shared` asks nothing of others.
    fn is_shared(&self) -> bool {
        false
    }

    /// Runs a future to its end, on the thread that calls: for storages that need a runtime around.
    fn block_on(&self, future: LocalBoxFuture<'_, ()>) {
        futures::executor::block_on(future);
    }
}

/// One sentence of the contract, or one edge of it. It is written as `group::name`.
#[derive(Clone, Copy)]
pub struct Case {
    group: &'static str,
    name: &'static str,
    check: fn(&Trial<'_>),
}

impl Case {
    /// What it is about.
    #[must_use]
    pub const fn group(&self) -> &'static str {
        self.group
    }

    /// The sentence.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Checks it.
    ///
    /// # Panics
    /// When it does not hold.
    pub fn run(&self, factory: &dyn StorageFactory) {
        (self.check)(&Trial::new(factory, format!("{}_{}", self.group, self.name)));
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.group, self.name)
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! list {
    ($($group:ident { $($case:ident,)* })*) => {
        const CASES: &[Case] = &[$($(Case {
            group: stringify!($group),
            name: stringify!($case),
            check: $group::$case,
        },)*)*];
    };
}
crate::__storage_cases!(list);

/// All cases, by group.
#[must_use]
pub fn cases() -> &'static [Case] {
    CASES
}

/// Checks one case; the tests of the macro call it.
#[doc(hidden)]
pub fn check(group: &str, name: &str, factory: &dyn StorageFactory) {
    let case = CASES.iter().find(|case| case.group == group && case.name == name);
    case.unwrap_or_else(|| panic!("there is no case {group}::{name}")).run(factory);
}
