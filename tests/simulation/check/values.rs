//! What steps have come to, and what others have read of it.

use std::collections::{BTreeMap, BTreeSet};

use stepwell::{Event, Json, RunId, StepKey, Value};

use super::RunSeen;
use crate::tape::{Noted, What};

/// What later steps are to read, as far as the journal was read.
#[derive(Default)]
pub(super) struct Values {
    /// By the path of the step.
    outputs: BTreeMap<String, Value>,
    /// What the variable of the run has been set to.
    seen: Vec<Json>,
}

impl RunSeen<'_> {
    /// A result is what an attempt has come to that has really been made, and the very one that the
    /// journal says has run.
    pub(super) fn n3_the_result_is_that_of_code(
        &mut self,
        run: &RunId,
        event: &Event,
        tape: &[Noted],
        done: &BTreeSet<usize>,
    ) {
        match event {
            Event::StepSucceeded { step, output } => {
                let path = self.state.path(*step);
                if let Some(place) = output.get("said").and_then(Json::as_u64)
                    && self.is_task(*step)
                {
                    let place = place as usize;
                    let What::Begun(begun) = &tape[place].what else {
                        panic!("N3 {run}: {path} has the result of nothing that has begun")
                    };
                    let came_to = (&begun.run, begun.attempt, &begun.key);
                    let key = format!("{run}/{}", self.state.instance(*step));
                    let wanted = (run, self.state.attempt(*step), &key);
                    assert_eq!(came_to, wanted, "N3 {run}: {path} has the result of another");
                    assert!(done.contains(&place), "N3 {run}: {path} has a result before its end");
                }
                self.values.outputs.insert(path, output.clone());
            }
            Event::StepReset { step, .. } => {
                // With the steps of its bodies: they will be others.
                let path = self.state.path(*step);
                let is_below = |other: &str| {
                    let rest = other.strip_prefix(&path);
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '[']))
                };
                self.values.outputs.retain(|other, _| !is_below(other));
            }
            Event::VariablesSet { step, values } if step.is_none_or(|step| step.scope == 0) => {
                self.values.seen.extend(values.get("seen").cloned());
            }
            _ => {}
        }
    }

    fn is_task(&self, step: StepKey) -> bool {
        let node = self.state.node(step);
        node.is_some_and(|node| matches!(node.kind, stepwell::workflow::NodeKind::Task { .. }))
    }

    /// A step that begins reads what was recorded, and nothing else.
    pub(super) fn n3_reads_what_was_recorded(&self, run: &RunId, step: StepKey, read: &Value) {
        for (name, value) in read.as_object().into_iter().flatten() {
            let path = self.state.path(step);
            if name == "vars" {
                // Steps beside it may set it at any time, also while this one is begun.
                let is_known = value.is_null() || self.values.seen.contains(value);
                assert!(is_known, "N3 {run}: {path} reads of a variable {value}");
            }
            let Some(source) = self.state.visible(step, name) else { continue };
            let source = self.state.path(source);
            let known = self.values.outputs.get(&source).map_or(&Json::Null, |value| &**value);
            assert_eq!(value, known, "N3 {run}: {path} reads {source}");
        }
    }
}
