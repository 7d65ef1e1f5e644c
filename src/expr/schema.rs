//! JSON Schemas of inputs, outputs, variables and payloads, made ready to check values.

use std::fmt;
use std::sync::Arc;

use super::Type;
use crate::value::Json;

/// A JSON Schema, made ready to check values.
///
/// With the feature `schema` all of JSON Schema (draft 2020-12 unless it names another) is checked;
/// references to other documents are not followed. Without it only `type`, `properties`, `items`
/// and `additionalProperties: false` are, and building a workflow warns of everything else.
///
/// ```
/// use serde_json::json;
/// use stepwell::expr::Schema;
///
/// let schema = Schema::new(&json!({"type": "object", "properties": {"age": {"type": "number"}}}))?;
/// assert!(schema.check(&json!({"age": 7}), "input").is_ok());
/// let wrong = schema.check(&json!({"age": "old"}), "input").unwrap_err();
/// assert_eq!(wrong.path, "input.age");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone)]
pub struct Schema(Arc<Compiled>);

struct Compiled {
    source: Json,
    found: Type,
    #[cfg(feature = "schema")]
    validator: jsonschema::Validator,
}

/// Where a value does not fit a schema, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
#[non_exhaustive]
pub struct Mismatch {
    /// Where in the value, as in `vars.user.age`.
    pub path: String,
    /// What was expected and what was given.
    pub message: String,
}

impl Mismatch {
    pub(crate) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// Letters of a mismatch that are kept; it may quote a value of any size.
const MESSAGE_CHARS_MAX: usize = 300;

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(source: &Json) -> Result<Self, String> {
        if !source.is_object() && !source.is_boolean() {
            return Err("a JSON Schema is an object, or true or false".into());
        }
        Ok(Self(Arc::new(Compiled {
            source: source.clone(),
            found: Type::from_json_schema(source),
            // Patterns run in linear time, whatever they are.
            #[cfg(feature = "schema")]
            validator: jsonschema::options()
                .with_pattern_options(jsonschema::PatternOptions::regex())
                .build(source)
                .map_err(|error| clip(&error.to_string()))?,
        })))
    }

    /// The schema as it was written.
    #[must_use]
    pub fn source(&self) -> &Json {
        &self.0.source
    }

    /// What it says about types.
    #[must_use]
    pub fn type_of(&self) -> &Type {
        &self.0.found
    }

    /// Whether a value fits; `root` is what the value is called.
    ///
    /// # Errors
    /// The first place where it does not.
    #[cfg(feature = "schema")]
    pub fn check(&self, value: &Json, root: &str) -> Result<(), Mismatch> {
        match self.0.validator.validate(value) {
            Ok(()) => Ok(()),
            Err(error) => {
                let path = dotted(root, error.instance_path().as_str());
                Err(Mismatch::new(path, clip(&error.to_string())))
            }
        }
    }

    /// Whether a value fits; `root` is what the value is called.
    ///
    /// # Errors
    /// The first place where it does not.
    #[cfg(not(feature = "schema"))]
    pub fn check(&self, value: &Json, root: &str) -> Result<(), Mismatch> {
        self.0.found.admits(value, root)
    }

    /// Keywords that this build does not check.
    pub(crate) fn unchecked(&self) -> Vec<String> {
        let known = ["type", "properties", "items", "additionalProperties"];
        let notes = ["$schema", "$id", "$comment", "title", "description", "default", "examples"];
        if cfg!(feature = "schema") {
            return Vec::new();
        }
        let (mut found, mut left) = (Vec::new(), vec![self.source()]);
        while let Some(schema) = left.pop() {
            for (keyword, value) in schema.as_object().into_iter().flatten() {
                match keyword.as_str() {
                    "properties" => {
                        left.extend(value.as_object().into_iter().flat_map(|p| p.values()))
                    }
                    "items" => left.push(value),
                    other if known.contains(&other) || notes.contains(&other) => {}
                    other if !found.iter().any(|known| known == other) => {
                        found.push(other.to_string())
                    }
                    _ => {}
                }
            }
        }
        found.sort();
        found
    }
}

/// A path as expressions write it, from a JSON Pointer (RFC 6901).
#[cfg(feature = "schema")]
fn dotted(root: &str, pointer: &str) -> String {
    let mut path = root.to_string();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        let plain = part.chars().all(|c| c.is_alphanumeric() || c == '_');
        match part.parse::<usize>() {
            Ok(index) => path.push_str(&format!("[{index}]")),
            Err(_) if plain => path.push_str(&format!(".{part}")),
            Err(_) => path.push_str(&format!("[{part:?}]")),
        }
    }
    path
}

fn clip(text: &str) -> String {
    if text.chars().count() <= MESSAGE_CHARS_MAX {
        return text.to_string();
    }
    let kept: String = text.chars().take(MESSAGE_CHARS_MAX / 2).collect();
    let skip = text.chars().count() - MESSAGE_CHARS_MAX / 2;
    let end: String = text.chars().skip(skip).collect();
    format!("{kept} ... {end}")
}

#[cfg(not(feature = "schema"))]
impl Type {
    /// Whether a value is of this type; `root` is what the value is called.
    pub(crate) fn admits(&self, value: &Json, root: &str) -> Result<(), Mismatch> {
        let fits = match self {
            Self::Any => true,
            Self::Null => value.is_null(),
            Self::Boolean => value.is_boolean(),
            Self::Number => value.is_number(),
            Self::Text => value.is_string(),
            Self::Secret => crate::value::is_sealed(value),
            Self::List(of) => match value.as_array() {
                Some(items) => {
                    let mut items = items.iter().enumerate();
                    return items
                        .try_for_each(|(at, item)| of.admits(item, &format!("{root}[{at}]")));
                }
                None => false,
            },
            Self::Object { fields, open } => match value.as_object() {
                Some(given) => {
                    for (name, value) in given {
                        let path = format!("{root}.{name}");
                        match fields.get(name) {
                            Some(of) => of.admits(value, &path)?,
                            None if !open => {
                                return Err(Mismatch::new(path, "there is no such field"));
                            }
                            None => {}
                        }
                    }
                    return Ok(());
                }
                None => false,
            },
        };
        let message = || format!("expected {self}, given {}", clip(&value.to_string()));
        if fits { Ok(()) } else { Err(Mismatch::new(root, message())) }
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({})", self.0.source)
    }
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.0.source == other.0.source
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mismatch_names_the_place() {
        let user = json!({"type": "object", "properties": {"tags": {
            "type": "array", "items": {"type": "string"}}}, "additionalProperties": false});
        let schema = Schema::new(&user).unwrap();
        assert!(schema.check(&json!({"tags": ["a"]}), "vars.user").is_ok());
        let wrong = schema.check(&json!({"tags": ["a", 5]}), "vars.user").unwrap_err();
        assert_eq!(wrong.path, "vars.user.tags[1]");
        assert!(wrong.message.contains('5'), "{wrong}");
        assert!(schema.check(&json!({"x": 1}), "vars.user").is_err());
        let long = schema.check(&json!("x".repeat(10_000)), "v").unwrap_err();
        assert!(long.message.len() < 500, "{}", long.message.len());
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        assert!(Schema::new(&json!(5)).is_err());
    }
}
