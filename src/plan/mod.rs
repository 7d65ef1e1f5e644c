//! Plans: which steps depend on which, in what order they can run, and pictures of that.
//!
//! A plan knows names and edges and nothing else: conditions, retries and time belong to
//! [`crate::workflow`] and [`crate::run`].

mod cycle;
mod drawing;
mod edge;
mod execution_plan;
mod measure;
mod resolver;
mod svg;
#[cfg(test)]
mod tests;

pub use cycle::Cycle;
pub use drawing::{Drawing, DrawnStatus};
pub use edge::{Edge, EdgeKind, Link};
pub(crate) use edge::{End, Meaning};
pub use execution_plan::ExecutionPlan;
pub use measure::CriticalPath;
pub use resolver::{DagResolver, PlanStep};
