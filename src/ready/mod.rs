//! Ready-made workflows and steps, to be used as they are or changed.
//!
//! | | |
//! | --- | --- |
//! | [`CiCd`] | check, build, deploy to one environment after the other, roll back |
//! | [`Etl`] | read many sources, transform, load in batches, undo |
//! | [`CodeReview`] | automatic checks, an AI reviewer, people who approve, merge |
//! | [`task`] | steps with retries and time limits that fit what they do |
//!
//! `build()` gives an ordinary [`Workflow`](crate::Workflow); `into_definition()` gives it as data that can be
//! changed first. The work is done by executors of yours. A part is done by the executor registered
//! under its name, as in `lint`, until you put a step of your own in its place:
//!
//! ```
//! use serde_json::json;
//! use stepwell::{Engine, Step, executor_fn, ready};
//!
//! let workflow = ready::CiCd::new("shop")
//!     .task(Step::task("lint", "shell").config(json!({"command": ["cargo", "clippy"]})))
//!     .without("security_scan")
//!     .environment("staging")
//!     .build()?;
//! assert_eq!(
//!     workflow.plan().batch_ids()[..3],
//!     [vec!["checkout"], vec!["lint", "tests"], vec!["build"]]
//! );
//! println!("{}", workflow.to_json()?); // and to_yaml() with the feature `yaml`
//!
//! // In an engine: the executors of all parts, `shell` for `lint`.
//! let builder = Engine::builder()
//!     .executor("checkout", executor_fn(|ctx| async move { Ok(format!("/src/{}", ctx.run_input())) }));
//! # Ok::<(), stepwell::Error>(())
//! ```
//!
//! A step in a part's place keeps its own settings. What it leaves open comes from the part: retries,
//! time limits, inputs, what undoes it. Where it stands in the workflow stays as it is.

mod ci_cd;
mod code_review;
mod environment;
mod etl;
mod parts;
pub mod task;

pub use ci_cd::CiCd;
pub use code_review::CodeReview;
pub use environment::Environment;
pub use etl::Etl;
