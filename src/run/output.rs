//! What a step that has succeeded comes to: its output, and variables.

use std::collections::BTreeMap;

use serde_json::Map;

use super::RunState;
use super::turn::Turn;
use crate::error::ErrorClass;
use crate::id::StepKey;
use crate::journal::Event;
use crate::value::{Json, Value};
use crate::workflow::Formula;

impl Turn<'_> {
    /// A step has come to this. It succeeds, unless that is not what it may come to.
    #[inline(always)]
    pub(super) fn succeed(&mut self, step: StepKey, raw: Value) {
        let plain = self.state.node(step).is_some_and(|node| node.more.is_none());
        if plain && self.has_room(raw.bytes()) {
            return self.end(step, Event::StepSucceeded { step, output: raw });
        }
        self.succeed_with(step, raw);
    }

    #[cold]
    fn succeed_with(&mut self, step: StepKey, raw: Value) {
        if let Err(too_large) = self.fits_in(raw.bytes()) {
            return self.fail(step, ErrorClass::Validation, format!("the output {too_large}"));
        }
        match self.results(step, &raw) {
            Ok((output, set)) => {
                let size = output.bytes() + set.as_ref().map_or(0, Value::bytes);
                if let Err(too_large) = self.fits_in(size) {
                    let message = format!("the output, with the variables, {too_large}");
                    return self.fail(step, ErrorClass::Validation, message);
                }
                if let Some(values) = set {
                    self.emit(Event::VariablesSet { step: Some(step), values });
                }
                self.end(step, Event::StepSucceeded { step, output });
            }
            Err(wrong) => self.fail(step, ErrorClass::Validation, wrong),
        }
    }

    /// Whether there is room even with all that is forgotten.
    #[inline]
    fn has_room(&self, bytes: usize) -> bool {
        let limits = &self.state.program.unit(0).limits;
        let all = self.state.bytes.saturating_add(bytes);
        bytes <= limits.max_value_bytes && all <= limits.max_run_bytes
    }

    /// Whether a value of so many bytes may become part of the journal.
    pub(super) fn fits_in(&self, bytes: usize) -> Result<(), String> {
        let limits = &self.state.program.unit(0).limits;
        if bytes > limits.max_value_bytes {
            let max = limits.max_value_bytes;
            return Err(format!(
                "takes {bytes} bytes; the limit is {max} (raise `limits.max_value_bytes`, or give the \
                 engine a blob store)"
            ));
        }
        self.fits_in_run(bytes)
    }

    /// Whether the journal has room for so many bytes more.
    pub(super) fn fits_in_run(&self, bytes: usize) -> Result<(), String> {
        let max = self.state.program.unit(0).limits.max_run_bytes;
        if self.state.bytes_kept().saturating_add(bytes) > max {
            return Err(format!(
                "would make the run's values more than {max} bytes (raise `limits.max_run_bytes`, or \
                 give the engine a blob store)"
            ));
        }
        Ok(())
    }

    pub(super) fn results(
        &self,
        step: StepKey,
        raw: &Value,
    ) -> Result<(Value, Option<Value>), String> {
        let Some((node, unit)) = self.state.node(step).zip(self.state.unit(step)) else {
            return Ok((raw.clone(), None));
        };
        let Some(more) = &node.more else {
            return Ok((raw.clone(), None));
        };
        // A value that is kept elsewhere was checked before it went there.
        if let Some(schema) = more.schema.as_ref().filter(|_| !crate::value::is_blob(raw)) {
            schema.check(raw, "output").map_err(|wrong| wrong.to_string())?;
        }
        let output = match more.outputs.as_slice() {
            [] => raw.clone(),
            outputs => Json::Object(self.map(step, outputs, raw, "outputs")?).into(),
        };
        if more.set.is_empty() {
            return Ok((output, None));
        }
        let set = self.map(step, &more.set, raw, "set")?;
        for (name, value) in &set {
            unit.variables.check(name, value).map_err(|wrong| wrong.to_string())?;
        }
        Ok((output, Some(Json::Object(set).into())))
    }

    fn map(
        &self,
        step: StepKey,
        fields: &[(String, Formula)],
        raw: &Json,
        what: &str,
    ) -> Result<Map<String, Json>, String> {
        let view = self.view(step).output(raw);
        let value = |(name, formula): &(String, Formula)| match formula.evaluate(&view) {
            Ok(value) => Ok((name.clone(), value)),
            Err(error) => Err(format!("`{what}.{name}`: {error}")),
        };
        fields.iter().map(value).collect()
    }

    /// The values of expressions that a step gives something else, by name.
    pub(super) fn given(
        &self,
        step: StepKey,
        fields: &[(String, Formula)],
    ) -> Result<BTreeMap<String, Value>, String> {
        let given = self.map(step, fields, &Json::Null, "variables")?;
        Ok(given.into_iter().map(|(name, value)| (name, value.into())).collect())
    }
}

impl RunState {
    /// How large a value may be to become part of the journal.
    pub(crate) fn most_value_bytes(&self) -> usize {
        self.program.unit(0).limits.max_value_bytes
    }

    /// Gives variables new values: those of the workflow that a step belongs to, or of the run.
    pub(super) fn set_variables(&mut self, step: Option<StepKey>, values: &Value) {
        let at = self.workflow_of(step.map_or(0, |step| step.scope));
        let own = self.scope_mut(at).and_then(|scope| scope.own.as_mut());
        let variables = match own {
            Some(own) => &mut own.variables,
            None => match &mut self.started {
                Some(start) => &mut start.variables,
                None => return,
            },
        };
        let mut all = match std::mem::take(variables).into_json() {
            Json::Object(all) => all,
            _ => Map::new(),
        };
        for (name, value) in values.as_object().into_iter().flatten() {
            all.insert(name.clone(), value.clone());
        }
        *variables = Json::Object(all).into();
    }
}
