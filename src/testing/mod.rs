//! For tests of your own workflows: time that costs nothing, and order that depends on a seed only.

mod faulty;
mod virtual_runtime;

pub use faulty::{Call, Fault, Faulty};
pub use virtual_runtime::{Stalled, VirtualRuntime};
