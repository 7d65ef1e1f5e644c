//! Variables: what a run is given besides its input, and what its steps may set.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::error::{Problem, Problems, nearest};
use crate::expr::{Mismatch, Schema, Type};
use crate::time::{Timestamp, parse_duration};
use crate::value::{Json, Value};

/// The type of a workflow variable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VariableType {
    /// Anything.
    #[default]
    Any,
    /// Text.
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// True or false.
    Boolean,
    /// A list.
    Array,
    /// A map.
    Object,
    /// A point in time: text as in RFC 3339.
    DateTime,
    /// A length of time: text such as `1h30m`, or seconds.
    Duration,
    /// A text that nobody is to see. Runs keep it sealed, and only steps that take it as an input
    /// can open it; see the chapter on [data and secrets](crate::guide).
    Secret,
}

impl VariableType {
    /// Whether a value is of this type. Of a secret only the sealed form is a value.
    #[must_use]
    pub fn admits(self, value: &Json) -> bool {
        match self {
            Self::Any => true,
            Self::String => value.is_string(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::Array => value.is_array(),
            Self::Object => value.is_object(),
            Self::DateTime => value.as_str().is_some_and(|text| text.parse::<Timestamp>().is_ok()),
            Self::Duration => match value {
                Json::String(text) => parse_duration(text).is_ok(),
                other => other.as_f64().is_some_and(|seconds| seconds >= 0.0),
            },
            Self::Secret => crate::value::is_sealed(value),
        }
    }

    /// Whether a value of which this is known may be of this type.
    fn may_take(self, given: &Type) -> bool {
        match self {
            Self::Duration => matches!(given, Type::Text | Type::Number),
            _ => same_kind(given, &self.known()),
        }
    }

    /// What is known of its values beforehand.
    fn known(self) -> Type {
        match self {
            Self::Any | Self::Duration => Type::Any,
            Self::String | Self::DateTime => Type::Text,
            Self::Integer | Self::Number => Type::Number,
            Self::Boolean => Type::Boolean,
            Self::Array => Type::List(Box::new(Type::Any)),
            Self::Object => Type::Object { fields: BTreeMap::new(), open: true },
            Self::Secret => Type::Secret,
        }
    }
}

impl fmt::Display for VariableType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "anything",
            Self::String => "a string",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::Boolean => "a boolean",
            Self::Array => "an array",
            Self::Object => "an object",
            Self::DateTime => "a time as in RFC 3339",
            Self::Duration => "a length of time such as 1h30m",
            Self::Secret => "a sealed secret",
        })
    }
}

/// A variable of a workflow: given when a run starts, read in expressions as `vars.name`, changed by
/// steps that [set](crate::Step::set) it. Every value that it gets is checked.
///
/// ```
/// use serde_json::json;
/// use stepwell::workflow::{Variable, VariableType};
///
/// let retries = Variable::of(VariableType::Integer).default_value(3);
/// let region = Variable::of(VariableType::String).required();
/// let port = Variable::with_schema(json!({"type": "integer", "maximum": 65535}));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Variable {
    /// What values it takes.
    #[serde(rename = "type")]
    pub kind: VariableType,
    /// A JSON Schema that its values fit besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Json>,
    /// Its value when the run is started without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Json>"))]
    pub default: Option<Value>,
    /// Whether a run must be started with a value.
    #[serde(skip_serializing_if = "is_false")]
    pub required: bool,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl Variable {
    /// A variable of this type, null until it is given a value.
    #[must_use]
    pub fn of(kind: VariableType) -> Self {
        Self { kind, ..Default::default() }
    }

    /// A variable whose values fit this JSON Schema.
    #[must_use]
    pub fn with_schema(schema: Json) -> Self {
        Self { schema: Some(schema), ..Default::default() }
    }

    /// Its value when a run is started without one.
    #[must_use]
    pub fn default_value(mut self, value: impl Into<Value>) -> Self {
        self.default = Some(value.into());
        self
    }

    /// Runs must be started with a value.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }
}

/// Whether two types do not rule each other out. What stands in lists and objects is not looked at:
/// they may be empty.
fn same_kind(a: &Type, b: &Type) -> bool {
    let open = |of: &Type| matches!(of, Type::Any);
    open(a) || open(b) || std::mem::discriminant(a) == std::mem::discriminant(b)
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// The variables of a workflow, made ready to check values.
#[derive(Clone, Debug, Default)]
pub struct Variables(BTreeMap<String, Declared>);

#[derive(Clone, Debug)]
struct Declared {
    variable: Variable,
    schema: Option<Schema>,
}

impl Variables {
    /// Reads the declarations of a definition.
    pub(super) fn compile(declared: &BTreeMap<String, Variable>, problems: &mut Problems) -> Self {
        let mut all = BTreeMap::new();
        for (name, variable) in declared {
            let place = format!("variables.{name}");
            let schema = variable.schema.as_ref();
            let schema = schema.and_then(|s| read(s, &format!("{place}.schema"), problems));
            let declared = Declared { variable: variable.clone(), schema };
            if let Some(default) = &variable.default {
                let place = format!("{place}.default");
                if variable.kind == VariableType::Secret {
                    let message = "a secret does not belong into a definition";
                    let hint = "give it when a run is started";
                    problems.push(Problem::error(place, message).hint(hint));
                } else if let Err(wrong) = declared.check(name, default) {
                    problems.push(Problem::error(place, wrong.message));
                }
            }
            all.insert(name.clone(), declared);
        }
        Self(all)
    }

    /// What a run is given, with defaults, checked.
    ///
    /// # Errors
    /// The variable, what it expects and what was given.
    pub fn complete(&self, mut given: BTreeMap<String, Value>) -> Result<Value, Mismatch> {
        if self.0.is_empty() && given.is_empty() {
            return Ok(Value::NULL);
        }
        let mut all = Map::new();
        for (name, declared) in &self.0 {
            let variable = &declared.variable;
            let value = match (given.remove(name), &variable.default) {
                (Some(value), _) => value,
                (None, Some(default)) => default.clone(),
                (None, None) if variable.required => {
                    let message = format!("a value is required: {}", declared.expected());
                    return Err(Mismatch::new(format!("vars.{name}"), message));
                }
                (None, None) => Value::NULL,
            };
            declared.check(name, &value)?;
            all.insert(name.clone(), value.into_json());
        }
        match given.keys().next() {
            Some(unknown) => Err(self.unknown(unknown)),
            None if all.is_empty() => Ok(Value::NULL),
            None => Ok(Json::Object(all).into()),
        }
    }

    /// Whether a variable may be given this value.
    ///
    /// # Errors
    /// That there is no such variable, or what it expects and what was given.
    pub fn check(&self, name: &str, value: &Json) -> Result<(), Mismatch> {
        match self.0.get(name) {
            Some(declared) => declared.check(name, value),
            None => Err(self.unknown(name)),
        }
    }

    /// Why a variable cannot be given any value of which this is known; none if it may be.
    pub(super) fn misfit(&self, name: &str, given: &Type) -> Option<String> {
        let declared = self.0.get(name).filter(|declared| !declared.may_take(given))?;
        Some(format!("expected {}, given {given}", declared.expected()))
    }

    /// Whether there is a variable of this name.
    pub(crate) fn declares(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn unknown(&self, name: &str) -> Mismatch {
        let near = nearest(name, self.0.keys().map(String::as_str));
        let hint = near.map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
        Mismatch::new(format!("vars.{name}"), format!("there is no such variable{hint}"))
    }

    /// The names of all variables.
    pub(super) fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// What is known of all variables beforehand.
    pub(super) fn all_known(&self) -> Type {
        let fields = self.0.iter().map(|(name, declared)| (name.clone(), declared.known()));
        Type::Object { fields: fields.collect(), open: false }
    }

    /// The variables that must be given.
    pub(super) fn required(&self) -> impl Iterator<Item = &str> {
        let needed =
            |declared: &Declared| declared.variable.required && declared.variable.default.is_none();
        self.0.iter().filter(move |(_, declared)| needed(declared)).map(|(name, _)| name.as_str())
    }

    /// The names of all variables that are secrets.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let secret = |declared: &Declared| declared.variable.kind == VariableType::Secret;
        self.0.iter().filter(move |(_, declared)| secret(declared)).map(|(name, _)| name.as_str())
    }
}

impl Declared {
    fn expected(&self) -> String {
        match (&self.schema, self.variable.kind) {
            (Some(schema), VariableType::Any) => described(schema.source()),
            (_, kind) => kind.to_string(),
        }
    }

    fn check(&self, name: &str, value: &Json) -> Result<(), Mismatch> {
        // What need not be given is null until it is.
        if value.is_null() && !self.variable.required {
            return Ok(());
        }
        let path = format!("vars.{name}");
        if !self.variable.kind.admits(value) {
            let given = match self.variable.kind {
                // What was given in the clear is not repeated.
                VariableType::Secret => "something else".to_string(),
                _ => format!("{value:.40}"),
            };
            let message = format!("expected {}, given {given}", self.expected());
            return Err(Mismatch::new(path, message));
        }
        self.schema.as_ref().map_or(Ok(()), |schema| schema.check(value, &path))
    }

    fn may_take(&self, given: &Type) -> bool {
        let schema = self.schema.as_ref().map_or(&Type::Any, Schema::type_of);
        match given {
            Type::Any => true,
            Type::Null if !self.variable.required => true,
            _ => self.variable.kind.may_take(given) && same_kind(given, schema),
        }
    }

    fn known(&self) -> Type {
        // A variable without a value is null, which fits everything that takes null only.
        let optional = !self.variable.required && self.variable.default.is_none();
        match (&self.schema, self.variable.kind) {
            (_, VariableType::Secret) => Type::Secret,
            _ if optional => Type::Any,
            (Some(schema), VariableType::Any) => schema.type_of().clone(),
            (_, kind) => kind.known(),
        }
    }
}

/// What a schema takes, in words.
fn described(schema: &Json) -> String {
    let one = |name: &Json| {
        Some(match name.as_str()? {
            "string" => VariableType::String.to_string(),
            "integer" => VariableType::Integer.to_string(),
            "number" => VariableType::Number.to_string(),
            "boolean" => VariableType::Boolean.to_string(),
            "array" => VariableType::Array.to_string(),
            "object" => VariableType::Object.to_string(),
            other => other.to_string(),
        })
    };
    let found = match schema.get("type") {
        Some(Json::Array(types)) => types.iter().map(one).collect::<Option<Vec<_>>>(),
        Some(name) => one(name).map(|one| vec![one]),
        None => None,
    };
    match found.filter(|found| !found.is_empty()) {
        Some(found) => found.join(" or "),
        None => "a value that fits its schema".into(),
    }
}

/// Reads a schema of a definition.
pub(super) fn read(source: &Json, place: &str, problems: &mut Problems) -> Option<Schema> {
    match Schema::new(source) {
        Ok(schema) => {
            let unchecked = schema.unchecked();
            if !unchecked.is_empty() {
                let list = unchecked.join("`, `");
                let message = format!("`{list}` is only checked with the feature `schema`");
                problems.push(Problem::warning(place, message));
            }
            Some(schema)
        }
        Err(reason) => {
            problems.push(Problem::error(place, reason));
            None
        }
    }
}
