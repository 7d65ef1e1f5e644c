//! From text to a definition, with the place of every mistake.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

use super::foreign;
use crate::error::{Error, ErrorKind, Result};
use crate::workflow::Definition;

/// Bytes of a document. A step takes some hundred bytes, so this is a hundred thousand steps.
pub const DOCUMENT_BYTES_MAX: usize = 32 * 1024 * 1024;

pub(super) fn json(text: &str) -> Result<Definition> {
    fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            syntax(&path, error.inner())
        })?;
        deserializer.end().map_err(|error| syntax("", &error))?;
        Ok(parsed)
    }
    check_size(text)?;
    match parse::<Shape>(text)? {
        Shape::Steps => parse(text),
        Shape::Tasks => parse::<foreign::TasksDocument>(text).map(Into::into),
        Shape::List => parse::<foreign::ListDocument>(text).map(Into::into),
    }
}

#[cfg(feature = "yaml")]
pub(super) fn yaml(text: &str) -> Result<Definition> {
    fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
        let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
        let mut path = String::new();
        let parsed = serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
            serde_path_to_error::deserialize(yaml).map_err(|error| {
                path = error.path().to_string();
                error.into_inner()
            })
        });
        parsed.map_err(|error| syntax(&path, &error))
    }
    check_size(text)?;
    match parse::<Shape>(text)? {
        Shape::Steps => parse(text),
        Shape::Tasks => parse::<foreign::TasksDocument>(text).map(Into::into),
        Shape::List => parse::<foreign::ListDocument>(text).map(Into::into),
    }
}

fn check_size(text: &str) -> Result<()> {
    if text.len() <= DOCUMENT_BYTES_MAX {
        return Ok(());
    }
    let message =
        format!("the document has {} bytes; the limit is {DOCUMENT_BYTES_MAX}", text.len());
    Err(Error::new(ErrorKind::LimitExceeded, message))
}

/// Both parsers say line and column themselves.
fn syntax(path: &str, error: &impl fmt::Display) -> Error {
    // Some parsers add an excerpt of the source; the first line is the message.
    let text = error.to_string();
    let message = text.lines().next().unwrap_or_default();
    // Advice for programmers of that parser, not for authors of documents.
    let message = message.replace(", set DuplicateKeyPolicy in Options if acceptable", "");
    Error::new(
        ErrorKind::Syntax,
        match path {
            "" | "." | "?" => message,
            path => format!("{path}: {message}"),
        },
    )
}

/// Which of the three shapes a document has. Reading it also refuses repeated keys anywhere, which
/// the typed reading would take silently inside free-form parts.
enum Shape {
    Steps,
    Tasks,
    List,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Top;
        impl<'de> Visitor<'de> for Top {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a workflow: a map with `steps` or `tasks`, or a list of tasks")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                while seq.next_element::<UniqueKeys>()?.is_some() {}
                Ok(Shape::List)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
                let keys = unique_keys(&mut map)?;
                let tasks = keys.contains("tasks") && !keys.contains("steps");
                Ok(if tasks { Shape::Tasks } else { Shape::Steps })
            }
        }
        deserializer.deserialize_any(Top)
    }
}

fn unique_keys<'de, A: MapAccess<'de>>(map: &mut A) -> Result<HashSet<String>, A::Error> {
    let mut keys = HashSet::new();
    while let Some(key) = map.next_key::<String>()? {
        if keys.contains(&key) {
            return Err(de::Error::custom(format_args!("the key `{key}` is there twice")));
        }
        keys.insert(key);
        map.next_value::<UniqueKeys>()?;
    }
    Ok(keys)
}

/// Any value whose maps have no key twice.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Inner;
        impl<'de> Visitor<'de> for Inner {
            type Value = UniqueKeys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueKeys, A::Error> {
                unique_keys(&mut map).map(|_| UniqueKeys)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<UniqueKeys, A::Error> {
                while seq.next_element::<UniqueKeys>()?.is_some() {}
                Ok(UniqueKeys)
            }

            fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<UniqueKeys, D::Error> {
                UniqueKeys::deserialize(inner)
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                inner: D,
            ) -> Result<UniqueKeys, D::Error> {
                UniqueKeys::deserialize(inner)
            }

            fn visit_bool<E>(self, _: bool) -> Result<UniqueKeys, E> {
                Ok(UniqueKeys)
            }

            fn visit_i64<E>(self, _: i64) -> Result<UniqueKeys, E> {
                Ok(UniqueKeys)
            }

            fn visit_u64<E>(self, _: u64) -> Result<UniqueKeys, E> {
                Ok(UniqueKeys)
            }

            fn visit_f64<E>(self, _: f64) -> Result<UniqueKeys, E> {
                Ok(UniqueKeys)
            }

            fn visit_str<E>(self, _: &str) -> Result<UniqueKeys, E> {
                Ok(UniqueKeys)
            }

            fn visit_bytes<E>(self, _: &[u8]) -> Result<UniqueKeys, E> {
                Ok(UniqueKeys)
            }

            fn visit_unit<E>(self) -> Result<UniqueKeys, E> {
                Ok(UniqueKeys)
            }

            fn visit_none<E>(self) -> Result<UniqueKeys, E> {
                Ok(UniqueKeys)
            }

            fn visit_enum<A: de::EnumAccess<'de>>(self, data: A) -> Result<UniqueKeys, A::Error> {
                data.variant::<IgnoredAny>().map(|_| UniqueKeys)
            }
        }
        deserializer.deserialize_any(Inner)
    }
}
