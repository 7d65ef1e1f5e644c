//! Configuring an engine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use super::admission::Slots;
use super::known::Known;
use super::patient::Patient;
use super::{Engine, Inner, Placement, Retention, Shared, defaults, sampler, tend};
use crate::error::{Error, ErrorKind, Result};
use crate::executor::{ExecutorRegistry, Facilities, StepExecutor};
use crate::retry::{BreakerConfig, ErrorClassifier, RetryBudget};
use crate::runtime::Runtime;
#[cfg(feature = "secrets")]
use crate::secret::KeyProvider;
use crate::storage::{BlobStore, Storage};
use crate::value::Json;
use crate::workflow::Workflow;

/// Limits of an engine over all its runs; reaching one makes steps wait.
#[derive(Clone, Debug)]
pub struct EngineLimits {
    /// Steps running at once; default 10,000.
    pub max_concurrent_steps: usize,
    /// Steps of one type running at once; none by default.
    pub per_type: BTreeMap<String, usize>,
    /// How long cancelled steps have to stop by themselves; default 10 s.
    pub cancel_grace: std::time::Duration,
    /// When a type's circuit breaker opens; none has no breaker.
    pub breaker: Option<BreakerConfig>,
    /// Outputs of more bytes than this, as JSON, go to the blob store, if the engine has one, and so
    /// do those that `limits.max_value_bytes` of the workflow refuses; default 256 KiB.
    pub spill_over: usize,
    /// How long an engine may say nothing before the others on its storage take its runs over; the
    /// same for all of them. It says something three times as often. A storage that does not answer for
    /// as long is taken for one that failed. Default 30 s.
    pub lease: std::time::Duration,
    /// How often a run may be taken over from engines that were gone without getting on, before it is
    /// put in quarantine; default 5. From the second time on it may have to wait for its turn: see
    /// [durability](crate::guide::durability).
    pub max_recoveries: u32,
    /// After how many events the state of a run is written, so that who goes on with it reads no more
    /// than about as many: 10,000 are read in some ten milliseconds. A state that takes long to write is
    /// written less often. Default 10,000.
    pub snapshot_every: u64,
    /// How many events are kept of a run that has more: of those before only what tells
    /// [how it began and what people did](crate::Event::is_kept). Only a run whose state has been written
    /// forgets, so runs that have as many events as their definition makes them have keep them all.
    /// Default 50,000.
    pub history_kept: u64,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self {
            max_concurrent_steps: 10_000,
            per_type: BTreeMap::new(),
            cancel_grace: std::time::Duration::from_secs(10),
            breaker: Some(BreakerConfig::default()),
            spill_over: 256 << 10,
            lease: std::time::Duration::from_secs(30),
            max_recoveries: 5,
            snapshot_every: 10_000,
            history_kept: 50_000,
        }
    }
}

const LEASE_MIN: std::time::Duration = std::time::Duration::from_millis(100);

/// Configures an engine.
#[derive(Debug, Default)]
#[must_use]
pub struct EngineBuilder {
    registry: ExecutorRegistry,
    storage: Option<Arc<dyn Storage>>,
    runtime: Option<Arc<dyn Runtime>>,
    workflows: Vec<Workflow>,
    capabilities: BTreeSet<String>,
    classifier: ErrorClassifier,
    limits: EngineLimits,
    budget: RetryBudget,
    placements: BTreeMap<String, Placement>,
    blobs: Option<Arc<dyn BlobStore>>,
    retention: Vec<Retention>,
    #[cfg(feature = "secrets")]
    keys: Option<Arc<dyn KeyProvider>>,
}

impl EngineBuilder {
    /// One executor for all steps of a type.
    pub fn executor(mut self, name: impl Into<String>, executor: impl StepExecutor) -> Self {
        self.registry.register(name, executor);
        self
    }

    /// An executor per step of a type, made from the step's configuration before a run starts.
    pub fn executor_factory<E: StepExecutor>(
        mut self,
        name: impl Into<String>,
        factory: impl Fn(&Json) -> Result<E, String> + Send + Sync + 'static,
    ) -> Self {
        self.registry.register_factory(name, factory);
        self
    }

    /// All executors at once, replacing the built-in ones too.
    pub fn registry(mut self, registry: ExecutorRegistry) -> Self {
        self.registry = registry;
        self
    }

    /// Where runs are kept; in memory by default.
    pub fn storage(mut self, storage: impl Storage) -> Self {
        self.storage = Some(Arc::new(storage));
        self
    }

    /// Where time and threads come from; by default the runtime that the engine is built in, where
    /// the crate has a feature for it, or else [`Host`](crate::runtime::Host).
    pub fn runtime(mut self, runtime: impl Runtime) -> Self {
        self.runtime = Some(Arc::new(runtime));
        self
    }

    /// A workflow that sub-workflow steps may name: by its id, or with a version, as in `review@3`. An
    /// id alone means the highest version that there is; a workflow without one is lower than all.
    pub fn workflow(mut self, workflow: &Workflow) -> Self {
        self.workflows.push(workflow.clone());
        self
    }

    /// Something that the engine offers to steps that need it.
    pub fn capability(mut self, name: impl Into<String>) -> Self {
        self.capabilities.insert(name.into());
        self
    }

    /// How errors of steps are told apart.
    pub fn classifier(mut self, classifier: ErrorClassifier) -> Self {
        self.classifier = classifier;
        self
    }

    /// Limits over all runs.
    pub fn limits(mut self, limits: EngineLimits) -> Self {
        self.limits = limits;
        self
    }

    /// How much of all attempts may be retries.
    pub fn retry_budget(mut self, budget: RetryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// Where steps of a type run, instead of where measuring says.
    pub fn placement(mut self, name: impl Into<String>, placement: Placement) -> Self {
        self.placements.insert(name.into(), placement);
        self
    }

    /// Where outputs go that are too large for a journal.
    pub fn blobs(mut self, store: impl BlobStore) -> Self {
        self.blobs = Some(Arc::new(store));
        self
    }

    /// How long runs are kept that have ended, while the engine is [served](Engine::serve); without any,
    /// for ever. May be said once for all runs, and for workflows: a run goes when any rule says so.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention.push(retention);
        self
    }

    /// The keys that secrets are sealed with.
    #[cfg(feature = "secrets")]
    #[cfg_attr(docsrs, doc(cfg(feature = "secrets")))]
    pub fn keys(mut self, keys: impl KeyProvider) -> Self {
        self.keys = Some(Arc::new(keys));
        self
    }

    /// The engine.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] for a limit of no step at all, a lease that is no time at all, and
    /// snapshots after no event at all.
    pub fn build(self) -> Result<Engine> {
        let none = self.limits.per_type.iter().find(|(_, limit)| **limit == 0);
        if self.limits.max_concurrent_steps == 0 || none.is_some() {
            let of = none.map_or(String::new(), |(name, _)| format!(" of type `{name}`"));
            let message = format!("an engine that may run no step{of} at once never ends a run");
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        if self.limits.lease < LEASE_MIN {
            let message = "a lease of less than 100 ms is over before anybody has heard of it";
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        if self.limits.snapshot_every == 0 {
            let message = "`snapshot_every` is a number of events; u64::MAX is never";
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        let runtime = self.runtime.unwrap_or_else(defaults::runtime);
        let token = (u128::from(runtime.random()) << 64) | u128::from(runtime.random());
        let storage = self.storage.unwrap_or_else(defaults::storage);
        let facilities = Arc::new(Facilities {
            runtime: Arc::clone(&runtime),
            #[cfg(feature = "secrets")]
            keys: self.keys,
            blobs: self.blobs,
            spill_over: self.limits.spill_over,
            takes_writes: storage.takes_writes(),
        });
        let mut workflows = Known::default();
        for workflow in &self.workflows {
            workflows.add(workflow)?;
        }
        Ok(Engine(Arc::new(Shared(Arc::new(Inner {
            storage: Patient::new(storage, Arc::clone(&runtime), self.limits.lease),
            registry: self.registry,
            workflows: Mutex::new(workflows),
            capabilities: self.capabilities,
            classifier: self.classifier,
            slots: Slots::new(self.limits.max_concurrent_steps),
            limits: self.limits,
            budget: Mutex::new(self.budget),
            sampler: sampler::Sampler::default(),
            types: Mutex::default(),
            placements: self.placements,
            prepared: Mutex::default(),
            incarnation: super::tend::Incarnation::new(token),
            pulse: tend::Pulse::default(),
            retention: self.retention,
            purge_at: Mutex::default(),
            purging: futures::lock::Mutex::default(),
            looks_soon: AtomicBool::new(false),
            runs: Mutex::default(),
            lock_waiters: Mutex::default(),
            lock_releases: AtomicU64::default(),
            is_served: AtomicBool::new(false),
            doubts: super::doubt::Doubts::default(),
            aside: super::aside::Aside::default(),
            trials: Default::default(),
            fresh: Mutex::default(),
            serving: futures::task::AtomicWaker::new(),
            facilities,
            runtime,
        })))))
    }
}
