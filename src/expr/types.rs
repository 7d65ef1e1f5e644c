//! Types of values, as far as they are known before anything runs.

use std::collections::BTreeMap;
use std::fmt;

use crate::value::Json;

/// What is known of a value beforehand.
///
/// ```
/// use serde_json::json;
/// use stepwell::expr::Type;
///
/// let schema = json!({"type": "object", "properties": {"coverage": {"type": "number"}}});
/// assert_eq!(Type::from_json_schema(&schema).field("coverage"), Some(&Type::Number));
/// assert_eq!(Type::from_json_schema(&json!(true)), Type::Any);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Type {
    /// Nothing is known.
    Any,
    /// Null.
    Null,
    /// True or false.
    Boolean,
    /// A number.
    Number,
    /// Text.
    Text,
    /// A sealed secret: handed on as a whole, and nothing else.
    Secret,
    /// A list of such values.
    List(Box<Type>),
    /// An object.
    Object {
        /// The fields that are known.
        fields: BTreeMap<String, Type>,
        /// Whether there may be others.
        open: bool,
    },
}

/// Schemas inside schemas that are read; deeper ones are `Any`.
const SCHEMA_DEPTH_MAX: usize = 16;

impl Type {
    /// What a JSON Schema says, as far as `type`, `properties`, `items` and
    /// `additionalProperties: false` say it; everything else is [`Type::Any`].
    #[must_use]
    pub fn from_json_schema(schema: &Json) -> Self {
        Self::at_depth(schema, 0)
    }

    fn at_depth(schema: &Json, depth: usize) -> Self {
        if depth >= SCHEMA_DEPTH_MAX {
            return Self::Any;
        }
        match schema.get("type").and_then(Json::as_str) {
            Some("null") => Self::Null,
            Some("boolean") => Self::Boolean,
            Some("number" | "integer") => Self::Number,
            Some("string") => Self::Text,
            Some("array") => {
                let items = schema.get("items").map_or(Self::Any, |s| Self::at_depth(s, depth + 1));
                Self::List(Box::new(items))
            }
            Some("object") => {
                let fields = schema.get("properties").and_then(Json::as_object).map(|properties| {
                    properties
                        .iter()
                        .map(|(k, s)| (k.clone(), Self::at_depth(s, depth + 1)))
                        .collect()
                });
                let closed = schema.get("additionalProperties") == Some(&Json::Bool(false));
                Self::Object { fields: fields.unwrap_or_default(), open: !closed }
            }
            _ => Self::Any,
        }
    }

    /// The type of a known field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object { fields, .. } => fields.get(name),
            _ => None,
        }
    }

    pub(super) fn may_be_number(&self) -> bool {
        matches!(self, Self::Any | Self::Number)
    }

    pub(super) fn may_be_text(&self) -> bool {
        matches!(self, Self::Any | Self::Text)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "anything",
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Secret => "a secret",
            Self::List(_) => "a list",
            Self::Object { .. } => "an object",
        })
    }
}
