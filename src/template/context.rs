//! What a template can see: the parts of a run that it names, as minijinja's values.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use minijinja::Value;

use super::closed::{Closed, Kind};
use super::filters::GLOBALS;
use super::grammar::Path;
use super::{VALUE_BYTES_MAX, measure};
use crate::error::nearest;
use crate::expr::{Aspect, Mention, ROOTS, Scope, SyntaxError};
use crate::id::StepId;
use crate::value::{Json, NESTING_MAX};

/// Everything that a template reads.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    roots: BTreeMap<&'static str, Part>,
    steps: BTreeMap<StepId, WantedStep>,
    pub(super) mentions: Vec<Mention>,
}

/// The parts of a value that are read.
#[derive(Debug, Default)]
struct Part {
    whole: bool,
    parts: BTreeMap<String, Self>,
}

#[derive(Debug, Default)]
struct WantedStep {
    /// Written without `steps.`.
    bare: bool,
    named: bool,
    output: Part,
    error: Part,
}

impl Part {
    fn add(&mut self, fields: &[&str]) {
        match fields {
            [] => self.whole = true,
            [first, rest @ ..] => self.parts.entry((*first).into()).or_default().add(rest),
        }
    }
}

impl Wanted {
    pub(super) fn add(&mut self, path: &Path<'_>) -> Result<(), SyntaxError> {
        let Path { name, fields, span, is_called } = path;
        if *is_called && *name != "range" {
            let what = fields.last().unwrap_or(name);
            let error = SyntaxError::new(*span, format!("there is no function `{what}`"));
            return Err(error.hint("filters stand behind a `|`, as in `input.user|items`"));
        }
        if let Some(root) = ROOTS.iter().find(|root| *root == name) {
            self.roots.entry(root).or_default().add(fields);
            return Ok(());
        }
        if GLOBALS.contains(name) {
            return Ok(());
        }
        let (id, aspect, fields, bare) = match (*name, fields.as_slice()) {
            ("steps", [id, "output", fields @ ..]) => (*id, Aspect::Output, fields, false),
            ("steps", [id, "status"]) => (*id, Aspect::Status, &[] as &[&str], false),
            ("steps", [id, "error", fields @ ..]) => (*id, Aspect::Error, fields, false),
            ("steps", _) => {
                let message = "`steps` needs a step and what of it is read";
                let hint = "as in steps.build.output, steps['a-b'].status or steps.build.error";
                return Err(SyntaxError::new(*span, message).hint(hint));
            }
            (id, fields) => (id, Aspect::Output, fields, true),
        };
        let step = self.steps.entry(id.into()).or_default();
        step.bare |= bare;
        step.named |= !bare;
        match aspect {
            Aspect::Output => step.output.add(fields),
            Aspect::Error => step.error.add(fields),
            Aspect::Status => {}
        }
        self.mentions.push(Mention { step: id.into(), aspect, span: *span });
        Ok(())
    }

    pub(super) fn roots(&self) -> impl Iterator<Item = &'static str> {
        self.roots.keys().copied()
    }
}

/// The values, and how many bytes they have.
pub(super) struct Context {
    pub(super) values: BTreeMap<String, Value>,
    pub(super) bytes: usize,
    /// Names that stand for nothing here, each with a sentence that says so.
    pub(super) absent: Vec<(String, String)>,
    /// Why something closed that was read all the same cannot be read.
    pub(super) refusal: Arc<OnceLock<String>>,
}

impl Context {
    pub(super) fn new(wanted: &Wanted, scope: &dyn Scope) -> Result<Self, String> {
        let refusal = Arc::default();
        let mut writer = Writer { left: VALUE_BYTES_MAX, refusal: &refusal };
        let (mut values, mut absent) = (BTreeMap::new(), Vec::new());
        for (root, part) in &wanted.roots {
            let place = Place { outer: None, name: root };
            match scope.root(root) {
                Some(json) => {
                    values.insert((*root).into(), writer.write(&json, Some(part), &place, 1)?);
                }
                None => absent.push(((*root).into(), format!("`{root}` has no meaning here"))),
            }
        }
        let mut steps = BTreeMap::new();
        for (id, wanted) in &wanted.steps {
            let name = id.as_str();
            let Some(step) = scope.step(name) else {
                let hint = nearest(name, ROOTS).map(|root| format!(" (did you mean `{root}`?)"));
                let hint = hint.unwrap_or_default();
                absent.push((name.into(), format!("there is no step `{name}`{hint}")));
                continue;
            };
            let place = Place { outer: None, name };
            let output = writer.write(step.output, Some(&wanted.output), &place, 1)?;
            let error = writer.write(&step.error, Some(&wanted.error), &place, 1)?;
            if wanted.bare {
                values.insert(name.into(), output.clone());
            }
            if wanted.named {
                let parts =
                    [("output", output), ("status", Value::from(step.status)), ("error", error)];
                steps.insert(name.to_owned(), Value::from_pairs(parts));
            }
        }
        values.insert("steps".into(), Value::from_pairs(steps));
        let bytes = VALUE_BYTES_MAX - writer.left;
        Ok(Self { values, bytes, absent, refusal })
    }
}

struct Writer<'a> {
    left: usize,
    refusal: &'a Arc<OnceLock<String>>,
}

/// Where a value stands; written out only for a message.
struct Place<'a> {
    outer: Option<&'a Self>,
    name: &'a str,
}

/// Any item of a list.
const ITEM: &str = "[]";

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outer {
            Some(outer) if self.name == ITEM => write!(f, "{outer}{ITEM}"),
            Some(outer) => write!(f, "{outer}.{}", self.name),
            None => f.write_str(self.name),
        }
    }
}

impl Writer<'_> {
    /// The value, or these parts of it if it is an object; null if nothing of it is read.
    fn write(
        &mut self,
        json: &Json,
        part: Option<&Part>,
        place: &Place<'_>,
        depth: usize,
    ) -> Result<Value, String> {
        if depth > NESTING_MAX {
            return Err(format!("`{place}` nests deeper than {NESTING_MAX}"));
        }
        if part.is_some_and(|part| !part.whole && part.parts.is_empty()) {
            return Ok(Value::from(()));
        }
        self.pay(json.as_str().unwrap_or_default())?;
        let part = part.filter(|part| !part.whole);
        match json {
            Json::Null => Ok(Value::from(())),
            Json::Bool(bool) => Ok(Value::from(*bool)),
            Json::Number(number) => Ok(match (number.as_i64(), number.as_u64()) {
                (Some(whole), _) => Value::from(whole),
                (None, Some(whole)) => Value::from(whole),
                (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
            }),
            Json::String(text) => Ok(Value::from(text.as_str())),
            Json::Array(items) => {
                let place = Place { outer: Some(place), name: ITEM };
                let items = items.iter().map(|item| self.write(item, None, &place, depth + 1));
                items.collect::<Result<Vec<_>, _>>().map(Value::from)
            }
            Json::Object(fields) => {
                if let Some(kind) = Kind::of(fields) {
                    self.pay(&json.to_string())?;
                    return Ok(Closed::value(kind, json, place, self.refusal));
                }
                let mut values = Vec::new();
                for (name, json) in fields {
                    let inner = part.map(|part| part.parts.get(name));
                    if inner.is_some_and(|inner| inner.is_none()) {
                        continue;
                    }
                    self.pay(name)?;
                    let place = Place { outer: Some(place), name };
                    let value = self.write(json, inner.flatten(), &place, depth + 1)?;
                    values.push((name.as_str(), value));
                }
                Ok(Value::from_pairs(values))
            }
        }
    }

    fn pay(&mut self, text: &str) -> Result<(), String> {
        let left = self.left.checked_sub(measure(text));
        self.left = left.ok_or_else(|| {
            format!("the template reads values of more than {VALUE_BYTES_MAX} bytes")
        })?;
        Ok(())
    }
}
