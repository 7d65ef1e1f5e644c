//! The one data type that steps exchange.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The JSON value that a [`Value`] wraps.
pub type Json = serde_json::Value;

/// A shared, immutable JSON value: what runs, steps and signals carry.
///
/// Cloning copies a pointer, never the data; null takes no memory at all. It derefs to
/// [`serde_json::Value`], so all of that type's reading methods work.
///
/// ```
/// use serde_json::json;
/// use stepwell::Value;
///
/// let value = Value::from(json!({"coverage": 91.5}));
/// assert_eq!(value["coverage"], 91.5);
/// assert!(Value::NULL.is_null());
/// ```
#[derive(Clone, Default)]
pub struct Value(Option<Arc<Json>>);

static NULL: LazyLock<Json> = LazyLock::new(|| Json::Null);

impl Value {
    /// JSON null.
    pub const NULL: Self = Self(None);

    /// The value as plain JSON; copies the data when it is shared.
    #[must_use]
    pub fn into_json(self) -> Json {
        self.0.map_or(Json::Null, Arc::unwrap_or_clone)
    }

    /// The value as a type of yours.
    ///
    /// # Errors
    /// What `serde_json` says when the shapes do not agree.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&**self)
    }

    /// Any serialisable value as JSON.
    ///
    /// # Errors
    /// What `serde_json` says, for example of a map whose keys are not text.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_value(value).map(Self::from)
    }
}

/// The only field of a sealed secret.
pub(crate) const SEALED: &str = "$sealed";
/// The only field of a reference to a value that is kept elsewhere.
pub(crate) const BLOB: &str = "$blob";
/// In such a reference, the names of others that what is kept there refers to.
pub(crate) const HOLDS: &str = "holds";

/// Whether a value is a sealed secret.
pub(crate) fn is_sealed(value: &Json) -> bool {
    let fields = value.as_object().filter(|fields| fields.len() == 1);
    fields.and_then(|fields| fields.get(SEALED)).is_some_and(Json::is_string)
}

/// Whether a value stands for one that is kept elsewhere.
pub(crate) fn is_blob(value: &Json) -> bool {
    let fields = value.as_object().filter(|fields| fields.len() == 1);
    fields.is_some_and(|fields| fields.contains_key(BLOB))
}

/// Calls `f` with every reference to a value that is kept elsewhere, in order.
pub(crate) fn each_reference<'a>(value: &'a Json, f: &mut impl FnMut(&'a Json)) {
    match value {
        blob if is_blob(blob) => f(blob),
        Json::Array(items) => items.iter().for_each(|item| each_reference(item, f)),
        Json::Object(fields) => fields.values().for_each(|field| each_reference(field, f)),
        _ => {}
    }
}

/// The same with the name that each says, and with the names of those that this one refers to itself.
pub(crate) fn each_blob<'a>(value: &'a Json, f: &mut impl FnMut(&'a str, &'a [Json])) {
    each_reference(value, &mut |blob| {
        let inner = blob[BLOB][HOLDS].as_array();
        if let Some(name) = blob[BLOB]["name"].as_str() {
            f(name, inner.map_or(&[], Vec::as_slice));
        }
    });
}

/// Whether there is such a part somewhere in a value.
pub(crate) fn holds(value: &Json, is_such: fn(&Json) -> bool) -> bool {
    match value {
        part if is_such(part) => true,
        Json::Array(items) => items.iter().any(|item| holds(item, is_such)),
        Json::Object(fields) => fields.values().any(|field| holds(field, is_such)),
        _ => false,
    }
}

/// How many bytes a value takes as JSON, about: letters that have to be escaped count once.
pub(crate) fn bytes(value: &Json) -> usize {
    let mut total = 0_usize;
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        total += match value {
            Json::Null | Json::Bool(_) => 4,
            Json::Number(_) => 8,
            Json::String(text) => text.len() + 2,
            Json::Array(items) => {
                left.extend(items);
                items.len() + 2
            }
            Json::Object(fields) => {
                left.extend(fields.values());
                fields.keys().map(|name| name.len() + 4).sum::<usize>() + 2
            }
        };
    }
    total
}

/// How many bytes something takes as JSON.
pub(crate) fn bytes_as_json<T: Serialize>(thing: &T) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // What cannot be written is not kept either.
    let _ = serde_json::to_writer(&mut count, thing);
    count.0
}

/// How deep values may nest: what is read back from a journal may nest 127 deep, and much that walks
/// a value recurses.
pub const NESTING_MAX: usize = 100;

/// What is wrong with a value's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooBig {
    /// It nests deeper than [`NESTING_MAX`].
    Deep,
    /// It holds more than was asked for.
    Many,
}

/// How many values a value holds, itself included; a text counts one for each 64 bytes more.
pub(crate) fn weigh(value: &Json, most: usize) -> Result<usize, TooBig> {
    let mut weight = 0_usize;
    let mut left = vec![(value, 1)];
    while let Some((value, depth)) = left.pop() {
        weight += 1;
        if depth > NESTING_MAX {
            return Err(TooBig::Deep);
        }
        match value {
            Json::String(text) => weight += text.len() / 64,
            Json::Array(items) => left.extend(items.iter().map(|item| (item, depth + 1))),
            Json::Object(fields) => left.extend(fields.values().map(|field| (field, depth + 1))),
            Json::Null | Json::Bool(_) | Json::Number(_) => {}
        }
        if weight + left.len() > most {
            return Err(TooBig::Many);
        }
    }
    Ok(weight)
}

impl Value {
    /// How many bytes it takes as JSON, about.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        match &**self {
            Json::Null | Json::Bool(_) => 4,
            Json::Number(_) => 8,
            Json::String(text) => text.len() + 2,
            composed => bytes(composed),
        }
    }

    /// Whether it nests deeper than [`NESTING_MAX`], which no run accepts.
    #[must_use]
    #[inline]
    pub fn nests_too_deep(&self) -> bool {
        let plain = !matches!(**self, Json::Array(_) | Json::Object(_));
        !plain && weigh(self, usize::MAX) == Err(TooBig::Deep)
    }
}

impl Deref for Value {
    type Target = Json;

    fn deref(&self) -> &Json {
        match &self.0 {
            Some(json) => json,
            None => &NULL,
        }
    }
}

impl From<Json> for Value {
    fn from(json: Json) -> Self {
        if json.is_null() { Self::NULL } else { Self(Some(Arc::new(json))) }
    }
}

macro_rules! value_from {
    ($($type:ty),*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Json::from(value).into()
            }
        }
    )*};
}
value_from!(bool, i32, i64, u32, u64, usize, f64, &str, String, Vec<Json>, serde_json::Map<String, Json>);

impl From<()> for Value {
    fn from((): ()) -> Self {
        Self::NULL
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            (None, None) => true,
            _ => false,
        }
    }
}

macro_rules! value_eq {
    ($($type:ty),*) => {$(
        /// Compares as `serde_json::Value` does.
        impl PartialEq<$type> for Value {
            fn eq(&self, other: &$type) -> bool {
                **self == *other
            }
        }
    )*};
}
value_eq!(Json, str, &str, String, bool, i32, i64, u32, u64, f64);

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Json::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cloning_shares_and_null_is_free() {
        let value = Value::from(vec![Json::from(1)]);
        assert!(std::ptr::eq(&*value, &*value.clone()));
        assert_eq!(Value::from(Json::Null), Value::NULL);
        assert_eq!(size_of::<Value>(), size_of::<usize>());
    }
}
