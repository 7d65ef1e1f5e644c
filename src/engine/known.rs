//! The workflows that an engine knows, in all their versions.

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind, Result, nearest};
use crate::workflow::{Workflow, missing, parts};

/// By id and version.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<(String, Option<u32>), Workflow>);

impl Known {
    /// Adds one, or replaces the one without a version.
    pub(super) fn add(&mut self, workflow: &Workflow) -> Result<()> {
        self.agrees(workflow)?;
        let key = (workflow.id().to_string(), workflow.version());
        self.0.insert(key, workflow.clone());
        Ok(())
    }

    /// Whether the version of a workflow, if it has one, is not known with another content.
    pub(super) fn agrees(&self, workflow: &Workflow) -> Result<()> {
        let Some(version) = workflow.version() else {
            return Ok(());
        };
        let known = self.0.get(&(workflow.id().to_string(), Some(version)));
        match known.filter(|known| *known != workflow) {
            None => Ok(()),
            Some(known) => {
                let message = format!(
                    "the engine knows `{}` with another content ({:.12} there, {:.12} here); give \
                     what has changed the next version",
                    workflow.reference(),
                    known.digest(),
                    workflow.digest(),
                );
                Err(Error::new(ErrorKind::AlreadyExists, message))
            }
        }
    }

    /// The one of this name, which may end in a version.
    pub(super) fn get(&self, name: &str) -> Result<Workflow> {
        let wrong = |reason| Error::new(ErrorKind::NotFound, reason);
        let (id, version) = parts(name).map_err(wrong)?;
        let of = (id.to_string(), None)..=(id.to_string(), Some(u32::MAX));
        let found = match version {
            Some(_) => self.0.get(&(id.to_string(), version)),
            None => self.0.range(of).next_back().map(|(_, workflow)| workflow),
        };
        found.cloned().ok_or_else(|| {
            let known = self.names();
            let (message, hint) = missing(name, &known);
            let near = || {
                let near = nearest(name, known.iter().map(String::as_str))?;
                Some(format!("did you mean `{near}`?"))
            };
            let hint = hint.or_else(near).map_or_else(String::new, |hint| format!(" ({hint})"));
            Error::new(ErrorKind::NotFound, format!("{message}{hint}"))
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Workflow> {
        self.0.values()
    }

    /// What they are called, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        self.iter().map(Workflow::reference).collect()
    }
}
