//! From the name of a type to an executor.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{StepExecutor, builtin};
use crate::error::{Error, ErrorKind, Result, nearest};
use crate::value::Json;

type Factory = Arc<dyn Fn(&Json) -> Result<Arc<dyn StepExecutor>, String> + Send + Sync>;

/// Executors by type. The default one holds the built-in types `input`, `process`, `output`,
/// `condition`, and with feature `schema` also `validate`.
///
/// ```
/// use stepwell::{ExecutorRegistry, Json, executor_fn};
///
/// let mut registry = ExecutorRegistry::default();
/// registry.register("noop", executor_fn(|_| async { Ok(()) }));
/// assert!(registry.create("noop", &Json::Null).is_ok());
/// let error = registry.create("nop", &Json::Null).err().unwrap();
/// assert!(error.to_string().starts_with("there is no executor `nop` (did you mean `noop`?); known"));
/// ```
#[derive(Clone)]
pub struct ExecutorRegistry {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone)]
enum Entry {
    Shared(Arc<dyn StepExecutor>),
    Factory(Factory),
}

impl ExecutorRegistry {
    /// A registry without even the built-in types.
    #[must_use]
    pub const fn empty() -> Self {
        Self { entries: BTreeMap::new() }
    }

    /// One executor for all steps of a type; replaces what was there.
    pub fn register(&mut self, name: impl Into<String>, executor: impl StepExecutor) {
        self.entries.insert(name.into(), Entry::Shared(Arc::new(executor)));
    }

    /// An executor per step of a type, made from the step's configuration before the run starts.
    pub fn register_factory<E: StepExecutor>(
        &mut self,
        name: impl Into<String>,
        factory: impl Fn(&Json) -> Result<E, String> + Send + Sync + 'static,
    ) {
        let factory: Factory =
            Arc::new(move |config| Ok(Arc::new(factory(config)?) as Arc<dyn StepExecutor>));
        self.entries.insert(name.into(), Entry::Factory(factory));
    }

    /// The executor for a step of this type with this configuration.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a type that is not registered, naming those that are;
    /// [`ErrorKind::Configuration`] for a configuration that cannot work.
    pub fn create(&self, name: &str, config: &Json) -> Result<Arc<dyn StepExecutor>> {
        let entry = self.entries.get(name).ok_or_else(|| self.unknown(name))?;
        let refused = |reason: String| {
            Error::new(ErrorKind::Configuration, format!("executor `{name}`: {reason}"))
        };
        let executor = match entry {
            Entry::Shared(executor) => Arc::clone(executor),
            Entry::Factory(factory) => factory(config).map_err(refused)?,
        };
        executor.validate_config(config).map_err(refused)?;
        Ok(executor)
    }

    /// The registered types.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    fn unknown(&self, name: &str) -> Error {
        let near = nearest(name, self.names());
        let hint = near.map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
        let known = self.names().collect::<Vec<_>>().join(", ");
        Error::new(
            ErrorKind::NotFound,
            format!("there is no executor `{name}`{hint}; known: {known}"),
        )
    }
}

impl Default for ExecutorRegistry {
    fn default() -> Self {
        let mut registry = Self::empty();
        builtin::register(&mut registry);
        registry
    }
}

impl fmt::Debug for ExecutorRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}
