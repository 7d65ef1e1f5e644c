//! For tests of your own workflows: time that costs nothing, and order that depends on a seed only.
//! For storages of your own: [`conformance`].

pub mod conformance;
mod crash_test;
mod faulty;
mod virtual_runtime;

pub use crash_test::CrashTest;
pub use faulty::{Call, Fault, Faulty};
pub use virtual_runtime::{Stalled, VirtualRuntime};
