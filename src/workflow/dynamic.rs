//! Steps that are made while a run goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::compile::compile_dynamic;
use super::{Program, Step, Unit, Workflow, resolve};
use crate::error::Problems;
use crate::value::Json;

/// Steps of one dynamic step. Above this a single run's journal gets slow to replay.
pub const DYNAMIC_STEPS_MAX: usize = 10_000;

impl Unit {
    /// Compiles steps that an expression gave, inside this workflow.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub(crate) fn dynamic(&self, steps: &Json, may_run: &[String]) -> Result<Self, String> {
        let Json::Array(list) = steps else {
            return Err(format!("a list of steps is needed, not {steps:.40}"));
        };
        if list.len() > DYNAMIC_STEPS_MAX {
            let count = list.len();
            return Err(format!("{count} steps are too many; the limit is {DYNAMIC_STEPS_MAX}"));
        }
        let mut parsed: Vec<Step> = Vec::with_capacity(list.len());
        for (at, step) in list.iter().enumerate() {
            let read = serde_path_to_error::deserialize(step);
            parsed.push(read.map_err(|error| format!("steps[{at}]: {error}"))?);
        }
        let mut problems = Problems::default();
        match compile_dynamic(self, &parsed, may_run, &mut problems) {
            Some(unit) if !problems.has_errors() => Ok(unit),
            _ => Err(problems.to_string().trim_end().replace('\n', "; ")),
        }
    }
}

impl Program {
    /// A program of nothing, in place of one that is not known yet.
    pub(crate) fn nothing() -> Arc<Self> {
        Arc::new(Self { units: Vec::new(), links: Vec::new() })
    }

    /// The same with another workflow and what it links to; the number of its unit.
    pub(crate) fn extended(
        &self,
        workflow: &Workflow,
        linked: &[Workflow],
    ) -> Result<(Self, u32), String> {
        let find = |name: &str| resolve(name, workflow, linked.iter()).cloned();
        let more = Self::link(workflow, find, Vec::new).map_err(|error| error.to_string())?;
        let first = self.units.len() as u32;
        let (mut units, mut links) = (self.units.clone(), self.links.clone());
        units.extend(more.units.iter().cloned());
        let moved = |names: &BTreeMap<String, u32>| {
            names.iter().map(|(name, unit)| (name.clone(), unit + first)).collect()
        };
        links.extend(more.links.iter().map(moved));
        Ok((Self { units, links }, first))
    }

    /// The same with one more unit, which knows the workflows that another one knows.
    pub(crate) fn with(&self, unit: Unit, of: u32) -> Self {
        let (mut units, mut links) = (self.units.clone(), self.links.clone());
        links.push(links.get(of as usize).cloned().unwrap_or_default());
        units.push(Arc::new(unit));
        Self { units, links }
    }
}
